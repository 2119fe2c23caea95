"""torchrun -m metalearn: one run directory, what one process finds, killed and resumed, one message for a mistake."""

import json
from pathlib import Path

import pytest
from command import Shell
from starting import Folder, errors, kill_once_there

from gvae.checkpoint import load_encoder
from metalearn.processes import joined, speaks

CONFIG = """
dataset: {kind: glyphs, classes: 40, instances: 10}
model: {latents: 12}
objective: {kind: guided_vae, transforms: [rotation, translation]}
training:
  {epochs: 12, batch_size: 24, learning_rate: 1e-4, checkpoint_seconds: 1e-3, augmentation: {rotation: 10}}
monitor: {ways: 3, shots: 1, queries: 2, episodes: 10}
"""  # 120 steps; states at 25, 50, 75, 100 and 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    return Folder(tmp_path_factory.mktemp("torchrun"), CONFIG)


@pytest.fixture(scope="module")
def shared(folder) -> Path:
    """A run of two processes that nothing disturbed."""
    assert folder.run(*folder.command("pretrain", "shared")) == (0, "")
    return folder.path / "shared"


def test_two_processes_leave_one_run_and_find_what_one_finds(folder, shared):
    """In float32: rounding grows as it does from one memory format to the other; tests/test_processes.py is strict."""
    assert folder.run(*folder.command("pretrain", "alone"), processes=1) == (0, "")
    alone, two = folder.losses("alone"), folder.losses("shared")
    assert list(two) == list(alone) and max(two) == 120
    assert all(two[step] == pytest.approx(loss, rel=2e-3) for step, loss in alone.items())
    assert two[10] == pytest.approx(alone[10], rel=2e-4)
    names = [{path.name for path in (folder.path / out).iterdir()} for out in ("shared", "alone")]
    assert names[0] == names[1]
    assert len(list((shared / "tensorboard").iterdir())) == 1
    starts = json.loads((shared / "environment.json").read_text())["starts"]
    assert [start["processes"] for start in starts] == [2]
    assert 0 <= json.loads((shared / "result.json").read_text())["val/accuracy_3w1s"] <= 1
    assert not {path.name for path in shared.parent.iterdir()} - {"shared", "alone", "cache", "glyphs.yaml", "killed"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes to kill in /proc")
def test_all_killed_the_run_is_resumed_to_bitwise_the_same_encoder(folder, shared):
    process = folder.start(*folder.command("pretrain", "killed"))
    kill_once_there(process, folder.path / "killed" / "checkpoints" / "state.pt")
    assert not (folder.path / "killed" / "result.json").exists()
    assert folder.run("resume", "killed", "--device", "cpu", "--quiet") == (0, "")
    expected, found = (load_encoder(folder.path / out)[0].state_dict() for out in ("shared", "killed"))
    assert all(value.equal(expected[name]) for name, value in found.items())
    assert folder.losses("killed") == folder.losses("shared")
    assert folder.run("resume", "killed", "--device", "cpu", "--quiet") == (0, "killed is complete already\n")


def test_a_mistake_that_every_process_finds_is_said_once(folder):
    status, said = folder.run(*folder.command("pretrain", "uneven"), "--set", "training.batch_size=25")
    assert status != 0 and errors(said) == [
        "error: training.batch_size: given 25, the batch of all 2 processes together; allowed: a multiple of 2, such "
        "as 24, 26; or start another number of processes"
    ]
    assert not list((folder.path / "uneven" / "checkpoints").iterdir())


def test_a_wrong_word_on_the_command_line_is_said_once(folder):
    status, said = folder.run("pretrain", "glyphs.yaml", "--epochs", "3")
    assert status != 0 and errors(said) == ["Error: No such option: --epochs"]
    assert said.count("Usage: ") == 1


def test_a_run_that_another_process_owns_is_refused_to_all_once(folder, shared):
    """The first process alone looks into it."""
    status, said = folder.run(*folder.command("pretrain", "shared"), "--seed", "5")
    assert status != 0 and len(errors(said)) == 1
    assert "shared holds a different run: seed (0 there, 5 here)" in said


class TestWithoutTorchrun:
    """What can be told without starting processes."""

    @pytest.fixture
    def shell(self, tmp_path, monkeypatch, capsys) -> Shell:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr("metalearn.mistakes.speaks", lambda: True)
        return Shell(tmp_path, monkeypatch, capsys)

    @pytest.mark.parametrize(
        "words", ["bench bench.yaml", "extract x", "quickstart", "list", "data list", "data check glyphs", "report x"]
    )
    def test_commands_for_one_process_are_refused(self, words, shell):
        said = shell.refused(*words.split())
        name = " ".join(words.split()[: 1 + words.startswith("data")])
        assert f"error: metalearn {name} is work for one process, but 2 were started (WORLD_SIZE); " in said
        assert "allowed under torchrun: pretrain, train, and resume of either; start it without torchrun" in said

    def test_so_is_resuming_a_run_of_another_command(self, shell, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "1")
        shell.job(lambda config, run: None)
        assert shell("bench", "bench.yaml", "--out", "r").status == 0
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert "metalearn bench is work for one process" in shell.refused("resume", "r")

    def test_help_is_not(self, shell):
        assert shell("pretrain", "--help").status == 0

    def test_who_set_the_number_without_torchrun_is_told(self, shell, monkeypatch):
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        (shell.folder / "glyphs.yaml").write_text(CONFIG)
        said = shell.refused("pretrain", "glyphs.yaml", "--data-root", "data", "--device", "cpu")
        assert "WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set; start several" in said
        assert "torchrun --nproc-per-node N -m metalearn pretrain (or train) CONFIG, or unset WORLD_SIZE for" in said

    def test_more_processes_than_gpus_are_refused(self, shell, monkeypatch):
        for name, value in {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        words = "process 2 of this machine has no GPU of its own, for there are 1; give torchrun --nproc-per-node 1"
        with pytest.raises(ValueError, match=words), joined("cuda"):
            pass

    def test_where_nobody_can_be_asked_every_process_speaks(self, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.delenv("MASTER_ADDR", raising=False)
        assert speaks()
