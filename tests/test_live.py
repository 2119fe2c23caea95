"""What is shown of a benchmark while it runs: time left, the table on a real terminal, plain lines elsewhere."""

import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from screen import Screen, on_terminal

from metalearn.graph import Failure, Graph
from metalearn.live import StandingTable
from metalearn.outcomes import Outcome
from metalearn.progress import Bar, Lines, make_progress
from metalearn.standing import Doing, Measured, Standing
from metalearn.watch import Watch


@dataclass(frozen=True)
class Toy:
    name: str
    kind: str
    needs: "tuple[Toy, ...]" = ()


@dataclass(frozen=True)
class Cell:
    step: Toy

    def failure(self, outcomes):
        found = outcomes.get(self.step)
        return found if isinstance(found, Failure) else None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Following:
    """A watch over four encoders and a count of each, and a clock that a test turns on."""

    def __init__(self, outcomes=None):
        self.encoders = [Toy(f"encoder{i}", "encoder") for i in range(4)]
        self.counts = [Toy(f"count{i}", "count", (encoder,)) for i, encoder in enumerate(self.encoders)]
        self.clock = Clock()
        self.graph = Graph([*self.encoders, *self.counts], outcomes or {})
        self.watch = Watch(self.graph, lambda step: [step.kind], [Cell(step) for step in self.counts], 2, self.clock)

    @property
    def now(self) -> Standing:
        return self.watch.standing()

    def begin(self, *steps):
        for step in steps:
            if step in self.graph.waiting:
                self.graph.waiting.remove(step)
        self.watch.show(steps)

    def end(self, step, seconds, outcome="done"):
        self.clock.now += seconds
        self.graph.outcomes[step] = outcome
        self.watch.ended(step, outcome)


def test_time_left_is_that_of_finished_steps_of_the_kind():
    one = Following()
    one.begin(one.encoders[0])
    one.end(one.encoders[0], 30)
    assert one.now.left is None  # no count was done yet
    one.begin(one.counts[0])
    one.end(one.counts[0], 2)
    assert one.now.left == 3 * 30 + 3 * 2
    one.begin(one.encoders[1])
    one.clock.now += 10
    assert one.now.doing[0].left == 20
    assert one.now.left == 20 + 2 * 30 + 3 * 2


def test_time_left_is_shared_by_the_steps_done_at_once_but_not_below_the_longest():
    one = Following()
    for step, seconds in ((one.encoders[0], 30), (one.counts[0], 2)):
        one.begin(step)
        one.end(step, seconds)
    one.begin(*one.encoders[1:3])
    assert one.now.left == (3 * 30 + 3 * 2) / 2
    for step in (*one.encoders[1:3], *one.counts[1:3]):
        one.begin(step)
        one.end(step, 0)
    one.begin(one.encoders[3])
    one.watch.told(one.encoders[3], 0, 10, "epoch 1")
    one.clock.now += 5
    one.watch.told(one.encoders[3], 1, 10, "epoch 1")
    assert one.now.left == one.now.doing[0].left == 45


def test_a_step_is_timed_by_its_own_pace_and_its_like_by_what_it_will_take():
    one = Following()
    one.begin(one.encoders[0])
    one.watch.told(one.encoders[0], 0, 100, "encoder0: epoch 1/4")
    one.clock.now += 10
    one.watch.told(one.encoders[0], 25, 100, "encoder0: epoch 2/4")
    assert one.now.doing == (Doing("encoder0", "epoch 2/4", 25, 100, 30.0),)
    one.clock.now += 6  # and nothing is told
    assert one.now.doing[0].left == 24
    one.graph.waiting = one.encoders[1:]
    assert one.now.left == 24 + 3 * 40


def test_steps_of_an_earlier_start_tell_the_time_left_too():
    encoders = [Toy(f"encoder{i}", "encoder") for i in range(4)]
    one = Following({encoders[0]: Outcome(7.0), Toy("count0", "count", (encoders[0],)): Outcome(1.0)})
    assert one.now.left == 3 * 7 + 3 * 1
    assert (one.now.steps_done, one.now.steps) == (2, 8)


