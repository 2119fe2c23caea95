"""Follows the steps of a benchmark while they are done, here or in other processes, and says how far they are."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from metalearn.graph import Failure, Graph
from metalearn.standing import Doing, Measured, Pace, Standing

MEASURED = 5  # cells measured last that are remembered
Alike = Callable[[Any], Sequence[Hashable]]
"""What a step has in common with others that take about as long, the closest first."""


@runtime_checkable
class Watched(Protocol):
    """A cell as the watch needs it."""

    def failure(self, outcomes: Mapping[Any, Any]) -> Failure | None:
        """Why it was not measured, None if it was or waits."""


@dataclass
class _Now:
    """A step that is being done: when it began, and of its present job what it told last, when, and seconds left."""

    began: float
    pace: Pace
    done: int = 0
    total: int = 0
    text: str = ""
    at: float = 0.0
    left: float | None = None


class Watch:
    """How far the steps of `graph` are, and the `cells` that they are for; `kept` others were measured before.

    It is told by whoever does the steps: ``show``, which are being done; ``told``, how far one of them is; ``ended``;
    ``measured``. Another thread may ask for ``standing``.
    """

    def __init__(
        self,
        graph: Graph[Any],
        alike: Alike,
        cells: Sequence[Watched],
        kept: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._graph, self._alike, self._cells, self._kept, self._clock = graph, alike, cells, kept, clock
        self._steps = len(graph.waiting) + len(graph.outcomes)
        self._busy: dict[Any, _Now] = {}
        self._at_once = 1  # steps, the most seen
        self._seconds: dict[Hashable, list[float]] = {}
        self._last: deque[Measured] = deque(maxlen=MEASURED)
        self._done = self._failed = 0
        self._lock = threading.RLock()
        for step, outcome in graph.outcomes.items():  # of earlier starts
            self._note(step, outcome.seconds)

    def show(self, busy: Sequence[Any]) -> None:
        """Take which steps are being done now."""
        with self._lock:
            clock = self._clock()
            self._busy = {step: self._busy.get(step) or _Now(clock, Pace(self._clock)) for step in busy}
            self._at_once = max(self._at_once, len(busy))

    def told(self, step: Any, done: int, total: int, text: str) -> None:
        """Take how far the present job of a step is; what stands before the last colon of `text` are names."""
        with self._lock:
            if (now := self._busy.get(step)) is not None:
                now.done, now.total, now.text, now.at = done, total, text.rpartition(": ")[2], self._clock()
                now.left = now.pace.seconds_left(done, total)[1]

    def told_here(self, done: int, total: int, text: str) -> None:
        """The same of the one step that this process does by itself."""
        with self._lock:
            for step in list(self._busy)[:1]:
                self.told(step, done, total, text)

    def ended(self, step: Any, outcome: Any) -> None:
        """Take what came of a step."""
        with self._lock:
            now = self._busy.pop(step, None)
            if isinstance(outcome, Failure):
                self._failed = sum(cell.failure(self._graph.outcomes) is not None for cell in self._cells)
            elif now is not None:
                self._note(step, self._clock() - now.began)

    def measured(self, name: str, accuracy: float, half_width: float) -> None:
        """Take what was measured of a cell, fractions."""
        with self._lock:
            self._done += 1
            self._last.appendleft(Measured(name, accuracy, half_width))

    def standing(self) -> Standing:
        """How far all is now."""
        with self._lock:
            outcomes = list(self._graph.outcomes.values())
            return Standing(
                steps=self._steps, steps_done=len(outcomes),
                steps_failed=sum(isinstance(one, Failure) for one in outcomes),
                done=self._kept + self._done, failed=self._failed,
                waiting=len(self._cells) - self._done - self._failed,
                doing=tuple(
                    Doing(step.name, now.text, now.done, now.total, self._left(step, {}))
                    for step, now in self._busy.items()
                ),
                left=self._all_left(), measured=tuple(self._last),
            )  # fmt: skip

    def _note(self, step: Any, seconds: float) -> None:
        for kind in self._alike(step):
            self._seconds.setdefault(kind, []).append(seconds)

    def _expected(self, step: Any, projected: Mapping[Hashable, float]) -> float | None:
        """Seconds of a step: the mean of finished ones most like it, else what one will take that is being done."""
        for kind in self._alike(step):
            if (finished := self._seconds.get(kind)) is not None:
                return sum(finished) / len(finished)
            if kind in projected:
                return projected[kind]
        return None

    def _left(self, step: Any, projected: Mapping[Hashable, float]) -> float | None:
        """Seconds left of a step that is being done: by the pace of its present job, else by what is expected."""
        now, clock = self._busy[step], self._clock()
        if now.left is not None:
            return max(0.0, now.left - (clock - now.at))
        expected = self._expected(step, projected)
        return None if expected is None else max(0.0, expected - (clock - now.began))

    def _all_left(self) -> float | None:
        """Seconds left of all steps, done as many at once as were seen; not below that of a single one being done."""
        projected = {
            kind: now.at - now.began + now.left
            for step, now in self._busy.items() if now.left is not None for kind in self._alike(step)
        }  # fmt: skip
        doing = [self._left(step, projected) for step in self._busy]
        waiting = [self._expected(step, projected) for step in list(self._graph.waiting) if self._can_begin(step)]
        known = [one for one in [*doing, *waiting] if one is not None]
        if len(known) < len(doing) + len(waiting):
            return None
        return max([sum(known) / self._at_once, *known[: len(doing)]], default=0.0)

    def _can_begin(self, step: Any) -> bool:
        """Whether a step that waits will be done: not where one that it needs failed."""
        needed = (self._graph.outcomes.get(need) for need in step.needs)
        return step not in self._busy and not any(isinstance(one, Failure) for one in needed)
