"""Runs the command line inside the test process, its jobs replaced by ones that do what a test wants."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from metalearn.cli import main

BENCH = """
dataset: {kind: glyphs, classes: 60}
extractors: {pixels: pixels, random: random}
learners: {proto: prototypical}
episodes: {settings: [5w1s], count: 10}
"""


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


class Shell:
    """A folder with bench.yaml, and the command line in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self.calls: list[tuple[str, object, object, dict[str, object]]] = []
        monkeypatch.chdir(folder)
        monkeypatch.delenv("METALEARN_DATA", raising=False)
        monkeypatch.setenv("HOME", str(folder))
        (folder / "bench.yaml").write_text(BENCH)
        (folder / "data").mkdir()

    def job(self, work: Callable | None = None, module: str = "metalearn.bench", name: str = "bench") -> None:
        """Let the job `name` only note its call and do `work(config, run)`."""

        def job(config, run, **options):
            self.calls.append((name, config, run, options))
            if work is not None:
                work(config, run)

        fake = sys.modules.get(module) if isinstance(sys.modules.get(module), Fake) else Fake(module)
        setattr(fake, name, job)
        self._monkeypatch.setitem(sys.modules, module, fake)
        package, _, own = module.rpartition(".")  # a real one that was imported before is an attribute there
        self._monkeypatch.setattr(sys.modules[package], own, fake, raising=False)

    def __call__(self, *arguments: object) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["metalearn", *map(str, arguments)])
        self._capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Outcome(status, *self._capsys.readouterr())

    def refused(self, *arguments: object) -> str:
        """Stderr of a command that must end with status 2, one message and no traceback."""
        outcome = self(*arguments)
        assert outcome.status == 2, outcome
        assert "Traceback" not in outcome.err
        assert outcome.err.startswith("error: ")
        return outcome.err


class Fake(ModuleType):
    """Stands for a module of jobs."""
