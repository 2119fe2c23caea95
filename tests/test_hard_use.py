"""A benchmark on a disk that fills up, over data that cannot be written, under a clock that jumps."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metalearn.__main__ import main

TINY = """
dataset: {kind: glyphs, classes: 60}
pretraining:
  model: {trunk: conv, latents: 4}
  training: {epochs: 1, batch_size: 64, checkpoint_seconds: 0}
  monitor: null
extractors:
  pixels: pixels
  vae: {kind: pretrain, objective: vae}
learners: {prototypical: prototypical, maml: {kind: maml, adapt_steps: 1}}
meta_training: {meta_batch: 2, iterations: 2, eval_every: 1, eval_episodes: 2, queries: 2}
episodes: {settings: [5w1s], queries: 5, count: 12}
seeds: [0]
baseline: pixels
"""
MOUNTS = "mount -t tmpfs tmpfs {0} && umount {0}"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = bench(f'"$PYTHON" -m metalearn bench {config} --out {folder}/run', folder)
    assert done.returncode == 0, done.stderr
    return rows(folder / "run")


def rows(run: Path) -> list[dict]:
    """Rows of a report without what they cost."""
    costs = {"seconds": 0, "training_seconds": 0}
    return [{**row, **costs} for row in json.loads((run / "report.json").read_text())["rows"]]


def bench(script: str, folder: Path, *unshare: str) -> subprocess.CompletedProcess[str]:
    """A shell script; ``folder`` has its cache and, apart from it, its data."""
    for name in ("cache", "data"):
        (folder / name).mkdir(exist_ok=True)
    told = {"PYTHON": sys.executable, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    caches = {"METALEARN_CACHE": f"{folder}/cache", "METALEARN_DATA": f"{folder}/data"}
    return subprocess.run(
        [*unshare, "sh", "-c", script], capture_output=True, text=True, env={**os.environ, **told, **caches}
    )


@pytest.fixture
def own_mounts(tmp_path: Path) -> tuple[str, ...]:
    """The start of a command that may mount file systems of its own, which end with it."""
    for words in (("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")):
        try:
            if bench(MOUNTS.format(tmp_path), tmp_path, *words).returncode == 0:
                return words
        except FileNotFoundError:
            break
    pytest.skip("needs unshare and the right to mount a file system of 1 MB")


@pytest.mark.parametrize("more", ["", "--jobs 2"])
def test_a_full_disk_stops_what_needs_room_alone_and_room_lets_it_go_on(
    more: str, config: Path, undisturbed, own_mounts, tmp_path: Path
) -> None:
    """1 MB holds the results of pixels, but no state of an encoder's training."""
    done = bench(
        f"""
        mount -t tmpfs -o size=1M tmpfs {tmp_path}/cache
        "$PYTHON" -m metalearn bench {config} --out {tmp_path}/cache/run {more} 2> {tmp_path}/first
        echo $?
        mount -o remount,size=100M {tmp_path}/cache
        "$PYTHON" -m metalearn resume {tmp_path}/cache/run {more} > {tmp_path}/second 2>&1
        echo $?
        cp -r {tmp_path}/cache/run {tmp_path}/run
        """,
        tmp_path,
        *own_mounts,
    )
    said = (tmp_path / "first").read_text()
    assert done.stdout.split() == ["2", "0"], said + (tmp_path / "second").read_text()
    assert "2 of 4 cells failed, first vae with prototypical, 5w1s: disk full while writing" in said
    assert "the same command tries these again" in said and "Traceback" not in said
    assert rows(tmp_path / "run") == undisturbed


def test_a_data_root_that_cannot_be_written(config: Path, undisturbed, own_mounts, tmp_path: Path) -> None:
    done = bench(
        f"""
        mount -t tmpfs -o ro,size=1M tmpfs {tmp_path}/data
        "$PYTHON" -m metalearn bench {config} --data-root {tmp_path}/data --out {tmp_path}/run
        """,
        tmp_path,
        *own_mounts,
    )
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "run") == undisturbed


def test_a_clock_that_jumps(config: Path, undisturbed, tmp_path: Path, monkeypatch) -> None:
    """By up to a year, back and forth, at every look; numbers and files do not hang on it."""
    jumps, now = random.Random(0), time.time
    monkeypatch.setattr("time.time", lambda: now() + jumps.uniform(-1, 1) * 365 * 86400)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["metalearn", "bench", str(config), "--out", str(tmp_path / "run")])
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert rows(tmp_path / "run") == undisturbed
