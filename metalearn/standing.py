"""How far a job, or the steps of a benchmark, are: pace, time left, and what a display shows of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass


class Pace:
    """Seconds left of the present job, from its pace since it was first seen.

    A smaller `done` than before or another `total` begins a new job.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
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


def duration(seconds: float) -> str:
    """``45 s``, ``2 min 10 s``, ``3 h 5 min``: two units at most, for people."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float | None) -> str:
    """``2 min 10 s left``, nothing where that is not known."""
    return "" if seconds is None else f"{duration(seconds)} left"


@dataclass(frozen=True)
class Doing:
    """A step that is being done, and how far its present job is; `total` is 0 and `text` empty where it told none."""

    name: str
    text: str
    done: int
    total: int
    left: float | None

    def __str__(self) -> str:
        return f"{self.name} ({self.text}, {self.done}/{self.total})" if self.text else self.name


@dataclass(frozen=True)
class Measured:
    """A cell that was measured: mean accuracy and half the width of its 95 % interval, fractions."""

    name: str
    accuracy: float
    half_width: float

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.2f} ± {100 * self.half_width:.2f} %"


@dataclass(frozen=True)
class Standing:
    """How far a benchmark is: its steps, its cells, what is being done, seconds left, cells measured, the last first.

    `left` is None while there is no step of a kind that waits from which it could be told.
    """

    steps: int
    steps_done: int
    steps_failed: int
    done: int
    failed: int
    waiting: int
    doing: tuple[Doing, ...]
    left: float | None
    measured: tuple[Measured, ...]

    def line(self) -> str:
        """The same in a line: ``steps: vae/seed0 (epoch 2/15, 30/400): 3/20, 15 %, 2 min left``."""
        failed = f", {self.steps_failed} failed" if self.steps_failed else ""
        parts = [f"{self.steps_done}/{self.steps}", f"{100 * self.steps_done // self.steps} %"] if self.steps else ["0"]
        parts += [time_left(self.left)] if self.left is not None else []
        return f"steps{failed}: {', '.join(map(str, self.doing)) or 'none'}: {', '.join(parts)}"
