"""metrics.jsonl, the text record of a run: one JSON object a line, none twice, also after a resume."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from gvae.atomic import write_atomic


class Record:
    """Appends rows ``{"scope", "step", "time", name: value...}`` to `path`; each is on disk's way before the next.

    A last line torn by a crash is dropped on opening. `time` is in seconds since 1970; a value that is not
    finite is written as null. Raises OSError with the file's name if the disk is full.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stream: IO[str] | None = None
        self._drop_torn_line()

    def append(self, scope: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row."""
        row: dict[str, Any] = {"scope": scope, "step": step, "time": round(time.time(), 3)}
        row |= {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        try:
            if self._stream is None:
                self._stream = self.path.open("a", encoding="utf-8")
            self._stream.write(json.dumps(row, allow_nan=False) + "\n")
            self._stream.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def drop_from(self, scope: str, step: int) -> bool:
        """Drop the rows of `scope` from `step` on, as a resumed run will write them again. True if there were any."""
        rows = read_metrics(self.path)
        kept = [row for row in rows if row["scope"] != scope or row["step"] < step]
        if len(kept) < len(rows):
            self.close()
            text = "".join(json.dumps(row) + "\n" for row in kept)
            write_atomic(self.path, lambda stream: stream.write(text.encode()))
        return len(kept) < len(rows)

    def close(self) -> None:
        """Close the file; the next row opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _drop_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, whole lines only; none if there is no such file."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines if line.strip()]
