"""How far a job is and how long it still takes, on stderr: a bar on a terminal, else a plain line now and then."""

import sys
import time
from collections.abc import Callable
from typing import Any

LINE_SECONDS = 10.0
BRIEF_SECONDS = 1.0  # a job shorter than this gets no line


class Progress:
    """Null object and interface: ``progress(done, total, text)``; `total` is 0 where it is not known.

    A smaller `done` than before or another `total` begins a new job, from which time left is reckoned.
    """

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` steps of the job described by `text` are done."""

    def report(self, what: str, done: int, total: int) -> None:
        """Show the same, in the order in which ``tasks`` reports."""
        self(done, total, what)

    def close(self) -> None:
        """Take the display away."""


class _Pace:
    """Seconds left of the present job, from its pace since it was first seen."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._total = self._done = self._first = -1
        self.began = 0.0

    def seconds_left(self, done: int, total: int) -> tuple[bool, float | None]:
        """Whether a new job begins, and its seconds left; None where no pace is known yet."""
        new = total != self._total or done < self._done
        if new:
            self._total, self._first, self.began = total, done, self._clock()
        self._done = done
        gained = done - self._first
        left = (self._clock() - self.began) / gained * (total - done) if gained > 0 and total > 0 else None
        return new, left


class Lines(Progress):
    """A line each `every` seconds, one at the end of a job that is not brief: ``text: 120/800, 15 %, 2 min left``."""

    def __init__(self, every: float = LINE_SECONDS, clock: Callable[[], float] = time.monotonic):
        self._every, self._clock = every, clock
        self._pace = _Pace(clock)
        self._shown = clock()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Print the line if it is due."""
        new, left = self._pace.seconds_left(done, total)
        finished = done == total and self._clock() - self._pace.began >= BRIEF_SECONDS
        if not finished and self._clock() - self._shown < self._every:
            return
        self._shown = self._clock()
        parts = [f"{done}/{total}", f"{100 * done // total} %"] if total > 0 else [str(done)]
        parts += [f"{duration(left)} left"] if left is not None and not finished else []
        print(f"{text}: {', '.join(parts)}", file=sys.stderr, flush=True)


class Bar(Progress):
    """One bar of rich on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
        left = TextColumn("{task.fields[left]}", markup=False)
        self._bar = RichProgress(*columns, left, console=Console(stderr=True), transient=True)
        self._pace = _Pace(time.monotonic)
        self._task: Any = None

    def __call__(self, done: int, total: int, text: str) -> None:
        """Move the bar."""
        new, seconds = self._pace.seconds_left(done, total)
        left = f"{duration(seconds)} left" if seconds is not None else ""
        if new:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(text, total=total or None, left=left)
            self._bar.start()
        self._bar.update(self._task, completed=done, description=text, left=left)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def duration(seconds: float) -> str:
    """``45 s``, ``2 min 10 s``, ``3 h 5 min``: two units at most, for people."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def make_progress(quiet: bool) -> Progress:
    """Nothing when `quiet`, a bar when stderr is a terminal, else lines."""
    if quiet:
        return Progress()
    return Bar() if sys.stderr.isatty() else Lines()
