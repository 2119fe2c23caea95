"""Starts commands as users do, in a folder of their own, as one process or as several under torchrun; kills them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from metalearn.record import read_metrics

ROOT = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class Folder:
    """A folder with a config and a cache, and commands started in it as users do."""

    def __init__(self, path: Path, config: str):
        self.path = path
        (path / "cache").mkdir()
        (path / "glyphs.yaml").write_text(config)

    def start(self, *words: str, processes: int = 2, python: list[str] | None = None) -> subprocess.Popen:
        """Start a command; ``python``: the interpreter's arguments before its words."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "METALEARN_CACHE": "cache", "OMP_NUM_THREADS": "1"}
        how = python or [*TORCHRUN[: 5 * (processes > 1)], "-m", "metalearn"]
        command = [sys.executable, *how, *words]
        return subprocess.Popen(command, cwd=self.path, env=environment, stderr=subprocess.PIPE, text=True)

    def run(self, *words: str, processes: int = 2) -> tuple[int, str]:
        """Exit status and stderr of a command."""
        process = self.start(*words, processes=processes)
        said = process.communicate(timeout=300)[1]
        return process.returncode, said

    def command(self, name: str, out: str) -> tuple[str, ...]:
        """``name glyphs.yaml`` into ``out``."""
        return name, "glyphs.yaml", "--out", out, "--data-root", "cache", "--device", "cpu", "--quiet"

    def losses(self, out: str, scope: str = "") -> dict[int, float]:
        """Training losses of a scope of the record, each step once."""
        rows = read_metrics(self.path / out / "metrics.jsonl")
        found = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row and row["scope"] == scope]
        assert [step for step, _ in found] == sorted({step for step, _ in found})  # nothing twice
        return dict(found)


def kill_once_there(process: subprocess.Popen, file: Path) -> None:
    """Kill a process and all that it started as soon as a file is there."""
    try:
        deadline = time.monotonic() + 120
        while not file.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None and file.exists(), "it ended before it could be killed"
    finally:
        for one in [process.pid, *children(process.pid)]:
            os.kill(one, signal.SIGKILL)
        process.communicate()


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(words[1]) == process:
            found.append(int(stat.parent.name))
    return found


def errors(said: str) -> list[str]:
    """What metalearn, not torchrun, said."""
    return [line for line in said.splitlines() if line.lower().startswith("error: ")]
