"""The one place where an exception becomes a line on stderr and an exit status. Imports nothing heavy."""

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gvae.errors import ModelError
from metalearn.errors import DataError, UserError
from metalearn.processes import speaks

MISTAKE = 2
INTERRUPTED = 130
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Stop(Exception):
    """The command is over: leave with `status`; what there was to say is said."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


@dataclass
class Work:
    """What a command is at, so that an error can say how to go on."""

    run: Path | None = None

    def go_on(self) -> str:
        """How to go on later."""
        return f"go on by: metalearn resume {self.run}" if self.run is not None else "start again"


@contextmanager
def explained(debug: bool) -> Iterator[Work]:
    """Turn what a user can get wrong inside the block into a message on stderr and `Stop`.

    Mistakes in configs, data, models and the file system end with status 2, an interrupt with 130; `debug` shows
    the traceback too. Anything else is a bug and passes through. Of processes that were started together only the first
    that fails says so: the others have made the same mistake, or miss it.
    """
    work = Work()
    try:
        yield work
    except (Exception, KeyboardInterrupt) as error:
        if not speaks():
            raise Stop(MISTAKE) from None
        message = describe(error, work)
        if message is None:
            raise
        if debug:
            traceback.print_exc()
        print(message, file=sys.stderr)
        raise Stop(INTERRUPTED if isinstance(error, KeyboardInterrupt) else MISTAKE) from None


def describe(error: BaseException, work: Work) -> str | None:
    """Words for `error`, None if it is no user's mistake."""
    if isinstance(error, KeyboardInterrupt):
        return f"\ninterrupted; {work.go_on()}"
    if isinstance(error, UserError | DataError | ModelError):
        return f"error: {error}"
    full = _disk_full(error)
    if full is not None:
        place = full.filename or work.run or "a file"
        return f"error: disk full while writing {place}; the previous checkpoint is safe; free space, {work.go_on()}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; torch is not imported here
        return f"error: out of device memory ({first_line(error)}); give a smaller batch_size or --device cpu"
    if isinstance(error, OSError) and error.filename:
        return f"error: {error.filename}: {error.strerror}"
    return None


def first_line(error: BaseException) -> str:
    """First line of the error's text."""
    return str(error).partition("\n")[0].rstrip(".")


def _disk_full(error: BaseException | None) -> OSError | None:
    """The error, or the one behind it (torch.save wraps its own), that says the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
