"""`metalearn train` with each learner that learns how to adapt: it learns, shows how, and goes on after a cut."""

import json
import sys
from pathlib import Path

import pytest
import torch
from test_board import events

import metalearn.train
from gvae.checkpoint import load_encoder
from metalearn.cli import main
from metalearn.record import read_metrics
from tasks.datasets import glyphs

CONFIG = """
dataset: {kind: glyphs, classes: 60, instances: 10, image_size: 14}
extractor: random
pretraining: {model: {latents: 12}}
learner: LEARNER
training: {ways: 3, shots: 3, queries: 3, meta_batch: 4, iterations: 24, eval_every: 8, eval_episodes: 5,
           learning_rate: 2e-3}
episodes: {settings: [3w3s], queries: 5, count: 5}
"""
LEARNERS = {
    "meta_curvature": "{kind: meta_curvature, adapt_steps: 2}",
    "kfo": "{kind: kfo, adapt_steps: 2}",
    "reptile": "{kind: reptile, inner_optimizer: sgd, inner_lr: 0.1, inner_batch: 5, adapt_steps: 5, "
    "eval_adapt_steps: 8}",
    "metaoptnet": "{kind: metaoptnet}",
}


def command(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["metalearn", *map(str, words), "--quiet"])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def weights(out: Path) -> dict[str, torch.Tensor]:
    (state,) = (out / "checkpoints").glob("*.pt")
    return torch.load(state, weights_only=True)["best"]["weights"]


