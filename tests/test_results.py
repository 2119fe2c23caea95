"""docs/results.md holds what its runs found, number by number; the script that makes its tables."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from test_report import cell, finished

from metalearn import stats
from metalearn.errors import UserError
from metalearn.merge import merge

ROOT = Path(__file__).parents[1]
specification = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
results = importlib.util.module_from_spec(specification)
specification.loader.exec_module(results)

PAGE = """# Results

Before.

<!-- table: one -->
old
<!-- end -->

Between.

<!-- table: one:error -->
<!-- end -->
"""


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    cells = [
        cell(name, right, seeds=3, shots=shots, learner=learner, training_seconds=90.0, seconds=96.0, feature_dim=64)
        for name, right in (("vae", 0.5), ("guided", 0.6)) for learner in ("prototypical", "ridge") for shots in (1, 5)
    ]  # fmt: skip
    run = finished(tmp_path / "run", cells, "vae")
    monkeypatch.setattr(results, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    results.keep("one", [run], None)
    return tmp_path / "kept", merge([run])


def test_the_page_in_the_repository_is_what_its_kept_runs_give():
    text = results.PAGE.read_text()
    assert results.page(text) == text
    named = {found["name"] for found in results.BLOCK.finditer(text)}
    assert named == set(results.kept(results.FOLDER))  # none is kept that is not shown


def test_tables_hold_the_numbers_of_the_report(folder):
    kept, report = folder
    text = results.page(PAGE, kept)
    lines = {tuple(cells[1:3]): cells for line in text.splitlines() if len(cells := split(line)) > 8}
    for row in report.rows:
        place = 3 if row.shots == 1 else 4
        assert lines[row.extractor, row.learner][place] == f"{100 * row.error:.2f} ± {100 * row.ci95:.2f}"
        assert lines[row.extractor, row.learner][-3:-1] == ["30", "2.0"]  # a seed's part of 90 s, and of 6 s
    for item in report.comparisons:
        low, high = (100 * one for one in item.difference_ci95)
        star = " *" if item.p_value_holm < 0.05 else ""
        assert f"{100 * item.difference:+.2f} [{low:+.2f}, {high:+.2f}]{star} |" in text
    assert text.count("Error minus that of vae") == 1 and text.count("N = 200 episodes of 15 queries a class") == 2
    assert "Before." in text and "Between." in text and "old" not in text
    assert results.page(text, kept) == text


def test_pairs_are_each_against_its_own_and_adjusted_together(folder, tmp_path):
    kept, report = folder
    results.keep("two", [tmp_path / "run"], None, ["guided:vae", "vae:guided"])
    items = json.loads((kept / "two.json").read_text())["comparisons"]
    assert [(one["candidate"], one["baseline"]) for one in items] == 4 * [("guided", "vae")] + 4 * [("vae", "guided")]
    for one, other, known in zip(items[:4], items[4:], report.comparisons, strict=True):
        assert one["difference"] == pytest.approx(-other["difference"]) == pytest.approx(known.difference, abs=1e-6)
        assert one["p_value"] == pytest.approx(known.p_value, rel=1e-4)
    expected = stats.holm([one["p_value"] for one in items])
    assert [one["p_value_holm"] for one in items] == pytest.approx(list(expected), rel=1e-4)
    text = results.page("<!-- table: two:difference -->\n<!-- end -->", kept)
    assert "| extractor | against | learner |" in text and "| vae | guided | ridge |" in text
    with pytest.raises(UserError, match="--pairs guided:vea: no vea in these runs; write it NAME:NAME"):
        results.keep("two", [tmp_path / "run"], None, ["guided:vea"])


def test_what_is_kept_names_no_path_of_the_machine(folder, tmp_path):
    kept, _ = folder
    data = json.loads((kept / "one.json").read_text())
    assert str(tmp_path) not in (kept / "one.json").read_text()
    assert data["runs"][0]["run"] == "run" and re.fullmatch(r"\d{4}-\d\d-\d\d", data["runs"][0]["day"])


def test_a_block_of_nothing_that_is_kept_is_an_error(folder):
    with pytest.raises(UserError, match=r"no two\.json is kept; allowed: one"):
        results.page("<!-- table: two -->\n<!-- end -->", folder[0])


def split(line):
    return [part.strip() for part in line.split("|")]
