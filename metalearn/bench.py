"""The benchmark: extractors x learners x episode settings x seeds, the same episodes for all, one paired report."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalearn.cells import Cell, Mode, slug
from metalearn.data import build_dataset
from metalearn.encoders import encoder_key, kept_encoder, pretrain_encoder
from metalearn.errors import UserError
from metalearn.evaluate import evaluate_features, evaluate_images
from metalearn.extractors import EXTRACTORS, Checkpoint, FeatureExtractor, build_extractor
from metalearn.features import extract
from metalearn.kinds import TABLES, check_kind
from metalearn.learners import FeatureLearner, Learner, learner_class, make_learner
from metalearn.meta import meta_trained
from metalearn.report import Report, build_report
from metalearn.run import Run
from metalearn.schema import BenchConfig, EpisodeSetting, Kind
from tasks.episodes import EpisodeSampler
from tasks.splits import Dataset, Partition
from tasks.store import cache_folder


@dataclass(frozen=True)
class Bench:
    """What every step of one benchmark shares; ``tested`` is the part of the dataset whose classes are tested."""

    config: BenchConfig
    dataset: Dataset
    tested: Partition
    run: Run
    device: str

    def sampler(self, setting: EpisodeSetting) -> EpisodeSampler:
        """Return the episodes of a setting: the same for every extractor and learner. Raises DataError."""
        episodes = self.config.episodes
        return EpisodeSampler(
            self.tested.labels, ways=setting.ways, shots=setting.shots, queries=episodes.queries,
            seed=episodes.seed, class_names=self.tested.class_names,
        )  # fmt: skip


@dataclass(frozen=True)
class Ready:
    """An extractor of one seed: its features of the tested part (None: no learner asks), and seconds it cost."""

    extractor: FeatureExtractor
    features: Tensor | None
    seconds: float


def bench(config: BenchConfig, run: Run, *, data_root: Path, device: str) -> Report:
    """Carry out a benchmark into ``run``: every cell once, then the report, HParams and the projector.

    Cells that an earlier start left are read, not made again. Raises UserError, DataError or ModelError.
    """
    dataset = build_dataset(config.dataset, data_root, run.progress)
    shared = Bench(config, dataset, getattr(dataset, config.episodes.part), run, device)
    check_settings(shared)
    cells: list[Cell] = []
    for name, kind in config.extractors.items():
        ready = prepare(shared, name, kind)
        for learner_name, learner in config.learners.items():
            made = [measure(shared, name, ready, learner_name, learner, setting) for setting in config.episodes.settings]
            show_hparams(run, name, kind, learner_name, learner, made)
            cells += made
        show_projector(shared, name, ready[0])
    report = build_report(cells, config.baseline)
    run.write_report(report)
    run.finish({"cells": len(cells), "comparisons": len(report.comparisons)})
    return report


def check_settings(shared: Bench) -> None:
    """Refuse before any work what would fail after hours: episodes that the part cannot give, learner options."""
    for setting in shared.config.episodes.settings:
        shared.sampler(setting)
    for name, kind in shared.config.learners.items():
        if not learner_class(kind.kind).meta_trained:
            make_learner(kind.kind, **kind.options)
        elif shared.config.meta_training is None:
            raise UserError(f"learners.{name}: {kind.kind!r} is meta-trained; add a meta_training section to the config")


def prepare(shared: Bench, name: str, kind: Kind) -> list[Ready]:
    """Make the extractor ``name`` for every seed, or once where seeds make no difference."""
    choice = check_kind(f"extractors.{name}", kind, EXTRACTORS, TABLES["extractor"].skip)
    seeds = shared.config.seeds
    if kind.kind == "pretrain":
        return [pretrained(shared, name, kind, seed) for seed in seeds]
    made = []
    for seed in seeds if getattr(choice.build, "seeded", False) else seeds[:1]:
        extractor = build_extractor(
            choice.build, choice.options, image_shape=shared.tested.image_shape, seed=seed,
            model=shared.config.pretraining.model,
        )  # fmt: skip
        made.append(finish(shared, name, extractor, 0.0))
    return made


def pretrained(shared: Bench, name: str, kind: Kind, seed: int) -> Ready:
    """Pretrain the encoder of one seed, or take it from the cache, and return it as an extractor."""
    objective = Kind.model_validate(kind.options["objective"])
    budget = shared.config.pretraining
    key = encoder_key(shared.dataset, objective, budget.model, budget.training, seed, shared.device)
    folder = cache_folder() / "encoders" / key
    recorder = shared.run.scope(f"{name}/seed{seed}")

    def make() -> Path:
        return pretrain_encoder(
            shared.dataset, objective, budget.model, budget.training, seed, folder=folder, device=shared.device,
            recorder=recorder, monitor=budget.monitor,
        )  # fmt: skip

    path, info = kept_encoder(folder, make, recorder)
    extractor = Checkpoint(shared.tested.image_shape, path=str(path), slots=kind.options.get("slots")).eval()
    return finish(shared, name, extractor, float(info["seconds"]))


def finish(shared: Bench, name: str, extractor: FeatureExtractor, seconds: float) -> Ready:
    """Refuse an extractor that saw a tested class; extract its features once if a learner works on features."""
    refuse_leak(name, extractor, shared.tested)
    if all(learner_class(kind.kind).meta_trained for kind in shared.config.learners.values()):
        return Ready(extractor, None, seconds)
    began = time.monotonic()
    features = extract(
        extractor, shared.tested, device=shared.device, cache=cache_folder(),
        progress=lambda done, total, text: shared.run.progress(done, total, f"{name}: {text}"),
    )  # fmt: skip
    return Ready(extractor, features, seconds + time.monotonic() - began)


def refuse_leak(name: str, extractor: nn.Module, tested: Partition) -> None:
    """Raise UserError when the extractor's training saw a class that it is to be tested on."""
    seen = sorted(getattr(extractor, "training_classes", frozenset()) & tested.base_classes)
    if seen:
        raise UserError(
            f"extractor {name!r} was trained on {len(seen)} of the classes it would be tested on "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}): its error would mean nothing; "
            "use an encoder of the same split, or the split that it was trained on"
        )


