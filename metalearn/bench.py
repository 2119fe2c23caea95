"""The benchmark: extractors x learners x episode settings x seeds, the same episodes for all, one paired report."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalearn.augmentation import build_augment
from metalearn.cells import Cell, Mode, slug
from metalearn.data import build_dataset
from metalearn.errors import UserError
from metalearn.evaluate import located
from metalearn.extractors import FeatureExtractor, Instances, SetExtractor
from metalearn.features import extract
from metalearn.learners import Learner, learner_class, make_learner
from metalearn.learners.asks import asks_for_base, give_base
from metalearn.meta import meta_trained, refuse_untrainable
from metalearn.prepare import before_training, depends_on_seed, gives_posterior, make_extractor, refuse_leak
from metalearn.report import Report, build_report
from metalearn.run import Run
from metalearn.schema import BenchConfig, EpisodeSetting, Kind, MetaTrainingConfig
from metalearn.testing import Tested, encoders_of, make_cell
from tasks.folders import cache_folder
from tasks.splits import Dataset, Partition


@dataclass(frozen=True)
class Bench:
    """What every step of one benchmark shares."""

    config: BenchConfig
    dataset: Dataset
    tested: Tested
    run: Run
    device: str


@dataclass(frozen=True)
class Ready:
    """An extractor of one seed, its features of the tested part and of the training part, and seconds it cost.

    Features are None where no learner asks for them.
    """

    extractor: FeatureExtractor
    features: Tensor | None
    base: Tensor | None
    seconds: float


def bench(config: BenchConfig, run: Run, *, data_root: Path, device: str) -> Report:
    """Carry out a benchmark into ``run``: every cell once, then the report, HParams and the projector.

    Cells that an earlier start left are read, not made again. Raises UserError, DataError or ModelError.
    """
    dataset = build_dataset(config.dataset, data_root, run.report)
    tested = Tested(dataset, config.episodes, device, run.progress)
    shared = Bench(config, dataset, tested, run, device)
    check_settings(shared)
    cells: list[Cell] = []
    for name, kind in config.extractors.items():
        ready = [prepare(shared, name, kind, seed) for seed in seeds_of(config, kind)]
        for learner_name, learner in config.learners.items():
            made = [
                measure(shared, name, ready, learner_name, learner, setting) for setting in config.episodes.settings
            ]
            show_hparams(run, name, kind, learner_name, learner, made)
            cells += made
        show_projector(shared, name, ready[0])
    report = build_report(cells, config.baseline)
    run.write_report(report)
    run.finish({"cells": len(cells), "comparisons": len(report.comparisons)})
    return report


def check_settings(shared: Bench) -> None:
    """Refuse before any work what would fail after hours: impossible episodes, learners, augmentation."""
    for training in (shared.config.pretraining.training, shared.config.meta_training):
        if training is not None:
            build_augment(training.augmentation, shared.dataset.train.image_shape[0])
    for setting in shared.config.episodes.settings:
        shared.tested.sampler(setting)
    trained = {name: kind for name, kind in shared.config.learners.items() if learner_class(kind.kind).meta_trained}
    for name, kind in shared.config.learners.items():
        if name not in trained:
            make_learner(kind.kind, **kind.options)
            refuse_without_posterior(name, kind, shared.config)
        elif shared.config.meta_training is None:
            raise UserError(
                f"learners.{name}: {kind.kind!r} is meta-trained; add a meta_training section to the config"
            )
    for one, extractor in shared.config.extractors.items() if trained else ():
        untrained = before_training(
            extractor, shared.config.seeds[0], dataset=shared.dataset, pretraining=shared.config.pretraining
        )
        for name, kind in trained.items():
            budget = budget_of(shared, shared.config.episodes.settings[0])
            with located(f"learners.{name} on extractors.{one}"):
                refuse_untrainable(kind, copy.deepcopy(untrained), budget, shared.dataset, shared.config.seeds[0])


def refuse_without_posterior(name: str, learner: Kind, config: BenchConfig) -> None:
    """Refuse a learner that pools over sets where an extractor has no posterior of a set."""
    wrong = [one for one, kind in config.extractors.items() if not gives_posterior(kind)]
    if wrong and learner_class(learner.kind).reads == "instances":
        raise UserError(
            f"learners.{name}: {learner.kind!r} compares posteriors of sets of images, and extractors.{wrong[0]} has "
            "none; allowed: extractors of kind pretrain, checkpoint or random; give it a benchmark of its own"
        )


def seeds_of(config: BenchConfig, kind: Kind) -> list[int]:
    """Return the seeds that an extractor is made for: the first alone where seeds make no difference."""
    meta = any(learner_class(learner.kind).meta_trained for learner in config.learners.values())
    return config.seeds if meta or depends_on_seed(kind) else config.seeds[:1]


def prepare(shared: Bench, name: str, kind: Kind, seed: int) -> Ready:
    """Make the extractor of a seed, refuse one that saw a tested class, extract its features if a learner asks."""
    extractor, seconds = make_extractor(
        kind, seed, dataset=shared.dataset, pretraining=shared.config.pretraining,
        recorder=shared.run.scope(f"{name}/seed{seed}"), device=shared.device,
    )  # fmt: skip
    refuse_leak(name, extractor, shared.tested.partition)
    began, kinds = time.monotonic(), shared.config.learners.values()

    def features(partition: Partition) -> Tensor:
        return extract(
            extractor, partition, device=shared.device, cache=cache_folder(),
            progress=lambda done, total, text: shared.run.progress(done, total, f"{name}: {text}"),
        )  # fmt: skip

    tested = features(shared.tested.partition) if any(reads_features(kind) for kind in kinds) else None
    base = features(shared.dataset.train) if any(reads_base(kind) for kind in kinds) else None
    return Ready(extractor, tested, base, seconds + time.monotonic() - began)


def reads_features(kind: Kind) -> bool:
    """Whether a learner of this kind is tested on features, as it is: not on images, not after meta-training."""
    found = learner_class(kind.kind)
    return found.reads != "images" and not found.meta_trained


def reads_base(kind: Kind) -> bool:
    """Whether it also needs the features of the training part (``fit_base``)."""
    return reads_features(kind) and asks_for_base(make_learner(kind.kind, **kind.options))


def measure(
    shared: Bench, name: str, ready: list[Ready], learner_name: str, kind: Kind, setting: EpisodeSetting
) -> Cell:
    """Return the cell of an extractor, learner and setting: correct counts of every seed on the same episodes.

    A learner without meta-training does the same for every seed of an extractor without chance: one row of counts.
    """
    kept = shared.run.cell(slug(shared.dataset.label, shared.tested.partition.name, str(setting), name, learner_name))
    if kept is not None:
        return kept
    began = time.monotonic()
    trained = learner_class(kind.kind).meta_trained
    seeds = shared.config.seeds if trained or depends_on_seed(shared.config.extractors[name]) else []
    counts: list[np.ndarray] = []
    mode: Mode = "frozen"
    for seed, one in zip(seeds or shared.config.seeds[:1], ready, strict=False):
        scope = f"{name}/{learner_name}/{setting}/seed{seed}"
        if trained:
            learner, mode = meta_train_cell(shared, scope, kind, one.extractor, setting, seed)
            counts.append(shared.tested.on_images(learner, setting, scope))
        elif reads_features(kind):
            learner = make_learner(kind.kind, one.extractor, **kind.options)
            give_base(learner, one.base)
            counts.append(shared.tested.on_features(learner, features_for(shared, learner, one), setting, scope))
        else:
            learner, mode = make_learner(kind.kind, one.extractor, **kind.options), "finetuned"
            counts.append(shared.tested.on_images(learner, setting, scope))
    cell = make_cell(
        shared.tested, setting, name, seeds, ready[0].extractor, learner_name, learner, mode, np.stack(counts),
        meta_trained=trained, seconds=sum(one.seconds for one in ready) + time.monotonic() - began,
        encoders=encoders_of([one.extractor for one in ready[: len(counts)]]),
    )  # fmt: skip
    shared.run.write_cell(cell)
    return cell


def features_for(shared: Bench, learner: Learner, one: Ready) -> Tensor:
    """Return what a learner reads: an extractor's features, or what is pooled over sets where it pools by itself."""
    if learner.reads == "instances":
        assert isinstance(one.extractor, SetExtractor)  # else the learner could not be built on it
        return extract(Instances(one.extractor), shared.tested.partition, device=shared.device, cache=cache_folder())
    assert one.features is not None  # extracted, as this learner asks for them
    return one.features


