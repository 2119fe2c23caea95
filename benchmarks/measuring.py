"""Measuring for the benchmarks: rounds in which everything takes its turn, here or in other processes; memory held."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every work in every round: a busy moment of the machine meets all of them."""
    seconds = {name: np.zeros(rounds) for name in works}
    for r in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name][r] = time.perf_counter() - began
    return seconds


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""The variables that say how threads wait for each other."""
UNTOLD = {"GOMP_SPINCOUNT": "300000"}
"""What libgomp does, and so torch from PyPI, where nothing says how threads wait."""


class Worker:
    """A process that runs a benchmark with other arguments and, by `serve`, answers what it is asked with seconds."""

    def __init__(self, script: str, *arguments: str, waiting: Mapping[str, str]):
        environment = {name: value for name, value in os.environ.items() if name not in WAITING}
        words, pipe = [sys.executable, script, *arguments], subprocess.PIPE
        self.process = subprocess.Popen(words, text=True, env={**environment, **waiting}, stdin=pipe, stdout=pipe)

    def seconds(self, asked: str) -> float:
        """Seconds of a call, mean of three behind one that does not count."""
        assert self.process.stdin and self.process.stdout
        time.sleep(0.05)  # the threads of the process before have gone to sleep
        print(asked, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def serve(work: Callable[[str], Callable[[], object]]) -> None:
    """Answer a `Worker`'s questions; ``work`` makes the call that is asked for."""
    calls: dict[str, Callable[[], object]] = {}
    for line in map(str.strip, sys.stdin):
        if line not in calls:
            calls = {line: work(line)}
        calls[line]()
        began = time.perf_counter()
        for _ in range(3):
            calls[line]()
        print((time.perf_counter() - began) / 3, flush=True)


def held(kind: str = "RssAnon") -> int:
    """Memory of this process in bytes: its own (RssAnon), or the pages of files that it maps (RssFile)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
