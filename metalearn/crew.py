"""Workers that do the steps of a graph, wherever they are: what is begun, heard and tried again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from metalearn.graph import Failure, Graph, S

TRIES = 2  # of a step whose worker was lost


@dataclass(frozen=True)
class Told:
    """What a step tells while it is done: the name of a scope, and arguments that can be pickled."""

    scope: str
    told: tuple[Any, ...]


@dataclass(frozen=True)
class Lost:
    """A worker ended before its step was done. ``message``: a failure's words, where it was the last try."""

    message: str


@dataclass(frozen=True)
class Done:
    """What came of a step: its outcome or a Failure."""

    outcome: Any


News = Told | Lost | Done


class Crew(ABC, Generic[S]):
    """Does the steps of a graph by several workers; those who inherit say what a worker is.

    ``tell``: takes what a step tells; ``again`` is told to the step's own scope when it is tried once more. ``show``:
    is told now and then which steps are being done.
    """

    def __init__(
        self,
        graph: Graph[S],
        tell: Callable[[S, str, tuple[Any, ...]], None],
        show: Callable[[Sequence[S]], None],
    ):
        self.graph, self.tell, self.show = graph, tell, show
        self.lost: dict[S, int] = {}  # how often its worker was

    @abstractmethod
    def busy_with(self) -> Sequence[S]:
        """Steps that are being done."""

    @abstractmethod
    def room(self) -> bool:
        """Whether one more step may begin."""

    @abstractmethod
    def begin(self, step: S) -> bool:
        """Give a step to a worker; return whether there was one to take it."""

    @abstractmethod
    def news(self) -> Iterable[tuple[S, News]]:
        """What is heard of steps within a second; one that is lost or done is no longer being done."""

    @abstractmethod
    def dismiss(self) -> None:
        """End all workers, whatever they are at."""

    def carried_out(self) -> Iterator[tuple[S, Any]]:
        """Do every step; yield each with its outcome or Failure, as they come. Workers end with it."""
        try:
            while self.graph.waiting or self.busy_with():
                for step, outcome in [*self.begun(), *self.heard()]:
                    self.graph.outcomes[step] = outcome
                    yield step, outcome
        finally:
            self.dismiss()

    def begun(self) -> Iterator[tuple[S, Failure]]:
        """Begin what can be begun; yield what never will, for want of a step that failed."""
        while self.room() and (step := self.graph.next()) is not None:
            failure = self.graph.failed_need(step)
            if failure:
                yield step, failure
                return  # others may wait for this one
            if not self.begin(step):
                self.graph.waiting.insert(0, step)

    def heard(self) -> Iterator[tuple[S, Any]]:
        """Take what workers say; yield the outcomes."""
        self.show(self.busy_with())
        for step, news in self.news():
            if isinstance(news, Told):
                self.tell(step, news.scope, news.told)
            elif isinstance(news, Done):
                yield step, news.outcome
            else:
                self.lost[step] = self.lost.get(step, 0) + 1
                if self.lost[step] == TRIES:
                    yield step, Failure(news.message)
                else:
                    self.tell(step, step.name, ("again",))
                    self.graph.waiting.insert(0, step)
