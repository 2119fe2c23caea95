"""What the commands do once their config is loaded and their run is open; ``bench`` and ``measure`` are elsewhere."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from metalearn.augmentation import build_augment
from metalearn.data import build_dataset
from metalearn.encoders import pretrain_encoder
from metalearn.errors import UserError
from metalearn.features import extract as extract_features
from metalearn.learners import takes
from metalearn.meta import keep_encoder, meta_trained, refuse_untrainable
from metalearn.prepare import before_training, depends_on_seed, make_extractor, refuse_leak
from metalearn.quick import quickstart
from metalearn.record import read_metrics
from metalearn.report import build_report
from metalearn.run import Run
from metalearn.schema import ExtractConfig, PretrainConfig, TrainConfig
from metalearn.testing import Cost, Tested, facts_of, make_cell
from tasks.folders import cache_folder
from tasks.splits import PARTS

__all__ = ["extract", "pretrain", "quickstart", "train"]


def pretrain(config: PretrainConfig, run: Run, *, data_root: Path, device: str) -> None:
    """Pretrain one encoder into the run's ``checkpoints/``; a run that was cut goes on from its last state.

    Several processes share the work: the first prepares data before the others open it, and alone writes.
    """
    share = run.share
    with share.after_first():
        dataset = build_dataset(config.dataset, data_root, run.report)
    path = pretrain_encoder(
        dataset, config.objective, config.model, config.training, config.seed, folder=run.checkpoints, device=device,
        recorder=run, monitor=config.monitor, share=share,
    )  # fmt: skip
    if not share.first:
        return
    last = {name: value for row in read_metrics(run.path / "metrics.jsonl") for name, value in row.items()}
    validation = {name: value for name, value in last.items() if name.startswith("val/")}
    run.finish({"encoder": str(path.relative_to(run.path)), **validation})


def train(config: TrainConfig, run: Run, *, data_root: Path, device: str) -> None:
    """Meta-train one learner from an extractor's network, then test it in every episode setting.

    Several processes share the tasks of every meta-batch and the episodes of validation and test.
    """
    share = run.share
    with share.after_first():
        dataset = build_dataset(config.dataset, data_root, run.report)
    tested = Tested(dataset, config.episodes, device, run.progress, share)
    build_augment(config.training.augmentation, dataset.train.image_shape[0])  # refuse what would fail after hours
    for setting in config.episodes.settings:
        tested.sampler(setting)
        if takes(config.learner.kind, "ways") and setting.ways != config.training.ways:
            raise UserError(
                f"episodes.settings has {setting}, but {config.learner.kind!r} is trained for training.ways="
                f"{config.training.ways} and can answer no other; make them equal, or give one run a setting"
            )
    untrained = before_training(config.extractor, config.seed, dataset=dataset, pretraining=config.pretraining)
    refuse_untrainable(config.learner, untrained, config.training, dataset, config.seed, share)
    extractor, seconds = make_extractor(
        config.extractor, config.seed, dataset=dataset, pretraining=config.pretraining,
        recorder=run.scope("pretraining"), device=device, share=share,
    )  # fmt: skip
    refuse_leak(config.extractor.kind, extractor, tested.partition)
    began = time.monotonic()
    learner, mode, earlier = meta_trained(
        config.learner, extractor, config.training, dataset, config.seed, state=run.checkpoints / "meta.pt",
        recorder=run.scope("meta"), device=device, share=share,
    )  # fmt: skip
    seconds += earlier
    training, cells = seconds + time.monotonic() - began, []
    kept = None
    if share.first:
        kept = keep_encoder(
            run.checkpoints, learner, extractor, config.learner, config.training, dataset, config.seed, training
        )
    for setting in config.episodes.settings:
        counts = tested.on_trained(learner, setting, str(setting))
        cell = make_cell(
            tested, setting, config.extractor.kind, [config.seed], config.learner.kind,
            facts_of(extractor, learner, mode, meta_trained=True), counts[None],
            Cost(seconds + time.monotonic() - began, training),
        )  # fmt: skip
        run.write_cell(cell)
        cells.append(cell)
    run.write_report(build_report(cells, config.extractor.kind))
    run.finish({"cells": len(cells), **({"encoder": str(kept.relative_to(run.path))} if kept else {})})


def extract(config: ExtractConfig, run: Run, *, data_root: Path, device: str) -> None:
    """Write ``features-PART.npz``: features (n, d) float32, labels (n,), class_names (K,), one file a part."""
    dataset = build_dataset(config.dataset, data_root, run.report)
    extractor, _ = make_extractor(
        config.extractor, config.seed, dataset=dataset, pretraining=config.pretraining, recorder=run, device=device
    )
    shapes: dict[str, list[int]] = {}
    for part in PARTS if config.part == "all" else (config.part,):
        partition = getattr(dataset, part)
        features = extract_features(extractor, partition, device=device, cache=cache_folder(), progress=run.progress)
        arrays: dict[str, Any] = {
            "features": features.numpy(), "labels": partition.labels, "class_names": np.array(partition.class_names)
        }  # fmt: skip
        run.write_arrays(f"features-{part}.npz", arrays)
        shapes[part] = list(features.shape)
    run.finish({"features": shapes, "seed_matters": depends_on_seed(config.extractor)})
