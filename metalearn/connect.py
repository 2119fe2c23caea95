"""The way to a Ray cluster: its address, and what is said where none answers. Ray is imported when it is asked for."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metalearn.errors import UserError

PATIENCE = 60  # seconds in which a cluster must answer
QUIET: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
_KNOCK = f"import sys, ray; ray.init(address=sys.argv[1], **{QUIET})"


def refuse_address(address: str) -> None:
    """Raise UserError for what is no address of a cluster, and where Ray is not installed."""
    if address != "auto" and not re.fullmatch(r"[^:/\s]+:\d{1,5}", address):
        raise UserError(
            f"--ray {address}: allowed are HOST:PORT of the head of a Ray cluster, or auto for the cluster that this "
            "machine is a node of; see docs/several-machines.md"
        )
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--ray {address} needs Ray, which is not installed: pip install 'metalearn[ray]'")


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Inside, this process is connected to a cluster. Raises UserError where none answers, within a minute or so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    missing = f"--ray {address}: no Ray cluster answers there"
    fix = "start one on this machine, or let this machine join it (ray start), see docs/several-machines.md"
    try:
        if address != "auto":
            call(address)
        # ray.init waits for minutes where something else answers, and may end the process: another one tries it first
        knock = [sys.executable, "-c", _KNOCK, address]
        subprocess.run(knock, capture_output=True, text=True, timeout=PATIENCE, check=True)
        ray.init(address=address, **QUIET)
    except OSError as error:
        raise UserError(f"{missing} ({error}); {fix}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{missing} within {PATIENCE} s; {fix}") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"{missing} ({last_line(error.stderr)}); {fix}") from None
    try:
        yield
    finally:
        ray.shutdown()


def call(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OverflowError as error:  # a port above 65535
        raise OSError(str(error)) from None


def last_line(error: object) -> str:
    """The last line of a text that says something."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"])[-1]
