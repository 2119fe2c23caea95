"""Files that are whole or not there: written beside their place and renamed; what a killed process left is removed."""

import contextlib
import fcntl
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then rename it over ``path``.

    On any error (a full disk, an interrupt) the file that stood at ``path`` survives and the temporary is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with _created(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a failed write does not say of what
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove temporaries of ``write_atomic``, at any depth below ``folder``, whose process was killed.

    A process that still writes holds a lock on its file, which the system gives free when the process ends.
    """
    for path in folder.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError), path.open("rb+") as file:  # in use, or in a folder that is read-only
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _created(temporary: Path) -> BinaryIO:
    """Open a new file, locked as long as it is open, where the file system has locks."""
    while True:
        file = open(temporary, "xb")  # mode by the umask, which cannot be read without changing it  # noqa: SIM115
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # taken for a leftover before it was locked
