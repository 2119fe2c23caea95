"""metalearn train from the command line, by one process and by two: killed at any moment it ends at the same bits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from starting import Folder, errors, kill_once_there

CONFIG = """
dataset: {kind: glyphs, classes: 40, instances: 10}
extractor: {kind: pretrain, objective: vae}
pretraining: {model: {latents: 12}, training: {epochs: 1, batch_size: 24}, monitor: null}
learner: {kind: anil, adapt_steps: 2}
training:
  ways: 3
  shots: 1
  queries: 2
  meta_batch: 5
  iterations: 60
  eval_every: 10
  eval_episodes: 7
  auxiliary: {batch_size: 8}
episodes: {settings: [3w1s, 3w2s], queries: 5, count: 21}
"""
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes to kill in /proc")
KILLED = """
import os, signal, sys
import gvae.checkpoint

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

written, moment = 0, sys.argv.pop(1)
real_fsync, real_replace = os.fsync, os.replace

def fsync(file):  # the temporary file is filled
    if moment == "half" and "meta.pt" in os.readlink(f"/proc/self/fd/{file}"):
        os.truncate(file, os.fstat(file).st_size // 2)
        die()
    real_fsync(file)

def replace(source, target):
    if not str(target).endswith("meta.pt"):
        return real_replace(source, target)
    if moment == "whole":
        die()
    real_replace(source, target)
    global written
    written += 1
    if moment == "renamed" and written == 2:
        die()

os.fsync, os.replace = fsync, replace
from metalearn.cli import main
import metalearn.train
step, steps = metalearn.train.meta_step, 0

def counted(*given):
    global steps
    steps += 1
    if moment == "between" and steps == 14:
        die()
    return step(*given)

metalearn.train.meta_step = counted
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    return Folder(tmp_path_factory.mktemp("meta"), CONFIG)


@pytest.fixture(scope="module")
def alone(folder) -> Path:
    """A run of one process that nothing disturbed."""
    assert folder.run(*folder.command("train", "alone"), processes=1) == (0, "")
    return folder.path / "alone"


@pytest.fixture(scope="module")
def shared(folder) -> Path:
    """A run of two processes that nothing disturbed."""
    assert folder.run(*folder.command("train", "shared")) == (0, "")
    return folder.path / "shared"


def state(run: Path) -> dict:
    found = torch.load(run / "checkpoints" / "meta.pt", weights_only=True)
    assert found.pop("seconds") > 0
    return found


def same(one, other) -> bool:
    """Whether two states are equal, tensors bitwise."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def counts(run: Path) -> dict[str, list]:
    found = {path.name: np.load(path)["correct"].tolist() for path in sorted(run.glob("episodes-*.npz"))}
    assert len(found) == 2
    return found


def require_equal(folder: Folder, run: Path, other: Path) -> None:
    """Everything that came of two runs is the same: the last state and the best, the record, the tested episodes."""
    assert same(state(run), state(other)) and state(run)["iteration"] == 60
    losses = [folder.losses(one.name, "meta") for one in (run, other)]
    assert list(losses[0]) == list(range(1, 61)) and losses[0] == losses[1]
    assert counts(run) == counts(other)


def test_two_processes_leave_one_run_and_find_what_one_finds(folder, alone, shared):
    """In float32: rounding grows; tests/test_meta_processes.py is strict. They pretrain together, too."""
    one, two = (folder.losses(run.name, "meta") for run in (alone, shared))
    assert list(one) == list(two) == list(range(1, 61))
    assert all(two[step] == pytest.approx(one[step], abs=0.01) for step in range(1, 6))  # others' differ by 0.1
    assert all(two[step] == pytest.approx(loss, abs=0.3) for step, loss in one.items())
    assert {path.name for path in alone.iterdir()} == {path.name for path in shared.iterdir()}
    assert [len(list((run / "tensorboard").rglob("events*"))) for run in (alone, shared)] == [3, 3]
    starts = json.loads((shared / "environment.json").read_text())["starts"]
    assert [start["processes"] for start in starts] == [2]
    rows = [json.loads((run / "report.json").read_text())["rows"] for run in (alone, shared)]
    assert [row["episodes"] for row in rows[1]] == [21, 21] and [row["mode"] for row in rows[1]] == ["finetuned"] * 2
    for row, other in zip(*rows, strict=True):
        assert row["accuracy"] == pytest.approx(other["accuracy"], abs=0.1)
    assert {path.name for path in folder.path.iterdir()} <= {"alone", "shared", "cache", "glyphs.yaml", "killed"}


@NEEDS_PROC
def test_both_killed_the_run_is_resumed_to_the_same_bits(folder, shared):
    process = folder.start(*folder.command("train", "killed"))
    kill_once_there(process, folder.path / "killed" / "checkpoints" / "meta.pt")
    assert not (folder.path / "killed" / "result.json").exists()
    status, said = folder.run("resume", "killed", "--device", "cpu", "--quiet")
    assert status == 0, said
    require_equal(folder, folder.path / "killed", shared)
    assert folder.run("resume", "killed", "--device", "cpu", "--quiet") == (0, "killed is complete already\n")


@NEEDS_PROC
def test_one_process_killed_from_outside_goes_on_to_the_same_bits(folder, alone):
    process = folder.start(*folder.command("train", "outside"), processes=1)
    kill_once_there(process, folder.path / "outside" / "checkpoints" / "meta.pt")
    assert state(folder.path / "outside")["iteration"] < 60
    assert folder.run(*folder.command("train", "outside"), processes=1) == (0, "")
    require_equal(folder, folder.path / "outside", alone)


@NEEDS_PROC
def test_killed_at_every_moment_of_writing_it_goes_on_to_the_same_bits(folder, alone):
    """One run, killed again and again: what each start finds is whole, and it is the last state that was written."""
    checkpoints, reached = folder.path / "often" / "checkpoints", []
    for moment in ("half", "renamed", "between", "whole", "half"):
        process = folder.start(moment, *folder.command("train", "often"), python=["-c", KILLED])
        assert process.communicate(timeout=300)[1] == "" and process.returncode == -9
        reached.append(state(folder.path / "often")["iteration"] if (checkpoints / "meta.pt").exists() else 0)
    assert reached == [0, 20, 30, 30, 30]
    assert len(list(checkpoints.glob(".meta.pt.*"))) == 1  # what was being written; each start removes what is there
    assert folder.run("resume", "often", "--device", "cpu", "--quiet", processes=1) == (0, "")
    assert not list(checkpoints.glob(".*"))
    require_equal(folder, folder.path / "often", alone)


def test_a_mistake_that_every_process_finds_is_said_once(folder):
    status, said = folder.run(*folder.command("train", "one"), "--set", "training.meta_batch=1")
    assert status != 0 and errors(said) == [
        "error: training.meta_batch: given 1, the tasks of all 2 processes together; allowed: at least 2; or start "
        "fewer processes"
    ]
    status, said = folder.run(*folder.command("train", "odd"), "--set", "training.auxiliary.batch_size=9")
    assert status != 0 and errors(said) == [
        "error: auxiliary.batch_size: given 9, the batch of all 2 processes together; allowed: a multiple of "
        "2, such as 8, 10; or start another number of processes"
    ]
    status, said = folder.run(*folder.command("train", "broken"), "--set", "learner.inner_lr=1e30")
    assert status != 0 and len(errors(said)) == 1
    assert "error: meta-training stopped at iteration 0: the gradient of extractor." in said
    assert not any((folder.path / out / "checkpoints" / "meta.pt").exists() for out in ("one", "odd", "broken"))