def test_cells_are_counted_and_what_a_failure_takes_with_it_is_not_waited_for():
    one = Following()
    assert (one.now.done, one.now.failed, one.now.waiting) == (2, 0, 4)  # two were there before
    for step, seconds in ((one.encoders[0], 30), (one.counts[0], 2)):
        one.begin(step)
        one.end(step, seconds)
    one.watch.measured("cell 0", 0.5, 0.01)
    one.begin(one.encoders[1])
    one.end(one.encoders[1], 1, Failure("no"))
    assert one.now.left == 2 * 30 + 2 * 2  # its count never begins, and a failure tells no time
    one.begin(one.counts[1])
    one.end(one.counts[1], 0, Failure("no"))
    assert (one.now.done, one.now.failed, one.now.waiting, one.now.steps_failed) == (3, 1, 2, 2)
    assert one.now.measured == (Measured("cell 0", 0.5, 0.01),)


def test_a_step_begun_again_is_timed_anew():
    one = Following()
    one.begin(one.encoders[0])
    one.clock.now += 100
    one.begin()  # its process was ended
    one.begin(one.encoders[0])
    one.end(one.encoders[0], 8)
    one.graph.waiting = one.encoders[1:]
    assert one.now.left == 3 * 8


def test_the_line_says_the_same_and_comes_at_intervals(capsys):
    one, clock = Following(), Clock()
    lines = Lines(10.0, clock)
    one.begin(one.encoders[0])
    one.watch.told(one.encoders[0], 2, 8, "encoder0: epoch 1")
    with lines.following(one.watch):
        for second in (0.0, 9.0, 10.0, 12.0):
            clock.now = second
            lines.steps(one.watch)
    assert capsys.readouterr().err == "steps: encoder0 (epoch 1, 2/8): 0/8, 0 %\n"
    one.graph.waiting = []
    one.end(one.encoders[0], 4, Failure("no"))
    assert one.now.line() == "steps, 1 failed: none: 1/8, 12 %, 0 s left"


NOW = Standing(
    steps=40, steps_done=13, steps_failed=1, done=12, failed=1, waiting=27,
    doing=tuple(Doing(f"guided/maml/5w{i}s/seed{i} [red]", "epoch 3/15", i, 5, 61.0 * i) for i in range(4)),
    left=754.0, measured=tuple(Measured(f"guided with prototypical [b], {i}w1s", i / 10, 0.0123) for i in range(5)),
)  # fmt: skip


def drawn(columns: int, rows: int, now: Standing = NOW) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, height=rows, force_terminal=True, color_system=None)
    console.print(StandingTable(lambda: now))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns,rows", [(200, 60), (80, 24), (72, 6), (40, 10), (40, 5), (20, 4), (10, 2), (4, 1)])
def test_the_table_fits_any_terminal(columns, rows):
    for now in (NOW, Standing(4, 0, 0, 0, 0, 2, (), None, ())):
        lines = drawn(columns, rows, now)
        assert 1 <= len(lines) <= max(1, rows - 1)
        assert all(cell_len(line) <= columns for line in lines)


def test_what_the_table_says():
    text = "\n".join(drawn(80, 24))
    assert "cells: 12 done, 1 failed, 27 waiting; steps: 13 of 40; 12 min 34 s left" in text
    assert all(f"5w{i}s/s" in text for i in range(4)) and text.count("epoch 3/15") == 4 and "3 min 3 s" in text
    assert "[b], 1w1s" in text and "10.00 ± 1.23 %" in text and "measured last" in text
    assert "time left not known yet" in "\n".join(drawn(80, 24, Standing(4, 0, 0, 0, 0, 2, (), None, ())))


def test_a_small_table_says_what_matters_most():
    lines = drawn(40, 10)
    assert [line.rstrip() for line in lines[:2]] == ["12 done, 1 failed, 27 waiting", "12 min 34 s left"]
    assert all(line.startswith("guided/maml/5") for line in lines[2:6])
    assert [line.startswith("measured") for line in lines].index(True) == 6
    assert "and 3 more steps" in "\n".join(drawn(40, 5))


