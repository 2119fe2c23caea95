"""Under torchrun: what several processes may run, how they join, and who of them says what went wrong. Light to import.

torchrun starts the same command N times and tells each process in its environment which it is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from metalearn.errors import UserError

if TYPE_CHECKING:
    from gvae.share import Share

_SHARED = ("pretrain", "train")
_TOLD = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_WAIT = timedelta(hours=6)  # for process 0 to prepare data or to validate; torchrun ends all when one has died
_SAY = timedelta(seconds=20)


def started() -> int:
    """How many processes were started together: what torchrun puts into WORLD_SIZE, else 1."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def require_one(command: str) -> None:
    """Raise UserError where several processes were started for a command that they cannot share."""
    if started() > 1 and command not in _SHARED:
        raise UserError(
            f"metalearn {command} is work for one process, but {started()} were started (WORLD_SIZE); allowed under "
            "torchrun: pretrain, train, and resume of either; start it without torchrun"
        )


@contextmanager
def joined(device: str) -> Iterator[tuple["Share", str]]:
    """Join the processes that were started together; give this one's share and its device, ``cuda:N`` of its own.

    They speak by NCCL on CUDA and by Gloo on CPUs. Raises UserError where torchrun did not start them, and where a
    machine has more processes than GPUs.
    """
    from gvae.share import ALONE, Processes, join

    if started() == 1:
        yield ALONE, device
        return
    missing = [name for name in _TOLD if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {started()}, but {', '.join(missing)} is not set; start several processes by torchrun "
            "--nproc-per-node N -m metalearn pretrain (or train) CONFIG, or unset WORLD_SIZE for one"
        )
    import torch
    from torch import distributed

    if device == "cuda":
        place, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= here:
            raise UserError(
                f"process {place + 1} of this machine has no GPU of its own, for there are {here}; give torchrun "
                f"--nproc-per-node {here}, or metalearn --device cpu"
            )
        torch.cuda.set_device(place)
        device = f"cuda:{place}"
    join("nccl" if device.startswith("cuda") else "gloo", timeout=_WAIT)
    yield Processes(), device
    distributed.destroy_process_group()  # after an error others may not come to it: the process's end does it then


def speaks() -> bool:
    """Whether this process is the first of those started together to ask: it says what went wrong, for all of them.

    A mistake in a config is found by every process, and one that ends takes the others with it.
    """
    if started() == 1:
        return True
    from torch.distributed import DistError, TCPStore

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=_SAY)
        return store.add(f"metalearn failed {attempt}", 1) == 1
    except (KeyError, ValueError, DistError):  # nobody to ask: better said twice than not
        return True
