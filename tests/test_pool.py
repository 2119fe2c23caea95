"""Graphs of steps, in turn and in several processes: order, failures, processes that are ended, limits."""

import io
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import loky
import pytest
import stepping
from stepping import Toy

from metalearn.errors import UserError
from metalearn.graph import Failure, Graph, in_turn
from metalearn.pool import Limits, Pool, uninterrupted

BASE = Toy("base")
MIDDLE = Toy("middle", needs=(BASE,))
LAST = Toy("last", needs=(BASE, MIDDLE))
OTHER = Toy("other")


def run(steps, folder, limits=None, outcomes=None, told=None, shown=None):
    """Outcomes by name in the order in which they came; in this process without limits."""
    graph = Graph(steps, outcomes or {})
    shown, told = [] if shown is None else shown, [] if told is None else told
    if limits is None:
        found = in_turn(graph, partial(stepping.done, folder=folder, tell=lambda *_: None), shown.append)
    else:
        tell = lambda step, scope, words: told.append((step.name, scope, words))  # noqa: E731
        found = Pool(graph, partial(stepping.make, folder), limits, tell, shown.append).carried_out()
    return {step.name: outcome for step, outcome in found}


def test_in_turn_each_step_once_after_its_needs(tmp_path):
    shown = []
    found = run([LAST, MIDDLE, OTHER, BASE, MIDDLE], tmp_path, shown=shown)
    assert list(found) == ["other", "base", "middle", "last"]
    assert [step.name for (step,) in shown] == list(found)
    assert {pid for _, pid, _ in found.values()} == {os.getpid()}


def test_what_is_known_already_is_not_done_again(tmp_path):
    assert list(run([BASE, MIDDLE, LAST], tmp_path, outcomes={BASE: "kept", MIDDLE: "kept"})) == ["last"]


@pytest.mark.parametrize("limits", [None, Limits(2)])
def test_a_failure_takes_with_it_what_needs_it_and_no_other(tmp_path, limits):
    wrong, bug = Toy("wrong", "fail"), Toy("odd", "bug")
    after = Toy("after", needs=(wrong,))
    found = run([wrong, after, Toy("later", needs=(after,)), bug, BASE, MIDDLE], tmp_path, limits)
    refused = Failure("wrong is refused")
    assert [found[name] for name in ("wrong", "after", "later")] == [refused] * 3
    assert found["odd"] == Failure("ZeroDivisionError: by nothing")
    assert found["base"][0] == "base" and found["middle"][0] == "middle"


def test_several_processes_do_what_one_does_and_tell_it(tmp_path):
    told, shown = [], []
    steps = [BASE, MIDDLE, LAST, *(Toy(f"one{i}", "sleep 0.2") for i in range(4))]
    found = run(steps, tmp_path, Limits(2), told=told, shown=shown)
    assert {name: outcome[0] for name, outcome in found.items()} == {step.name: step.name for step in steps}
    pids = {outcome[1] for outcome in found.values()}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {outcome[2] for outcome in found.values()} == {Limits(2).threads}
    assert sorted(told) == sorted((step.name, "scope", ("text", 0, "begun", step.name)) for step in steps)
    order = list(found)
    assert order.index("base") < order.index("middle") < order.index("last")
    assert max(map(len, shown)) == 2


def test_what_processes_print_comes_through_this_one(tmp_path, monkeypatch):
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    run([Toy("one", "print"), Toy("two", "print")], tmp_path, Limits(2))
    lines = heard.getvalue().splitlines()
    assert {f"{name} writes below Python" for name in ("one", "two")} <= set(lines)
    assert {f"{name} prints" for name in ("one", "two")} <= set(lines)


def test_a_process_that_is_ended_is_replaced_and_its_step_tried_again(tmp_path):
    found = run([Toy("hurt", "kill once"), BASE, MIDDLE], tmp_path, Limits(2))
    assert [found[name][0] for name in ("hurt", "base", "middle")] == ["hurt", "base", "middle"]


def test_a_step_whose_process_is_always_ended_fails_alone(tmp_path):
    found = run([Toy("doomed", "kill"), BASE], tmp_path, Limits(2))
    assert found["base"][0] == "base"
    assert found["doomed"].message.startswith("its process was ended 2 times, at last with exit code -9")
    assert "give fewer --jobs, or more memory" in found["doomed"].message


def test_memory_that_holds_one_step_has_one_at_a_time(tmp_path):
    run([Toy(f"one{i}", "sleep 0.3") for i in range(3)], tmp_path, Limits(3, memory=0.6))
    lines = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    times = sorted((float(began), float(ended)) for _, began, ended in lines)
    assert all(ended <= began for (_, ended), (began, _) in zip(times, times[1:], strict=False))


@pytest.mark.parametrize("jobs,memory", [(0, None), (2, 0.0), (2, -1.0), (1, float("nan"))])
def test_limits_that_are_none(jobs, memory):
    with pytest.raises(UserError, match=rf"jobs {jobs}, memory {memory}: allowed are jobs of 1 or more, memory above"):
        Limits(jobs, memory)


def test_cores_are_shared_out():
    cores = loky.cpu_count()
    assert [Limits(jobs).threads for jobs in (1, cores, 10 * cores)] == [cores, 1, 1]


PARENT = """
import sys
from functools import partial
from pathlib import Path
import stepping
from metalearn.graph import Graph
from metalearn.pool import Limits, Pool, uninterrupted
if __name__ == "__main__":
    steps = [stepping.Toy(f"long{i}", "sleep 600") for i in range(2)]
    make = partial(stepping.make, Path(sys.argv[1]))
    list(Pool(Graph(steps, {}), make, Limits(2), lambda *_: None, lambda _: None).carried_out())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends processes with their parent")
def test_processes_end_with_their_parent_however_that_ends(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env={**os.environ, "PYTHONPATH": here}
    )
    notes = [tmp_path / f"long{i}.pid" for i in range(2)]
    until(lambda: all(note.exists() and note.read_text() for note in notes))
    pids = [int(note.read_text()) for note in notes]
    parent.kill()
    parent.wait()
    until(lambda: not any(running(pid) for pid in pids))


def test_an_interrupt_while_a_process_is_started_is_raised_then_and_does_not_reach_it():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        for pid in (os.getpid(), child.pid):
            os.kill(pid, signal.SIGINT)
        started = True
    assert started
    time.sleep(0.5)
    assert child.poll() is None
    child.kill()
    child.wait()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before and signal.getsignal(signal.SIGINT) is handler


def until(true, seconds=120):
    """Wait for something, not for ever."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def running(pid):
    """Whether a process is there and does something."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
