"""scripts/screenshots.py: its parts, and in a real browser where one is at hand what the page says."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metalearn.board import Board

ROOT = Path(__file__).parents[1]
NAME = "screenshots"
spec = importlib.util.spec_from_file_location(NAME, ROOT / "scripts" / f"{NAME}.py")
screenshots = sys.modules[NAME] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(screenshots)

needs_browser = pytest.mark.skipif(
    screenshots.find_browser() is None,
    reason="no Chromium on PATH; on Debian: apt-get install --no-install-recommends chromium",
)


def test_without_a_browser_it_says_which_and_how(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert screenshots.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "none of chromium, chromium-browser, google-chrome is on PATH" in said and "apt-get install" in said
    assert not (tmp_path / "out").exists()


def test_a_small_picture_looks_the_same():
    shades = np.linspace(0, 255, 200).astype(np.uint8)
    large = io.BytesIO()
    Image.fromarray(np.stack([np.tile(shades, (200, 1))] * 3, 2)).save(large, "png", compress_level=0)
    less = screenshots.small(large.getvalue())
    with Image.open(io.BytesIO(less)) as picture:
        assert picture.mode == "P" and picture.size == (200, 200)
        assert np.abs(np.asarray(picture.convert("L")).astype(int) - shades).max() <= 4
    assert len(less) < len(large.getvalue()) / 4


def test_tensorboard_that_does_not_start_is_told_with_its_words(monkeypatch, tmp_path):
    monkeypatch.setattr(screenshots.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="TensorBoard did not start"), screenshots.tensorboard(tmp_path):
        pass


def test_the_document_shows_every_picture_and_no_other():
    text = (ROOT / "docs" / "tensorboard.md").read_text()
    pictures = {f"tensorboard-{one.name}.png" for one in screenshots.DASHBOARDS}
    assert {path.name for path in (ROOT / "docs" / "images").glob("tensorboard-*.png")} == pictures
    assert all(f"](images/{name})" in text for name in pictures) and text.count("](images/") == len(pictures)
    sizes = [(ROOT / "docs" / "images" / name).stat().st_size for name in pictures]
    assert sum(sizes) < 800_000
    for name in pictures:
        with Image.open(ROOT / "docs" / "images" / name) as picture:
            assert picture.width >= 1280 and np.ptp(np.asarray(picture.convert("L"))) > 100


@needs_browser
def test_a_browser_tells_what_a_page_says_and_what_is_wrong(tmp_path):
    page = tmp_path / "page.html"
    hidden = "a.attachShadow({mode: 'open'}).innerHTML = '<b>deep</b>'"
    page.write_text(f"<body>seen<div id=a></div><script>{hidden}</script>")
    with screenshots.browsing(screenshots.find_browser()) as browser:
        browser.open(page.as_uri(), 1000, 300)
        browser.wait("deep('b').length === 1 && said().includes('deep')")
        with Image.open(io.BytesIO(browser.picture())) as picture:
            assert picture.size == (1000, 300)
        with pytest.raises(RuntimeError, match="not true in the page: said\\(\\).includes\\('no'\\); it says: seen"):
            browser.wait("said().includes('no')", seconds=0.5)
        with pytest.raises(RuntimeError, match="ReferenceError: nothing is not defined"):
            browser.evaluate("nothing")
        with pytest.raises(RuntimeError, match="No.such: .*wasn't found"):
            browser.ask("No.such")


@needs_browser
def test_every_dashboard_shows_what_a_run_wrote(tmp_path):
    """Each is ready only when the page shows what the board was given."""
    for name in ("vae", "guided"):
        board = Board(tmp_path / name / "seed0")
        for step in range(4):
            board.scalars(step, {"train/loss": 1 / (step + 1), "train/kl": float(step), "val/accuracy": step / 4})
        board.images(3, "reconstruction/image_mean", torch.rand(1, 1, 16, 64))
        board.images(3, "traversal/rotation", torch.rand(1, 1, 8, 72))
        board.close()
    board = Board(tmp_path)
    board.hparams("vae/ridge/result", {"extractor": "vae", "learner.l2": 0.5}, {"test/accuracy_5w1s": 0.625})
    board.hparams("guided/ridge/result", {"extractor": "guided", "objective.weight": 3.0}, {"test/accuracy_5w1s": 0.75})
    board.text(0, "report", "| extractor | accuracy |\n| --- | --- |\n| guided | 75.00 |\n")
    board.embedding("guided", torch.randn(50, 4), torch.rand(50, 1, 8, 8), [f"class {i % 5}" for i in range(50)])
    board.close()
    with (
        screenshots.tensorboard(tmp_path) as address,
        screenshots.browsing(screenshots.find_browser()) as browser,
    ):
        for dashboard in screenshots.DASHBOARDS:
            picture = screenshots.take(browser, address, dashboard, settle=0.0)
            assert len(picture) > 10_000, dashboard.name
            for words in EXPECTED[dashboard.name]:
                letters = json.dumps("".join(words.split()))  # pages break words into several elements
                browser.wait(f"said().replaceAll(/\\s/g, '').includes({letters})", seconds=20)


EXPECTED = {
    "time-series": ["train/loss", "guided/seed0", "vae/seed0"],
    "scalars": ["train", "guided/seed0"],
    "images": ["traversal/rotation", "reconstruction/image_mean"],
    "hparams": ["learner.l2", "objective.weight", "test/accuracy_5w1s", "0.62500", "0.75000"],
    "projector": ["Points: 50", "Dimension: 4"],
    "text": ["75.00", "extractor"],
}
