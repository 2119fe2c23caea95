"""From a loaded config to a finished run: opened, done by one process or shared by several, shown."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gvae.recorder import Recorder
from gvae.share import Share
from metalearn.cells import Cell
from metalearn.kinds import resolve
from metalearn.memory import keep_freed_memory
from metalearn.mistakes import Work
from metalearn.processes import joined
from metalearn.report import Report
from metalearn.run import Run, open_run


class Onlooker(Recorder):
    """What every process but the first has in place of the run: it hears everything and writes nothing."""

    complete = False

    def __init__(self, path: Path, share: Share):
        self.path, self.share = path, share

    @property
    def checkpoints(self) -> Path:
        """Where the first process keeps checkpoints."""
        return self.path / "checkpoints"

    def __enter__(self) -> "Onlooker":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def scope(self, name: str) -> "Onlooker":
        """What hears of one part of the run: itself."""
        return self

    def write_cell(self, cell: Cell) -> None:
        """Take what was measured."""

    def write_report(self, report: Report) -> None:
        """Take the report."""

    def report(self, what: str, done: int, total: int) -> None:
        """Take how far data work is."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Take what came out."""


def carry_out(
    work: Work, module: str, command: str, config: BaseModel, source: Path | None, out: Path | None, root: Path,
    device: str, quiet: bool, options: Mapping[str, Any],
) -> None:  # fmt: skip
    """Open the run that ``config`` describes and let the job ``command`` of ``module`` do the work; show the report.

    Of several processes the first owns the run; the job of the others works on an ``Onlooker``.
    """
    keep_freed_memory()
    resolved = resolve(config)
    with joined(device) as (share, own):
        opened: Run | Onlooker = Onlooker(Path(), share)
        if share.first:
            opened = open_run(
                out, command, resolved, source=source, data_root=root, device=own, quiet=quiet, share=share
            )
        with opened as run:
            work.run = run.path = share.tell(run.path)
            if not share.tell(run.complete):
                job = getattr(importlib.import_module(module), command)
                job(resolved, run, data_root=root, device=own, **options)
            elif share.first:
                print(f"{run.path} is complete already", file=sys.stderr)
            if share.first and not quiet:
                _show(run.path)


def _show(run: Path) -> None:
    report = run / "report.md"
    if report.exists():
        print(report.read_text(encoding="utf-8"))
    print(f"written to {run}; look at it by: tensorboard --logdir {run / 'tensorboard'}", file=sys.stderr)
