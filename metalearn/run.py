"""A run directory: who owns it, what is in it, and the recorder that training writes to. Only writer of run files."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure
from pydantic import BaseModel

from gvae.atomic import remove_leftovers, write_atomic
from gvae.share import ALONE, Share
from metalearn import config as yaml_config
from metalearn import environment
from metalearn.cells import Cell, load_cell, save_cell
from metalearn.cost_plots import draw_costs
from metalearn.errors import UserError
from metalearn.outcomes import Outcome, load_outcome, save_outcome
from metalearn.plots import draw, joined
from metalearn.progress import make_progress
from metalearn.record import Record
from metalearn.recorder import ScopedRecorder
from metalearn.render import render
from metalearn.report import Report
from metalearn.same_run import check_same
from tasks.folders import cache_folder


class Run(ScopedRecorder):
    """An open run directory, this process its only owner; as a context manager it closes itself.

    `complete`: whether result.json is there; then nothing is left to do. `started_before`: whether an earlier
    start left things to go on from. `share`: of what is worked out, where several processes do it together.
    """

    def __init__(self, path: Path, command: str, lock: IO[str], quiet: bool, share: Share = ALONE):
        super().__init__(path, "", Record(path / "metrics.jsonl"), make_progress(quiet))
        self.command, self.quiet, self.share = command, quiet, share
        self.started_before = False
        self._lock = lock
        self._scopes: dict[str, ScopedRecorder] = {}
        self._began = time.monotonic()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def complete(self) -> bool:
        """Whether the run is finished."""
        return (self.path / "result.json").exists()

    @property
    def checkpoints(self) -> Path:
        """Directory for checkpoints; exists."""
        (self.path / "checkpoints").mkdir(exist_ok=True)
        return self.path / "checkpoints"

    def scope(self, name: str) -> ScopedRecorder:
        """Recorder of one part of the run (one encoder, one learner), its steps its own. The same for the same name."""
        if name not in self._scopes:
            self._scopes[name] = ScopedRecorder(self.path, name, self._record, self.display)
        return self._scopes[name]

    def report(self, what: str, done: int, total: int) -> None:
        """Show how far data work is; the signature that ``tasks`` calls."""
        self.progress(done, total, what)

    def write_text(self, name: str, text: str) -> Path:
        """Write the file `name` atomically."""
        write_atomic(self.path / name, lambda stream: stream.write(text.encode()))
        return self.path / name

    def write_json(self, name: str, data: Any) -> Path:
        """Write plain data as JSON, atomically; numbers must be finite (ValueError)."""
        return self.write_text(name, json.dumps(data, indent=2, allow_nan=False) + "\n")

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """Write named arrays as .npz, atomically."""

        def write(stream: BinaryIO) -> None:
            np.savez_compressed(stream, **dict(arrays))

        write_atomic(self.path / name, write)
        return self.path / name

    def write_figure(self, name: str, figure: Figure) -> Path:
        """Write the figure as the file `name`, a png, atomically."""
        write_atomic(self.path / name, lambda stream: figure.savefig(stream, format="png"))
        return self.path / name

    def show_figure(self, name: str, figure: Figure) -> None:
        """Write the figure as ``name.png``; show it on the board, grouped by what stands before the first hyphen."""
        self.write_figure(f"{name}.png", figure)
        self.figure(0, name.replace("-", "/", 1), figure)

    def write_cell(self, cell: Cell) -> Path:
        """Write ``episodes-<slug>.npz``: the correct counts from which any later comparison is made."""
        path = self.path / f"episodes-{cell.slug}.npz"
        write_atomic(path, lambda stream: save_cell(stream, cell))
        return path

    def cell(self, slug: str) -> Cell | None:
        """Cell written earlier, None if there is none."""
        path = self.path / f"episodes-{slug}.npz"
        return load_cell(path) if path.exists() else None

    def write_outcome(self, name: str, outcome: Outcome) -> None:
        """Keep what came of a step of a benchmark, as ``steps/<name>.npz``."""
        (self.path / "steps").mkdir(exist_ok=True)
        write_atomic(self.path / "steps" / f"{name}.npz", lambda stream: save_outcome(stream, outcome))

    def outcome(self, name: str) -> Outcome | None:
        """What was kept of a step; None if there is nothing, or nothing that can be read."""
        return load_outcome(self.path / "steps" / f"{name}.npz")

    def write_report(self, report: Report, failures: Sequence[str] = ()) -> None:
        """Write report.json, report.md and the plots; show the latter two on the board.

        report.md names the plots. ``failures``: what could not be measured, a line a cell.
        """
        self.write_json("report.json", report.to_dict() | ({"failures": list(failures)} if failures else {}))
        plots = joined(draw(report), draw_costs(report))
        for name, figure in plots.figures.items():
            self.show_figure(name, figure)
        text = render(report, "md") + "\n" + plots.listed(".png")
        if failures:
            text += "\nNot measured:\n\n" + "".join(f"- {line}\n" for line in failures)
        self.write_text("report.md", text)
        self.text(0, "report", text)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json (`result`, the command, this start's seconds): all else is written, the run is complete."""
        for recorder in [self, *self._scopes.values()]:
            ScopedRecorder.close(recorder)
        seconds = round(time.monotonic() - self._began, 3)
        self.write_json("result.json", {"schema": 1, "command": self.command, "seconds": seconds, **result})

    def close(self) -> None:
        """Close boards, record and display; give the directory free."""
        for recorder in [self, *self._scopes.values()]:
            ScopedRecorder.close(recorder)
        self._record.close()
        self.display.close()
        self._lock.close()


