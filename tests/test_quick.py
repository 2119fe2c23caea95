"""The last lines of the quickstart: what was found, in words that the numbers carry, and what to do next."""

from dataclasses import replace

import pytest

from metalearn import quick
from metalearn.report import Comparison, Report

FEWER = Comparison(
    baseline="vae", candidate="guided", learner="ridge", dataset="glyphs", ways=5, shots=1, error_baseline=0.4,
    error_candidate=0.3, difference=-0.1, difference_ci95=(-0.12, -0.08), relative_reduction=0.25,
    relative_reduction_ci95=(0.2, 0.3), p_value=0.01, p_value_holm=0.02, n_episodes=100, n_seeds=1,
)  # fmt: skip
CONFIG = """
dataset: {kind: glyphs, classes: 60}
extractors: {pixels: pixels, random: random}
learners: {prototypical: prototypical}
episodes: {settings: [5w1s], queries: 5, count: 20}
"""


@pytest.mark.parametrize("bounds,words", [
    ((-0.12, -0.08), "fewer errors than vae: 30.0 % against 40.0 %, difference -10.0 points [-12.0, -8.0]"),
    ((0.01, 0.02), "more errors than vae: "),
    ((-0.12, 0.0), "undecided against vae: 30.0 % against 40.0 %, difference -10.0 points [-12.0, +0.0]"),
])  # fmt: skip
def test_a_difference_is_called_by_its_interval(bounds, words):
    assert quick.verdict(replace(FEWER, difference_ci95=bounds)).startswith(words)


def test_every_comparison_has_a_line():
    lines = quick.found(Report([], [FEWER, replace(FEWER, shots=5)]), 61.4).splitlines()
    assert lines[0] == "Found in 61 s:" and len(lines) == 3
    assert lines[2].startswith("  guided, ridge, 5-way 5-shot: fewer errors than vae")


def test_the_last_lines_are_the_same_when_the_run_was_complete_before(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.setattr(quick, "CONFIG", tmp_path / "tiny.yaml")
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    said = []
    for _ in range(2):
        quick.quickstart(tmp_path / "run", "cpu", quiet=True)
        said.append(capsys.readouterr().out.splitlines())
    first, again = ([line for line in lines if not line.startswith("Found")] for lines in said)
    assert [line for line in again if "is complete already" not in line] == first and len(again) == len(first) + 1
    assert any(line.startswith("  random, prototypical, 5-way 1-shot: ") for line in first)
    assert first[-3] == f"Everything is in {tmp_path / 'run'}. Next:"
    assert first[-2].startswith(f"  tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}  ")
    assert first[-1].startswith("  metalearn bench configs/bench/omniglot.yaml")