def measure(
    shared: Bench, name: str, ready: list[Ready], learner_name: str, kind: Kind, setting: EpisodeSetting
) -> Cell:
    """Return the cell of an extractor, learner and setting: correct counts of every seed on the same episodes.

    ``seconds`` of the cell: pretraining (as it took when it was done) and extraction of every seed, and this cell.
    """
    kept = shared.run.cell(slug(shared.dataset.label, shared.tested.name, str(setting), name, learner_name))
    if kept is not None:
        return kept
    began = time.monotonic()
    seeds = shared.config.seeds[: len(ready)]
    counts, last = [], None
    for seed, one in zip(seeds, ready, strict=True):
        scope = f"{name}/{learner_name}/{setting}/seed{seed}"
        last = (evaluate_meta_trained if learner_class(kind.kind).meta_trained else evaluate_frozen)(
            shared, scope, one, kind, setting, seed
        )
        counts.append(last[0])
    assert last is not None  # there is at least one seed
    _, learner, mode = last
    first, episodes = ready[0].extractor, shared.config.episodes
    cell = Cell(
        dataset=shared.dataset.label, split=shared.tested.name, ways=setting.ways, shots=setting.shots,
        queries=episodes.queries, episode_seed=episodes.seed, extractor=name,
        extractor_seeds=tuple(seeds) if len(seeds) > 1 or first.seeded or kind_is_trained(ready, mode) else (),
        labels_used="class" if mode != "frozen" else first.labels_used, learner=learner_name, mode=mode,
        transductive=learner.transductive, batch_norm=batch_norm_mode(first, learner),
        seconds=round(sum(one.seconds for one in ready) + time.monotonic() - began, 2),
        fingerprint=shared.tested.fingerprint, correct=np.stack(counts),
    )  # fmt: skip
    shared.run.write_cell(cell)
    return cell


Evaluated = tuple[Any, Learner, Mode]


def evaluate_frozen(
    shared: Bench, scope: str, one: Ready, kind: Kind, setting: EpisodeSetting, seed: int
) -> Evaluated:
    """Return (correct counts, learner, mode) of a learner on frozen features."""
    learner = make_learner(kind.kind, **kind.options)
    assert isinstance(learner, FeatureLearner) and one.features is not None
    count = shared.config.episodes.count
    shared.run.progress(0, 1, f"{scope}: {count} episodes")
    sampler = shared.sampler(setting)
    counts = evaluate_features(one.features, shared.tested.labels, learner, sampler, count, device=shared.device)
    return counts, learner, "frozen"


def evaluate_meta_trained(
    shared: Bench, scope: str, one: Ready, kind: Kind, setting: EpisodeSetting, seed: int
) -> Evaluated:
    """Return (correct counts, learner, mode) of a learner meta-trained from the extractor's network."""
    assert shared.config.meta_training is not None  # checked before any work
    learner, mode = meta_trained(
        kind, one.extractor, shared.config.meta_training, setting, shared.dataset, seed,
        state=shared.run.checkpoints / f"{slug(*scope.split('/'))}.pt",
        recorder=shared.run.scope(scope), device=shared.device,
    )  # fmt: skip
    counts = evaluate_images(
        learner, shared.tested, shared.sampler(setting), shared.config.episodes.count, device=shared.device,
        progress=lambda done, total, text: shared.run.progress(done, total, f"{scope}: {text}"),
    )  # fmt: skip
    return counts, learner, mode


def kind_is_trained(ready: list[Ready], mode: Mode) -> bool:
    """Whether a seed took part in these weights: pretrained here, or meta-trained."""
    return mode != "frozen" or ready[0].extractor.pretrained


def batch_norm_mode(extractor: nn.Module, learner: Learner) -> str:
    """Return which statistics batch norm used: ``none`` where there is none, else ``running`` or the learner's own."""
    if not any(isinstance(part, _BatchNorm) for part in extractor.modules()):
        return "none"
    return str(getattr(learner, "batch_norm", "running"))


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
    total = len(shared.tested.labels)
    shown = np.linspace(0, total - 1, min(total, points)).round().astype(np.int64)
    images = torch.from_numpy(shared.tested.gather(shown)).float() / 255
    labels = [shared.tested.class_names[label] for label in shared.tested.labels[shown]]
    shared.run.board.embedding(name, one.features[torch.from_numpy(shown)], images, labels)
