"""Steps for tests of a pool: what they do is in their name."""

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from metalearn.errors import UserError
from metalearn.pool import Tell


@dataclass(frozen=True)
class Toy:
    """``act``: add, fail, bug, kill (its process, always), kill once, sleep, print."""

    name: str
    act: str = "add"
    needs: "tuple[Toy, ...]" = ()


def done(step: Toy, folder: Path, tell: Tell) -> tuple[str, int, int]:
    """Do a step: its name, process and threads; note when it began and ended."""
    import torch

    began, marker = time.time(), folder / f"{step.name}.killed"
    tell("scope", ("text", 0, "begun", step.name))
    if step.act == "fail":
        raise UserError(f"{step.name} is refused")
    if step.act == "bug":
        raise ZeroDivisionError("by nothing")
    if step.act == "kill" or (step.act == "kill once" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if step.act == "print":
        print(f"{step.name} prints")
        os.write(2, f"{step.name} writes below Python\n".encode())
    if step.act.startswith("sleep"):
        (folder / f"{step.name}.pid").write_text(str(os.getpid()))
        time.sleep(float(step.act.split()[1]))
    with (folder / "times").open("a") as stream:
        stream.write(f"{step.name} {began} {time.time()}\n")
    return step.name, os.getpid(), torch.get_num_threads()


def make(folder: Path, tell: Tell):
    """What does steps, in any process."""
    return partial(done, folder=folder, tell=tell)
