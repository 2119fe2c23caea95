"""benchmarks/scores_against_error.py on a benchmark of four small encoders."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from metalearn.merge import read_cells
from metalearn.scored import match

ROOT = Path(__file__).parents[1]
CONFIG = """
dataset: {kind: glyphs, classes: 60}
pretraining: {model: {trunk: conv, latents: 4}, training: {epochs: 1, batch_size: 64}, monitor: null}
extractors:
  pixels: pixels
  vae: {kind: pretrain, objective: vae}
  beta: {kind: pretrain, objective: beta_vae}
learners: {near: prototypical}
episodes: {settings: [5w1s], queries: 5, count: 20, part: val}
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A finished run, and the environment with its cache."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "bench.yaml").write_text(CONFIG)
    environment = {**os.environ, "METALEARN_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "metalearn", "bench", folder / "bench.yaml", "--out", folder / "run", "--quiet"]
    subprocess.run(words, check=True, env=environment, cwd=folder)
    return folder / "run", environment


def script(run: Path, out: Path, environment: dict[str, str], *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "benchmarks" / "scores_against_error.py"), str(run), str(out), *more]
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=run.parent)


def test_every_encoder_is_measured_once_and_the_table_is_its_correlation(bench, tmp_path):
    run, environment = bench
    done = script(run, tmp_path / "out", environment, "--metrics", "sap", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    measured = sorted((tmp_path / "out").iterdir())
    assert [one.name for one in measured] == ["beta-0", "beta-1", "vae-0", "vae-1"]
    (panel,) = match(read_cells(run), measured)
    assert panel.measured_on.endswith("val part")
    x, y = np.array([[point.score.mean, point.error.mean] for point in panel.points]).T
    (line,) = re.findall(r"\| sap \| near \| 5w1s \| ([^|]*) \| ([^|]*) \|", done.stdout)
    assert line[0].startswith(f"{spearmanr(x, y).statistic:+.2f} ") and line[0].endswith("(N = 4)")
    assert line[1] == "a rank correlation needs at least 3 pairs that differ in both numbers, given 2"
    again = script(run, tmp_path / "out", environment, "--metrics", "sap")
    assert again.stdout == done.stdout and not again.stderr  # nothing was measured anew


def test_an_encoder_that_is_not_kept_is_named(bench, tmp_path):
    run, environment = bench
    cache = tmp_path / "cache"
    shutil.copytree(Path(environment["METALEARN_CACHE"]) / "encoders", cache / "encoders")
    shutil.rmtree(next(path.parent for path in sorted((cache / "encoders").glob("*/encoder.safetensors"))))
    done = script(run, tmp_path / "out", {**environment, "METALEARN_CACHE": str(cache)})
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert re.search(r"error: the encoders (beta|vae)-[01] of .*run are not kept in .*cache; run the", done.stderr)
    assert "Traceback" not in done.stderr
