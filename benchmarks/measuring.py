"""Measuring for the benchmarks: rounds in which everything takes its turn, and memory held."""

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


def held(kind: str = "RssAnon") -> int:
    """Memory of this process in bytes: its own (RssAnon), or the pages of files that it maps (RssFile)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))
