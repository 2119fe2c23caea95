"""How torch's threads should wait for each other: training steps with threads that sleep, spin for a while, or spin.

Run: python benchmarks/waiting.py [--rounds 9] [--busy 0,1,4] [--spins 1000,3000,10000]     (on an idle machine)

A process for every way of waiting, all alive, which take turns; beside them so many busy processes of one thread each.
A round of a process is three steps behind one that does not count. "torch's": what libgomp does unless it is told
otherwise, 300,000 turns of a loop before it sleeps. The steps: pretraining of the guided VAE, batch 64; ANIL of 16
tasks, five steps, 5-way 1-shot with 1 and with 15 queries (benchmarks/meta_step.py). Threads: as many as cores.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from measuring import UNTOLD, Worker, serve

STEPS = ("guided VAE", "ANIL, 1 query", "ANIL, 15 queries")


def work(name: str) -> Callable[[], object]:
    """A step."""
    import torch

    from metalearn.memory import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    return pretraining() if name == STEPS[0] else anil(int(name.split()[1]))


def pretraining() -> Callable[[], object]:
    """A training step of the guided VAE."""
    import torch

    from gvae.objective import Batch
    from gvae.objectives import OBJECTIVES

    phase = OBJECTIVES["guided_vae"]((1, 28, 28), 770, 15000, 0, "conv", 64).train().phases()[0]
    generator = torch.Generator().manual_seed(0)
    batch = Batch(torch.rand(64, 1, 28, 28, generator=generator), torch.zeros(64, dtype=torch.long), generator)
    optimiser = torch.optim.Adam(phase.parameters, fused=True)

    def step() -> None:
        loss, _ = phase.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def anil(queries: int) -> Callable[[], object]:
    """A meta-training step, without the optimiser."""
    import meta_step

    return meta_step.both("anil", 16, 5, queries)["ours"]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but run."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Print milliseconds a step, median (least to most), and beside how many busy processes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--busy", default="0,1,4")
    parser.add_argument("--spins", default="1000,3000,10000")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return serve(work)
    ways = {"sleeping": {"OMP_WAIT_POLICY": "PASSIVE"}}
    ways |= {f"{int(n):,} spins": {"GOMP_SPINCOUNT": n} for n in given.spins.split(",")} | {"torch's": UNTOLD}
    workers = [Worker(__file__, "--work", waiting=waiting) for waiting in ways.values()]
    print(f"{'':26}" + "".join(f"{name:>20}" for name in ways) + f"   ms a step, N = {given.rounds} rounds")
    for count in map(int, given.busy.split(",")):
        with busy(count):
            for name in STEPS:
                seconds = [[worker.seconds(name) for worker in workers] for _ in range(given.rounds)]
                told = [f"{np.median(ms):.1f} ({ms.min():.0f} to {ms.max():.0f})" for ms in np.array(seconds).T * 1e3]
                print(f"{name}, {count} busy".ljust(26) + "".join(f"{one:>20}" for one in told), flush=True)
    for worker in workers:
        worker.close()
    return None


if __name__ == "__main__":
    main()
