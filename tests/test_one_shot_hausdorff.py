"""benchmarks/one_shot_hausdorff.py: the distance by its definition, and runs whose answers are known."""

import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "one_shot_hausdorff.py"
sys.path.append(str(SCRIPT.parent))

from one_shot_hausdorff import distance, errors, ink  # noqa: E402


def drawings(count: int, seed: int) -> np.ndarray:
    """Images (count, 1, 20, 20) of a few squares of ink, away from the edges."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, 1, 20, 20), np.uint8)
    for image in images[:, 0]:
        for y, x in random.integers(5, 13, (6, 2)):
            image[y : y + 2, x : x + 2] = 255
    return images


def test_the_distance_is_dubuissons_and_jains():
    one, other = drawings(2, seed=0)[:, 0]
    points = [np.argwhere(image == 255).astype(float) for image in (one, other)]
    a, b = (p - p.mean(0) for p in points)
    apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(2))
    expected = max(apart.min(0).mean(), apart.min(1).mean())
    assert expected > 0.5 and abs(distance(ink(one), ink(other)) - expected) < 1e-12
    assert distance(ink(other), ink(one)) == distance(ink(one), ink(other))


def test_a_moved_drawing_is_found_and_another_is_not():
    """Two runs of five: images moved by two pixels, and the same with the first two asked for in each other's place."""
    known = drawings(10, seed=1)
    images = np.concatenate([known, np.roll(known, 2, axis=3)])
    support, query = np.arange(10).reshape(2, 5), 10 + np.arange(10).reshape(2, 5)
    query[1, :2] = query[1, 1::-1]
    assert errors(images, support, query).tolist() == [0.0, 0.4]


def test_a_dataset_without_runs_is_named(tmp_path):
    words = [sys.executable, str(SCRIPT), str(tmp_path), "--dataset", "glyphs", "--size", "28"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 1 and "glyphs has no runs; allowed: omniglot-runs-generated, omniglot" in found.stderr
    assert "Traceback" not in found.stderr