NETWORK = """
import os, time, warnings
import torch
SECONDS = float(os.environ.get("ODD_SECONDS", 1.5))
class Odd(torch.nn.Module):
    seeded = False
    def forward(self, images):
        if len(images) > 4:
            warnings.warn("an [odd] network " + "was asked " * 20 + "END")
            time.sleep(SECONDS)
        return images.flatten(1)[:, :50]
class Bad(torch.nn.Module):
    def forward(self, images):
        if len(images) > 4:
            raise ValueError("a [bad] network")
        return images.flatten(1)[:, :50]
"""
CONFIG = """
dataset: {kind: glyphs, classes: 60}
pretraining: {model: {trunk: conv, latents: 8}, training: {epochs: 1, batch_size: 64}, monitor: null}
extractors:
  pixels: pixels
  odd: "odd_network:Odd"
  bad: "odd_network:Bad"
  vae: {kind: pretrain, objective: vae}
learners: {proto: prototypical}
episodes: {settings: [5w1s], queries: 5, count: 20}
seeds: [0, 1]
"""


@pytest.fixture
def bench(tmp_path: Path):
    (tmp_path / "odd_network.py").write_text(NETWORK)
    (tmp_path / "bench.yaml").write_text(CONFIG)
    search = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    environment = {**os.environ, "METALEARN_CACHE": str(tmp_path), "PYTHONPATH": search, "COLUMNS": "", "LINES": ""}
    words = [sys.executable, "-m", "metalearn", "bench", str(tmp_path / "bench.yaml"), "--out", str(tmp_path / "run")]
    return [*words, "--data-root", str(tmp_path)], environment


def words_of(screen: Screen) -> str:
    """All that is and was on a screen, wherever its lines were broken."""
    return " ".join(" ".join([*screen.scrolled, *screen.lines]).split())


def test_on_a_terminal_the_table_comes_and_goes_and_warnings_of_processes_stand_above_it(bench):
    words, environment = bench
    seen: list[str] = []
    screen = Screen(80, 24)
    status, out = on_terminal([*words, "--jobs", "2"], screen, environment, lambda now: seen.append(str(now)))
    assert status == 2 and not out  # a cell failed, so nothing is complete
    tables = [text for text in seen if re.search(r"cells: \d+ done.* waiting; steps: \d+ of 12", text)]
    assert any("odd/seed0" in text for text in tables)
    assert any("pixels with proto, 5w1s" in text and "±" in text and "measured last" in text for text in tables)
    assert any(", 1 failed, " in text for text in tables)
    assert "UserWarning: an [odd] network " + "was asked " * 20 + "END warnings.warn(" in words_of(screen)
    end = str(screen)
    assert "waiting" not in end and "measured last" not in end and screen.cursor
    assert "1 of 4 cells failed, first bad with proto, 5w1s: ValueError: a [bad] netw" in words_of(screen)


def test_an_interrupt_on_a_narrow_terminal_leaves_it_clean(bench):
    words, environment = bench
    screen, typed = Screen(40, 10), []

    def see(now: Screen) -> bytes | None:
        if typed or "pixels with proto" not in str(now) or "odd/seed0" not in str(now) or "END" not in str(now):
            return None
        typed.append(str(now))
        return b"\x03"

    status, out = on_terminal(words, screen, {**environment, "ODD_SECONDS": "60"}, see)
    assert typed and all(cell_len(line) <= 40 for line in typed[0].splitlines())
    assert status == 130 and not out, words_of(screen)
    assert "UserWarning: an [odd] network " + "was asked " * 20 + "END" in words_of(screen)
    assert screen.cursor and "done" not in str(screen) and "waiting" not in str(screen)
    assert "interrupted; go on by: metalearn resume" in words_of(screen)


ONE = ["--set", "extractors={pixels: pixels}", "--set", "baseline=pixels"]


def test_quiet_shows_nothing_on_a_terminal_either(bench):
    words, environment = bench
    screen = Screen(80, 24)
    assert on_terminal([*words, *ONE, "--quiet"], screen, environment, lambda _: None) == (0, "")
    assert str(screen) == "" and not screen.scrolled


@pytest.mark.parametrize("terminal,display", [("xterm", Bar), ("dumb", Lines), ("unknown", Lines)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, terminal, display):
    stderr = io.StringIO()
    stderr.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", terminal)
    assert type(make_progress(quiet=False)) is display


def test_to_a_pipe_there_is_no_control_character(bench):
    words, environment = bench
    words = [*words, *ONE]
    done = subprocess.run(words, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", done.stdout + done.stderr)
    assert done.stderr.decode().startswith("written to")
