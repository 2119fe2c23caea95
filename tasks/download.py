"""Fetch one file: resumed after a cut, checksummed, renamed into place when complete."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tasks.errors import DataError
from tasks.progress import Progress, silent

_PIECE = 1 << 16
_ATTEMPTS = 4


class _Cut(Exception):
    """The transfer broke off; what has arrived is kept, so trying again is worth it."""


def download(
    url: str, path: Path, md5: str, *, report: Progress = silent, timeout: float = 30.0, pause: float = 1.0
) -> None:
    """Fetch ``url`` to ``path``, through ``path`` + ``.part``, which a later call continues by HTTP Range.

    md5: 32 hexadecimal digits that the complete file must have. ``report`` gets bytes done and in all (0:
    unknown). ``timeout`` and ``pause`` between attempts are in seconds. Raises DataError when the server
    cannot be reached or keeps cutting, when it refuses, when the checksum is wrong (the file is then removed)
    and when the disk is full.
    """
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        try:
            _continue(url, partial, report, timeout)
            break
        except _Cut as cut:
            if attempt == _ATTEMPTS - 1:
                raise DataError(f"cannot download {url}: {cut}; run again to continue from there") from cut
            time.sleep(pause * 2**attempt)
    found = _md5(partial)
    if found != md5:
        partial.unlink()
        raise DataError(
            f"{url} arrived with md5 {found}, expected {md5}; it was removed: try again, or fetch it by hand"
        )
    os.replace(partial, path)


def _continue(url: str, partial: Path, report: Progress, timeout: float) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing follows: complete, or wrong as the checksum will tell
            return
        if error.code >= 500:
            raise _Cut(f"the server answered {error.code} {error.reason}") from error
        raise DataError(f"cannot download {url}: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Cut(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"no connection ({error})") from error
    with response:
        given = response.headers.get("Content-Range", "")
        resumed = response.status == 206 and given.startswith(f"bytes {have}-")
        have = have if resumed else 0
        total = have + int(response.headers.get("Content-Length") or 0)
        try:
            with partial.open("ab" if resumed else "wb") as file:
                _receive(response, file, have, total, lambda done: report(f"download {url}", done, total))
        except OSError as error:
            raise DataError(
                f"cannot write {partial}: {error.strerror or error}; free space or choose another data root"
            ) from error


def _receive(
    response: http.client.HTTPResponse, file: BinaryIO, have: int, total: int, report: Callable[[int], None]
) -> None:
    while True:
        try:
            piece = response.read(_PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(f"the connection broke after {have} of {total} bytes ({error})") from error
        if not piece:
            break
        file.write(piece)
        have += len(piece)
        report(have)
    if have < total:
        raise _Cut(f"the connection broke after {have} of {total} bytes")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
