"""Steps in the order of their needs. A step that fails takes with it those that need it, and no other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from metalearn.mistakes import Work, describe


@runtime_checkable
class Step(Protocol):
    """What a graph is made of; hashable."""

    @property
    def name(self) -> str:
        """Words for it."""

    @property
    def needs(self) -> Sequence[Any]:
        """Steps that come before it."""


S = TypeVar("S", bound=Step)
T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why there is no outcome of a step."""

    message: str


class Graph(Generic[S]):
    """Which steps can begin, and which never will. ``outcomes``: what is known of earlier starts."""

    def __init__(self, steps: Iterable[S], outcomes: dict[S, Any]):
        self.outcomes: dict[S, Any] = dict(outcomes)
        self.waiting = [step for step in dict.fromkeys(steps) if step not in self.outcomes]

    def next(self) -> S | None:
        """Take the first step that can begin; None where all that wait need one that is being done."""
        for place, step in enumerate(self.waiting):
            if all(need in self.outcomes for need in step.needs):
                return self.waiting.pop(place)
        return None

    def failed_need(self, step: S) -> Failure | None:
        """Why a step cannot be done: a step that it needs failed."""
        failures = (self.outcomes[need] for need in step.needs)
        return next((one for one in failures if isinstance(one, Failure)), None)


def in_turn(
    graph: Graph[S], do: Callable[[S], Any], show: Callable[[Sequence[S]], None]
) -> Iterator[tuple[S, Any]]:
    """Do every step here; yield each with its outcome or Failure. ``show`` is told which is begun."""
    while (step := graph.next()) is not None:
        show([step])
        outcome = graph.failed_need(step) or attempt(do, step)
        graph.outcomes[step] = outcome
        yield step, outcome


def attempt(do: Callable[[T], Any], step: T) -> Any:
    """What comes of doing a step, or something else; a Failure that says what went wrong. An interrupt passes."""
    try:
        return do(step)
    except Exception as error:
        words = describe(error, Work()) or f"{type(error).__name__}: {error}"
        return Failure(words.removeprefix("error: "))
