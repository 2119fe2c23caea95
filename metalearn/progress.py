"""How far a job is and how long it still takes, on stderr: a bar or table on a terminal, else a plain line at times."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from metalearn.standing import Pace, Standing, time_left

LINE_SECONDS = 10.0
BRIEF_SECONDS = 1.0  # a job shorter than this gets no line


@runtime_checkable
class Follower(Protocol):
    """What follows the steps of a benchmark (`metalearn.watch.Watch`), as a display needs it."""

    def standing(self) -> Standing:
        """How far all is now."""

    def told_here(self, done: int, total: int, text: str) -> None:
        """Take how far the step is that this process does by itself."""


class Progress:
    """Null object and interface: ``progress(done, total, text)``; `total` is 0 where it is not known.

    A smaller `done` than before or another `total` begins a new job, from which time left is reckoned.
    """

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` steps of the job described by `text` are done."""

    def report(self, what: str, done: int, total: int) -> None:
        """Show the same, in the order in which ``tasks`` reports."""
        self(done, total, what)

    @contextmanager
    def following(self, watch: Follower) -> Iterator[None]:
        """Inside, steps of a benchmark are done, which `watch` follows."""
        yield

    def steps(self, watch: Follower) -> None:
        """Show how far the steps are; called now and then."""

    def close(self) -> None:
        """Take the display away."""


class Lines(Progress):
    """A line each `every` seconds, one at the end of a job that is not brief: ``text: 120/800, 15 %, 2 min left``."""

    def __init__(self, every: float = LINE_SECONDS, clock: Callable[[], float] = time.monotonic):
        self._every, self._clock = every, clock
        self._pace = Pace(clock)
        self._shown = clock()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Print the line if it is due."""
        _, left = self._pace.seconds_left(done, total)
        finished = done == total and self._clock() - self._pace.began >= BRIEF_SECONDS
        if not finished and not self._due():
            return
        parts = [f"{done}/{total}", f"{100 * done // total} %"] if total > 0 else [str(done)]
        parts += [time_left(left)] if left is not None and not finished else []
        self._print(f"{text}: {', '.join(parts)}")

    def steps(self, watch: Follower) -> None:
        """Print the line of the steps if one is due."""
        if self._due():
            self._print(watch.standing().line())

    def _due(self) -> bool:
        return self._clock() - self._shown >= self._every

    def _print(self, line: str) -> None:
        self._shown = self._clock()
        print(line, file=sys.stderr, flush=True)


class Bar(Progress):
    """One bar of rich on stderr; while it follows the steps of a benchmark, their table instead."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
        left = TextColumn("{task.fields[left]}", markup=False)
        self._bar = RichProgress(*columns, left, console=Console(stderr=True), transient=True)
        self._pace = Pace(time.monotonic)
        self._task: Any = None
        self._watch: Follower | None = None

    def __call__(self, done: int, total: int, text: str) -> None:
        """Move the bar, or that of the one step in the table."""
        if self._watch is not None:
            self._watch.told_here(done, total, text)
            return
        new, seconds = self._pace.seconds_left(done, total)
        left = time_left(seconds)
        if new:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(text, total=total or None, left=left)
            self._bar.start()
        self._bar.update(self._task, completed=done, description=text, left=left)

    @contextmanager
    def following(self, watch: Follower) -> Iterator[None]:
        """Inside, the table stands in place of the bar."""
        from metalearn.live import live_table

        self.close()
        self._watch = watch
        try:
            with live_table(watch.standing):
                yield
        finally:
            self._watch = None

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def make_progress(quiet: bool) -> Progress:
    """Nothing when `quiet`, bar and table when stderr is a terminal that can move its cursor, else lines."""
    if quiet:
        return Progress()
    moves = sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return Bar() if moves else Lines()