def open_run(
    out: Path | None,
    command: str,
    config: BaseModel,
    *,
    source: Path | None = None,
    data_root: Path | None = None,
    device: str = "cpu",
    quiet: bool = False,
    share: Share = ALONE,
) -> Run:
    """Open the directory `out` (default ``runs/<stem of source>``) for `command` with the resolved `config`.

    A new or empty directory gets config.yaml (the text of `source`), resolved.yaml and environment.json. One with
    the same command and config is continued, or is ``complete``. Raises `UserError` if it holds a different run
    (the first keys that differ are named), something that is no run, or a run that a live process owns.
    """
    path = out if out is not None else Path("runs") / (source.stem if source is not None else command)
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file; give a directory")
    if path.is_dir() and not is_run(path) and any(item.name != ".lock" for item in path.iterdir()):
        raise UserError(f"--out {path} is not empty and holds no run; give a new or empty directory")
    path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    try:
        run = Run(path, command, lock, quiet, share)
        run.started_before = is_run(path)
        if run.started_before:
            check_same(path, read_start(path)["command"], command, config)
        for folder in (path, cache_folder() / "encoders", cache_folder() / "features"):
            remove_leftovers(folder)
        if not run.complete:
            _write_heads(run, command, config, source, data_root, device)
    except BaseException:
        lock.close()
        raise
    return run


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory, finished or not."""
    return (path / "resolved.yaml").is_file() and (path / "environment.json").is_file()


def read_start(path: Path) -> dict[str, Any]:
    """What environment.json says of the run in `path`: `command`, `data_root`, `starts`. Raises `UserError`."""
    if not is_run(path):
        raise UserError(
            f"{path} holds no run (no resolved.yaml and environment.json); give a directory that --out made"
        )
    try:
        return dict(json.loads((path / "environment.json").read_text()))
    except ValueError as error:
        raise UserError(f"{path / 'environment.json'} is damaged: {error}") from None


def _write_heads(
    run: Run, command: str, config: BaseModel, source: Path | None, data_root: Path | None, device: str
) -> None:
    starts = read_start(run.path)["starts"] if run.started_before else []
    root = str(data_root) if data_root is not None else None
    data = {"command": command, "data_root": root, "starts": [*starts, environment.describe(device)]}
    run.write_json("environment.json", data)
    if not run.started_before:
        text = source.read_text(encoding="utf-8") if source is not None else yaml_config.dump(config)
        run.write_text("config.yaml", text)
        run.write_text("resolved.yaml", yaml_config.dump(config))


def _lock(path: Path) -> IO[str]:
    """Own the directory until the returned file is closed or this process ends. Raises `UserError` if owned."""
    stream = (path / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        owner = stream.read().strip() or "another process"
        stream.close()
        raise UserError(f"{path} is in use by {owner}; wait for it, end it, or give another --out") from None
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    stream.flush()
    return stream
