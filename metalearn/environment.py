"""What a run ran on: commit, versions, machine, command line; for environment.json."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from metalearn import __version__
from metalearn.processes import started

PACKAGES = (
    "torch", "torchvision", "learn2learn", "numpy", "scipy", "scikit-learn", "pydantic", "tensorboard"
)  # fmt: skip


def describe(device: str) -> dict[str, Any]:
    """Plain data about this start of a run on `device` (``cpu`` or ``cuda``); times are ISO 8601, UTC."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command_line": sys.argv,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "processor": processor(),
        "device": device_name(device),
        "processes": started(),
        "packages": {"metalearn": __version__} | {name: version(name) for name in PACKAGES},
    }


def version(package: str) -> str | None:
    """Installed version of `package`, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Git commit of this source, ``+changes`` behind it if files differ from it; None outside a clone."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # a package installed under some other project's clone fails here
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    """The CPU's name, empty where the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def device_name(device: str) -> str:
    """``cpu``, or the GPU's name behind ``cuda``."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"