def told(out: Path) -> list[dict]:
    rows = read_metrics(out / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.mark.parametrize("kind", list(LEARNERS))
def test_it_learns_shows_how_and_is_resumed_bitwise(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    config, whole, cut = tmp_path / "train.yaml", tmp_path / "whole", tmp_path / "cut"
    (tmp_path / "cache").mkdir()
    config.write_text(CONFIG.replace("LEARNER", LEARNERS[kind]))
    given = ("--data-root", tmp_path / "cache", "--device", "cpu")
    assert command(monkeypatch, "train", config, "--out", whole, *given) == 0

    step = metalearn.train.meta_step

    def cut_short(learner, optimizer, episodes, iteration, *rest):
        if iteration == 12:  # the last state is that of 8 iterations
            raise KeyboardInterrupt
        return step(learner, optimizer, episodes, iteration, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(metalearn.train, "meta_step", cut_short)
        assert command(patch, "train", config, "--out", cut, *given) != 0
    assert not (cut / "result.json").exists()
    assert command(monkeypatch, "resume", cut, *given) == 0
    one, other = weights(whole), weights(cut)
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    assert told(whole) == told(cut)

    losses = [row["train/loss"] for row in read_metrics(whole / "metrics.jsonl") if "train/loss" in row]
    assert len(losses) == 24 and sum(losses[-6:]) < 0.85 * sum(losses[:6])
    row = json.loads((whole / "report.json").read_text())["rows"][0]
    assert (row["learner"], row["mode"], row["transductive"]) == (kind, "end_to_end", False)
    (board,) = {path.parent for path in (whole / "tensorboard").rglob("events*") if has_losses(path.parent)}
    shown = events(board)
    curves = [tag for tag in shown.Tags()["scalars"] if tag.startswith("inner/")]
    steps = {"reptile": 8, "metaoptnet": -1}.get(kind, 2)
    assert len(curves) == 4 * (steps + 1)
    assert all([event.step for event in shown.Scalars(tag)] == [8, 16, 24] for tag in curves)
    tables = shown.Tags()["histograms"]
    assert {tag.split("/")[0] for tag in tables} == {"metaoptnet": {"scale"}, "reptile": set()}.get(kind, {"stretch"})
    for tag in tables:
        assert [event.step for event in shown.Scalars(f"{tag}/mean")] == [8, 16, 24]
    assert not tables or any(abs(shown.Scalars(f"{tag}/mean")[-1].value - 1) > 1e-3 for tag in tables)


def has_losses(folder: Path) -> bool:
    return "train/loss" in events(folder).Tags()["scalars"]


KEPT = """
dataset: {kind: glyphs, classes: 60, instances: 10, image_size: 14}
extractors: {before: random, after: {kind: checkpoint, path: RUN}}
pretraining: {model: {latents: 12}}
learners: {prototypical: prototypical, ridge: ridge}
episodes: {settings: [3w3s], queries: 5, count: 40}
baseline: before
"""


@pytest.mark.parametrize("start", ["random", "{kind: pretrain, objective: {kind: guided_vae, transforms: [rotation]}}"])
def test_the_encoder_it_leaves_is_an_extractor_of_benchmarks(start, tmp_path, monkeypatch):
    """Frozen under the same learner it answers as the run that trained it did, and is not tested on what it saw."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    config, bench, run = tmp_path / "train.yaml", tmp_path / "bench.yaml", tmp_path / "run"
    text = CONFIG.replace("LEARNER", "prototypical").replace("count: 5", "count: 40").replace("random", start)
    config.write_text(text.replace("{latents: 12}}", "{latents: 12}, training: {epochs: 1}, monitor: null}"))
    bench.write_text(KEPT.replace("RUN", str(run)))
    given = ("--data-root", tmp_path / "cache", "--device", "cpu")
    assert command(monkeypatch, "train", config, "--out", run, *given) == 0
    assert json.loads((run / "result.json").read_text())["encoder"] == "checkpoints/encoder.safetensors"
    assert command(monkeypatch, "bench", bench, "--out", tmp_path / "bench", *given) == 0

    (trained,) = json.loads((run / "report.json").read_text())["rows"]
    rows = json.loads((tmp_path / "bench" / "report.json").read_text())["rows"]
    kept = {row["learner"]: row for row in rows if row["extractor"] == "after"}
    before = next(row for row in rows if row["extractor"] == "before" and row["learner"] == "prototypical")
    assert kept["prototypical"]["accuracy"] == trained["accuracy"] != before["accuracy"]
    assert {row["mode"] for row in kept.values()} == {"frozen"} and trained["mode"] != "frozen"
    assert {row["labels_used"] for row in kept.values()} == {"class"}
    assert kept["ridge"]["extractor_settings"] == "encoder meta-trained by prototypical"
    vae, info = load_encoder(run)
    assert list(vae.slots) == (["content"] if start == "random" else ["rotation", "content"])
    assert len(info["training_classes"]) > 3 and info["meta_training"]["iterations"] == 24

    leak = ("--set", "dataset.split_seed=1", "--out", tmp_path / "leak")
    assert command(monkeypatch, "bench", bench, *leak, *given) == 2


def test_running_statistics_of_the_encoder_it_leaves_are_measured_where_training_had_none(tmp_path, monkeypatch):
    """MAML normalises each batch by itself; a frozen encoder needs the statistics of the training images."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    config, run = tmp_path / "train.yaml", tmp_path / "run"
    text = CONFIG.replace("LEARNER", "{kind: maml, batch_norm: query_batch, adapt_steps: 1}")
    config.write_text(text.replace("{latents: 12}", "{trunk: conv4, latents: 12}").replace("14}", "16}"))
    given = ("--data-root", tmp_path / "cache", "--device", "cpu")
    assert command(monkeypatch, "train", config, "--out", run, *given) == 0
    assert (weights(run)["extractor.encoder.layers.1.running_mean"] == 0).all()

    vae, _ = load_encoder(run)
    images = glyphs(classes=60, instances=10, image_size=16).train.images()
    conv, norm = vae.encoder.layers[:2]
    assert len(images) < 512  # one batch
    with torch.no_grad():
        maps = conv(torch.from_numpy(images).float() / 255)
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)), rtol=2e-3, atol=1e-5)
    assert norm.momentum == 0.1
