"""How torch's threads should wait: a training step with sleeping and with spinning threads, alone and in company.

Run: python benchmarks/waiting.py [steps]      (on an otherwise idle machine)

Company is one busy process, so that on two cores two threads and it share them.
"""

import os
import subprocess
import sys

STEP = """
import sys, time, torch
from gvae.objective import Batch
from gvae.objectives import OBJECTIVES
steps = int(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
objective = OBJECTIVES["guided_vae"]((1, 28, 28), 770, 15000, 0, "conv", 64).train()
generator = torch.Generator().manual_seed(0)
batch = Batch(torch.rand(64, 1, 28, 28, generator=generator), torch.zeros(64, dtype=torch.long), generator)
phase = objective.phases()[0]
optimiser = torch.optim.Adam(phase.parameters, fused=True)
for step in range(steps + 3):
    if step == 3:
        began = time.perf_counter()
    loss, _ = phase.loss(batch)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print((time.perf_counter() - began) / steps * 1000)
"""


def milliseconds(policy: str, threads: int, steps: int) -> float:
    """Return the time of a step in a process of its own: the policy is read when torch is loaded."""
    words = [sys.executable, "-c", STEP, str(steps), str(threads)]
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    return float(subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout)


def main(steps: int) -> None:
    """Print milliseconds a step of the guided VAE, batch 64, and the ratio spinning / sleeping."""
    print(f"{'':28} {'sleeping':>9} {'spinning':>9} {'ratio':>6}   ms a step, N = {steps} steps")
    for company in (False, True):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if company else None
        try:
            for threads in (1, os.cpu_count() or 1):
                sleeping, spinning = (milliseconds(policy, threads, steps) for policy in ("PASSIVE", "ACTIVE"))
                name = f"{threads} threads, {'with a busy process' if company else 'alone'}"
                print(f"{name:28} {sleeping:9.1f} {spinning:9.1f} {spinning / sleeping:6.2f}", flush=True)
        finally:
            if busy:
                busy.kill()
                busy.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