def meta_train_cell(
    shared: Bench, scope: str, kind: Kind, extractor: FeatureExtractor, setting: EpisodeSetting, seed: int
) -> tuple[Learner, Mode]:
    """Meta-train a learner from an extractor's network at the ways and shots that it will be tested at."""
    return meta_trained(
        kind, extractor, budget_of(shared, setting), shared.dataset, seed,
        state=shared.run.checkpoints / f"{slug(*scope.split('/'))}.pt",
        recorder=shared.run.scope(scope), device=shared.device,
    )  # fmt: skip


def budget_of(shared: Bench, setting: EpisodeSetting) -> MetaTrainingConfig:
    """How learners are meta-trained for a setting."""
    assert shared.config.meta_training is not None  # checked before any work
    return MetaTrainingConfig(ways=setting.ways, shots=setting.shots, **shared.config.meta_training.model_dump())


def show_hparams(run: Run, name: str, kind: Kind, learner_name: str, learner: Kind, cells: list[Cell]) -> None:
    """One line of the HParams tab: the settings of an extractor with a learner, and its accuracy in each setting."""
    settings: dict[str, Any] = {"extractor": name, "learner": learner_name, "seeds": len(cells[0].correct)}
    settings |= {f"learner.{key}": value for key, value in learner.options.items()}
    objective = kind.options.get("objective")
    if isinstance(objective, dict):
        settings |= {f"objective.{key}": value for key, value in objective.items()}
    metrics = {f"accuracy/{cell.setting}": float(cell.accuracy().mean()) for cell in cells}
    run.board.hparams(slug(name, learner_name), settings, metrics)


def show_projector(shared: Bench, name: str, one: Ready, points: int = 1000) -> None:
    """The first seed's features of test images in the projector, with thumbnails and class names."""
    if one.features is None:
        return
    partition = shared.tested.partition
    total = len(partition.labels)
    shown = np.linspace(0, total - 1, min(total, points)).round().astype(np.int64)
    images = torch.from_numpy(partition.gather_floats(shown))
    labels = [partition.class_names[label] for label in partition.labels[shown]]
    shared.run.board.embedding(name, one.features[torch.from_numpy(shown)], images, labels)
