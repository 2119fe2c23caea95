"""Several processes meta-train as one does: two of them under torchrun, on the CPU, against one with all the tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import in_meta_shares
import pytest

from gvae.share import ALONE, Processes
from metalearn.errors import UserError
from metalearn.meta_batch import tasks_of
from tasks.episodes import EpisodeSampler

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CASES = [*in_meta_shares.CASES, *(f"beside {name}" for name in in_meta_shares.AUXILIARY)]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes found: every case in one start of them, for a start costs seconds."""
    where = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*TORCHRUN, str(ROOT / "tests" / "in_meta_shares.py"), str(where)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads((where / f"{rank}.json").read_text()) for rank in range(2)]


def test_no_thread_that_talks_to_others_outlives_the_group(found):
    """It could end the process by SIGABRT when all is done, and torchrun would call that a failure."""
    for one in found:
        assert one["threads"] and not [name for name in one["threads"] if "gloo" in name]


def test_features_are_extracted_in_shares_and_are_those_of_one_process(found):
    """Bitwise, in its batches: 96 images by 32. They are read back only where every process has them."""
    first, second = (one["features"] for one in found)
    assert first["same"] and second["same"] and first["alone"] == [32, 32, 32]
    assert first["given"] == [[32], [], [32]] and second["given"] == [[32, 32], [], [32, 32]]


def furthest(rows: list[dict], alone: list[dict]) -> float:
    """Largest relative difference of what was told; numbers near 0 count as 0.001."""
    assert [list(row) for row in rows] == [list(row) for row in alone]
    pairs = [(row[name], value) for row, other in zip(rows, alone, strict=True) for name, value in other.items()]
    return max(abs(told - value) / max(abs(value), 1e-3) for told, value in pairs)


@pytest.mark.parametrize("name", CASES)
def test_gradients_weights_statistics_and_what_is_told_are_those_of_one_process(name, found):
    """In float64, where rounding is 1e-16: every step's gradients, then what Adam made of them, buffers included.

    A factor of the number of processes or of tasks, other episodes or another order would be off by percents.
    """
    case, other = found[0]["cases"][name], found[1]["cases"][name]
    beside = name.startswith("beside ")
    assert len(case["gradients"]) >= (3 if beside else 4) and min(case["sizes"]) > 1e-3
    assert max(case["gradients"]) < 1e-9
    assert case["weights"] < 1e-9
    assert furthest(case["rows"], case["alone"]) < 1e-9
    assert {"train/loss", "train/accuracy", "train/gradient_norm"} <= case["rows"][0].keys()
    assert ("train/auxiliary/reconstruction" in case["rows"][0]) == beside
    assert case["results"][0] == case["results"][1]  # validation: 7 episodes, 3 of them of process 0
    assert case["alike"] and other["silent"]  # bitwise on both; the first alone tells


@pytest.mark.parametrize("name", ["maml", "prototypical"])
def test_running_statistics_of_a_processs_own_tasks_would_have_been_seen(name, found):
    case = found[0]["wrong"][name]
    assert not case["alike"] and case["weights"] > 1e-3
    assert (max(case["gradients"]) > 1e-4) == (name == "maml")  # prototypical normalises each batch by itself


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loss", "meta-training stopped at iteration 0, task 2: the loss is nan; lower learning_rate, or inner_lr"),
        ("inner", "meta-training stopped at iteration 0, task 2: the inner gradient of 0.net.0.weight, "),
        ("gradient", "meta-training stopped at iteration 0: the gradient of extractor.net.4.weight is not finite"),
        (
            "buffer",
            "the buffer extractor.calls changes while the learner trains, in each process by its own tasks; allowed "
            "under torchrun: running statistics of batch norm; start it without torchrun",
        ),
    ],
)
def test_what_one_process_meets_stops_all_before_the_step_with_the_same_words(name, words, found):
    """Task 2 of four is the first of process 1."""
    one, other = (process["refused"][name] for process in found)
    assert one["said"] == other["said"] and one["said"].startswith(words)
    assert one["still"] and other["still"]


def test_process_0_alone_keeps_a_state_and_both_go_on_from_it(found):
    assert [process["refused"]["resumed"]["written"] for process in found] == [True, False]
    assert all(process["refused"]["resumed"]["same"] for process in found)
    assert all(process["refused"]["resumed"]["told"] == [] for process in found)


def test_a_process_that_is_given_another_training_says_so(found):
    assert found[0]["refused"]["settings"] is None
    assert found[1]["refused"]["settings"] == (
        "process 1 was given another meta-training than process 0: seed 0 (now 1); "
        "give every process the same config, data and version"
    )


def test_tasks_are_shared_in_blocks_and_none_is_left_out():
    share = Processes.__new__(Processes)
    share.rank, share.processes = 1, 3
    assert tasks_of(8, share) == [range(3), range(3, 6), range(6, 8)]
    assert tasks_of(3, share) == [range(1), range(1, 2), range(2, 3)]
    assert tasks_of(5, ALONE) == [range(5)]
    with pytest.raises(UserError) as caught:
        tasks_of(2, share)
    assert str(caught.value) == (
        "training.meta_batch: given 2, the tasks of all 3 processes together; allowed: at least 3; or start fewer "
        "processes"
    )


def test_a_process_draws_the_episodes_of_its_tasks():
    labels = in_meta_shares.DATA.train.labels
    whole = EpisodeSampler(labels, ways=3, shots=1, queries=2, seed=5)
    part = whole.of_each(5, range(3, 5))
    numbers = [3, 4, 8, 9, 13, 14, 18]
    assert [whole[number].support.tolist() for number in numbers] == [part[i].support.tolist() for i in range(7)]
    assert (part[1:7].query == whole[0:20].query[numbers[1:]]).all()
