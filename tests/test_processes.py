"""Several processes train as one does: two of them under torchrun, on the CPU, against one with the same batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import in_shares
import pytest
import torch

from gvae.errors import ModelError
from gvae.objectives import guided
from gvae.pretrain import Training, pretrain
from gvae.share import ALONE, Processes

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = 6


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes found: every case in one start of them, for a start costs seconds."""
    where = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*TORCHRUN, str(ROOT / "tests" / "in_shares.py"), str(where)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads((where / f"{rank}.json").read_text()) for rank in range(2)]


def test_no_thread_that_talks_to_others_outlives_the_group(found):
    """It could end the process by SIGABRT when all is done, and torchrun would call that a failure."""
    for one in found:
        assert one["threads"] and not [name for name in one["threads"] if "gloo" in name]


def furthest(told: dict, alone: dict) -> float:
    """Largest relative difference of what was told of a step; numbers near 0 count as 0.001."""
    assert list(told) == list(alone)
    return max(abs(told[name] - value) / max(abs(value), 1e-3) for name, value in alone.items())


@pytest.mark.parametrize("name", in_shares.CASES)
def test_losses_terms_weights_and_running_statistics_are_those_of_one_process(name, found):
    """In float64, where rounding is 1e-16 and Adam, which brings any gradient to the size 1, makes it under 1e-9.

    A factor of the number of processes, a statistic of half a batch or other noise would be off by percents.
    """
    case = found[0]["float64"][name]
    assert len(case["told"]) == len(case["alone"]) == STEPS
    for told, alone in zip(case["told"], case["alone"], strict=True):
        assert furthest(told, alone) < 1e-9
    assert case["apart"] and max(case["apart"].values()) < 1e-8
    assert case["alike"]  # bitwise, on every process


@pytest.mark.parametrize("name", in_shares.SINGLE)
def test_in_float32_the_first_step_differs_by_rounding_alone(name, found):
    """Later ones more: where a gradient is 0 but for rounding Adam makes a full step of either sign of it."""
    case = found[0]["float32"][name]
    assert furthest(case["told"][0], case["alone"][0]) < 1e-5
    assert furthest({"": case["told"][-1]["loss"]}, {"": case["alone"][-1]["loss"]}) < 0.02
    assert case["alike"]


@pytest.mark.parametrize("name", ["unsummed", "summed", "local norm"])
def test_a_wrong_way_to_share_would_have_been_seen(name, found):
    """A gather whose gradient stays at home, gradients added up, and batch norm of a process's own images."""
    case, told = found[0]["wrong"][name]
    alone = found[0]["float64"][case]["alone"]
    assert max(furthest(*rows) for rows in zip(told, alone, strict=True)) > 1e-3


def test_gradients_of_gathered_rows_and_of_own_rows_are_those_of_all_rows(found):
    for process in found:
        assert max(process["gradients"].values()) < 1e-12


def test_process_0_alone_keeps_a_state_and_every_process_goes_on_from_it(found):
    assert [process["resumed"]["written"] for process in found] == [True, False]
    for process in found:
        assert process["resumed"]["same"] and process["resumed"]["told"] == []


def test_a_process_that_is_given_another_training_says_so(found):
    assert found[0]["refused"] is None
    assert found[1]["refused"] == (
        "process 1 was given another training than process 0: seed is 0 there and 1 here; "
        "give every process the same config, data and version"
    )


def test_a_process_that_is_gone_is_said_and_a_full_device_stays_what_it_is(monkeypatch):
    share = Processes.__new__(Processes)
    share.rank, share.processes = 0, 2

    def fail(error):
        def all_reduce(tensor):
            raise error

        monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)

    fail(RuntimeError("[pair.cc:545] Read error: Connection reset by peer. This is typically\nmore"))
    with pytest.raises(ModelError) as caught:
        share.mean(torch.ones(2))
    assert str(caught.value) == (
        "another process of this training has ended or cannot be reached ([pair.cc:545] Read error: Connection reset "
        "by peer); what it said itself is why. Resume the run"
    )
    fail(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        share.mean(torch.ones(2))


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    share = Processes.__new__(Processes)
    share.rank, share.processes = 1, 4
    share.check(128)
    with pytest.raises(ModelError) as caught:
        share.check(30)
    assert str(caught.value) == (
        "training.batch_size: given 30, the batch of all 4 processes together; allowed: a multiple of 4, such as "
        "28, 32; or start another number of processes"
    )
    with pytest.raises(ModelError, match="such as 4; or start"):
        share.check(3)
    ALONE.check(3)


def test_an_objective_on_sets_is_refused_where_several_processes_train():
    """Its batches hold whole sets of a class, which shares of equal size would cut."""
    share = Processes.__new__(Processes)
    share.rank, share.processes = 0, 2
    objective = guided((1, 28, 28), 2, 8, 0, "conv", 4, parts=["same_class"], elbo=0.0)
    images, labels = torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.arange(2).repeat_interleave(4)
    with pytest.raises(ModelError, match="^an objective on sets is trained by one process; start it without torchrun"):
        pretrain(objective, images, labels, training=Training(batch_size=4), seed=0, share=share)
