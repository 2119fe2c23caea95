"""How torch's threads should wait for each other: training steps with threads that sleep, spin for a while, or spin.

Run: python benchmarks/waiting.py [--rounds 9] [--busy 0,1,4] [--spins 1000,3000,10000]     (on an idle machine)

A process for every way of waiting, all alive, which take turns; beside them so many busy processes of one thread each.
A round of a process is three steps behind one that does not count. "torch's": what libgomp does unless it is told
otherwise, some 300,000 turns of a loop before it sleeps. The steps: pretraining of the guided VAE, batch 64; ANIL of 16
tasks, five steps, 5-way 1-shot with 1 and with 15 queries (benchmarks/meta_step.py). All cores' threads.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
STEPS = ("guided VAE", "ANIL, 1 query", "ANIL, 15 queries")


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

    options = {"ways": meta_step.WAYS, "inner_lr": meta_step.LR, "adapt_steps": 5, "batch_norm": "query_batch"}
    learner = meta_step.make_learner("anil", meta_step.Omniglot(), engine="batched", **options).train()
    return meta_step.ours(learner, meta_step.images(16, meta_step.WAYS, queries))


def work() -> None:
    """Answer every line, the number of a step, with its seconds."""
    import torch  # before metalearn, so that nothing but the environment says how threads wait

    from metalearn.memory import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    steps = [pretraining(), anil(1), anil(15)]
    for step in steps:
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        step = steps[int(line)]
        step()
        began = time.perf_counter()
        for _ in range(3):
            step()
        print((time.perf_counter() - began) / 3, flush=True)


def started(settings: dict[str, str]) -> subprocess.Popen[str]:
    """A process that waits as its environment says."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, __file__, "--work"], text=True, env=environment | settings, **pipes)


def answer(process: subprocess.Popen[str], step: int | None = None) -> str:
    """What a process says, to the number of a step."""
    assert process.stdin and process.stdout
    if step is not None:
        time.sleep(0.05)  # the threads of the one before have gone to sleep
        print(step, file=process.stdin, flush=True)
    return process.stdout.readline()


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
        return work()
    ways = {"sleeping": {"OMP_WAIT_POLICY": "PASSIVE"}}
    ways |= {f"{int(n):,} spins": {"GOMP_SPINCOUNT": n} for n in given.spins.split(",")} | {"torch's": {}}
    processes = {name: started(settings) for name, settings in ways.items()}
    for process in processes.values():
        answer(process)
    print(f"{'':36}" + "".join(f"{name:>20}" for name in ways) + f"   ms a step, N = {given.rounds} rounds")
    for count in map(int, given.busy.split(",")):
        for _ in busy(count):
            for number, name in enumerate(STEPS):
                seconds = [[float(answer(one, number)) for one in processes.values()] for _ in range(given.rounds)]
                told = [f"{np.median(ms):.1f} ({ms.min():.0f} to {ms.max():.0f})" for ms in np.array(seconds).T * 1e3]
                print(f"{name}, {count} busy".ljust(36) + "".join(f"{one:>20}" for one in told), flush=True)
    for process in processes.values():
        process.kill()
    return None


if __name__ == "__main__":
    main()
