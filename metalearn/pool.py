"""The steps of a graph in several processes at once."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic

import loky
import torch
from threadpoolctl import threadpool_limits

from metalearn.crew import TRIES, Crew, Done, Lost, News, Told
from metalearn.errors import UserError
from metalearn.graph import Graph, S, attempt
from metalearn.interrupt import interrupt_noted

GB = 1 << 30
_FIRST_GUESS = GB // 2  # memory of a step before one was seen


Tell = Callable[[str, tuple[Any, ...]], None]
"""Takes what a step tells: the name of a function, and arguments that can be pickled."""
Make = Callable[[Tell], Callable[[Any], Any]]
"""Makes what does steps, in the process that will do them; can be pickled itself."""


@dataclass(frozen=True)
class Limits:
    """How many processes work at once, with how many threads each, and how much memory they may take (GB; None: any).

    Memory is watched, not promised: a step is started when what runs, and one more of the largest seen, would fit.
    """

    jobs: int = 1
    memory: float | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1 or (self.memory is not None and not self.memory > 0):
            raise UserError(f"jobs {self.jobs}, memory {self.memory}: allowed are jobs of 1 or more, memory above 0 GB")

    @property
    def threads(self) -> int:
        """Threads of each process, so that all together have a core each."""
        return max(1, loky.cpu_count() // self.jobs)

    @contextmanager
    def threaded(self) -> Iterator[None]:
        """Inside, this process has as many threads too, where others do the steps: an encoder depends on that."""
        before = torch.get_num_threads()
        try:
            if self.jobs > 1:
                torch.set_num_threads(self.threads)
            yield
        finally:
            torch.set_num_threads(before)


class Worker(Generic[S]):
    """A process that does one step after the other."""

    def __init__(self, make: Make, threads: int):
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks, not the threads
        self.connection, other = context.Pipe()
        self.printed, prints = context.Pipe(duplex=False)
        os.set_blocking(self.printed.fileno(), False)
        self.process = context.Process(target=serve, args=(other, prints, make, threads, os.getpid()), daemon=True)
        with uninterrupted():
            self.process.start()
        other.close()
        prints.close()

    def begin(self, step: S) -> bool:
        """Give it a step; return whether it is there to take it."""
        try:
            self.connection.send(step)
        except OSError:
            self.stop()
            return False
        return True

    def memory(self) -> int:
        """Bytes it has in memory now."""
        try:
            with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as stream:
                return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # it ended, or there is no /proc
            return 0

    def echo(self) -> None:
        """Print what it printed since, so that a display of this process knows of it."""
        with suppress(BlockingIOError):
            while printed := os.read(self.printed.fileno(), 1 << 16):
                sys.stderr.write(printed.decode(errors="replace"))

    def stop(self) -> None:
        """End it, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.echo()
        self.printed.close()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes that are started inside never see the interrupt of a terminal: the one that started them ends them.

    It is blocked, which they inherit, and not ignored: one that comes meanwhile is raised at the end.
    """
    resource_tracker.ensure_running()  # starting it unblocks interrupts
    with interrupt_noted() as raise_interrupt:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise_interrupt()


def serve(connection: Connection, prints: Connection, make: Make, threads: int, parent: int) -> None:
    """Do what comes through the connection until it closes; what is printed meanwhile goes to ``prints``."""
    end_with(parent)
    for stream in (1, 2):
        os.dup2(prints.fileno(), stream)
    torch.set_num_threads(threads)
    threadpool_limits(threads)

    def tell(name: str, arguments: tuple[Any, ...]) -> None:
        connection.send((name, arguments))

    do: Callable[[Any], Any] | None = None
    while True:
        try:
            step = connection.recv()
        except EOFError:
            return

        def work(step: Any) -> Any:
            nonlocal do
            do = do or make(tell)
            return do(step)

        connection.send((None, attempt(work, step)))


def end_with(parent: int) -> None:
    """Have Linux end this process when its parent is gone, by whatever signal."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError, TypeError):  # another system: the next thing it tells ends it
        return
    if os.getppid() != parent:  # which was gone before
        os._exit(1)


class Pool(Crew[S]):
    """Several processes that do the steps of a graph.

    ``make``: makes what does steps, in each process. A process that is ended from outside is replaced, and its step
    tried once more.
    """

    def __init__(
        self,
        graph: Graph[S],
        make: Make,
        limits: Limits,
        tell: Callable[[S, str, tuple[Any, ...]], None],
        show: Callable[[Sequence[S]], None],
    ):
        super().__init__(graph, tell, show)
        self.make, self.limits = make, limits
        self.idle: list[Worker[S]] = []
        self.busy: dict[S, Worker[S]] = {}
        self.largest = _FIRST_GUESS

    def busy_with(self) -> list[S]:
        """Steps that are being done."""
        return list(self.busy)

    def room(self) -> bool:
        """Whether one more step may begin: always where none is being done."""
        if self.limits.memory is None or not self.busy:
            return len(self.busy) < self.limits.jobs
        now = sum(max(worker.memory(), self.largest) for worker in self.busy.values())
        return len(self.busy) < self.limits.jobs and now + self.largest <= self.limits.memory * GB

    def begin(self, step: S) -> bool:
        """Give a step to a process; False if that was ended while it had nothing to do."""
        worker = self.idle.pop() if self.idle else Worker(self.make, self.limits.threads)
        if worker.begin(step):
            self.busy[step] = worker
        return step in self.busy

    def news(self) -> Iterator[tuple[S, News]]:
        """Take what processes say within a second."""
        self.largest = max([self.largest, *(worker.memory() for worker in self.busy.values())])
        talking = wait([worker.connection for worker in self.busy.values()], timeout=1.0)
        for worker in self.busy.values():
            worker.echo()
        for step, worker in [pair for pair in self.busy.items() if pair[1].connection in talking]:
            try:
                name, value = worker.connection.recv()
            except (EOFError, OSError):
                del self.busy[step]
                worker.stop()
                yield step, Lost(
                    f"its process was ended {TRIES} times, at last with exit code {worker.process.exitcode} (-9: "
                    "by kill, or for want of memory); give fewer --jobs, or more memory"
                )
                continue
            if name is not None:
                yield step, Told(name, value)
                continue
            del self.busy[step]
            self.idle.append(worker)
            yield step, Done(value)

    def dismiss(self) -> None:
        """End all processes."""
        for worker in [*self.busy.values(), *self.idle]:
            worker.stop()
