"""From an objective's config to an encoder on disk: built, pretrained on training classes, kept by its inputs."""

import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from gvae.atomic import write_atomic
from gvae.checkpoint import ENCODER, load_encoder, save_encoder
from gvae.errors import ModelError
from gvae.objective import VAEObjective
from gvae.objectives import OBJECTIVES
from gvae.pretrain import Training, pretrain
from gvae.recorder import Recorder
from gvae.share import ALONE, Share
from metalearn.augmentation import build_augment
from metalearn.cache import code_fingerprint, key_of, outside_code
from metalearn.errors import DataError, UserError
from metalearn.evaluate import evaluate_features
from metalearn.extractors import PosteriorMean
from metalearn.features import extract
from metalearn.kinds import TABLES, check_kind
from metalearn.learners.prototypical import Prototypical
from metalearn.schema import Kind, ModelConfig, MonitorConfig, TrainingConfig
from tasks.class_names import class_groups
from tasks.episodes import EpisodeSampler
from tasks.splits import Dataset


def encoder_key(
    dataset: Dataset, objective: Kind, model: ModelConfig, training: TrainingConfig, seed: int, device: str,
    share: Share = ALONE,
) -> str:  # fmt: skip
    """Hash of everything that the weights of an encoder are a function of."""
    choice = check_kind("objective", objective, OBJECTIVES, TABLES["objective"].skip)
    budget = training.model_dump(exclude={"checkpoint_seconds"})
    shared = {"processes": share.processes} if share.processes > 1 else {}
    return key_of(
        code=code_fingerprint(), outside=outside_code(choice.kind.model_dump()), images=dataset.train.fingerprint,
        classes=dataset.train.class_names, seed=seed, objective=choice.kind.model_dump(), model=model.model_dump(),
        training=budget, device=device.split(":")[0], threads=torch.get_num_threads(), **shared,
    )  # fmt: skip


def build_objective(dataset: Dataset, objective: Kind, model: ModelConfig, seed: int) -> VAEObjective:
    """Build an objective for the training part of a dataset; UserError or ModelError names what does not fit."""
    choice = check_kind("objective", objective, OBJECTIVES, TABLES["objective"].skip)
    train = dataset.train
    given = train.image_shape, len(train.class_names), len(train.labels), seed, model.trunk, model.latents
    try:
        inspect.signature(choice.build).bind(*given, **choice.options)
    except TypeError as error:
        raise UserError(
            f"objective {objective.kind!r} cannot be called: {error}; allowed: image_shape, classes, dataset_size, "
            "seed, trunk, latents, in this order, then its options by name"
        ) from None
    built = choice.build(*given, **choice.options)
    if not isinstance(built, VAEObjective):
        raise UserError(
            f"objective {objective.kind!r} gives a {type(built).__name__}; allowed: a gvae.objective.VAEObjective"
        )
    return built


def pretrain_encoder(
    dataset: Dataset,
    objective: Kind,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int,
    *,
    folder: Path,
    device: str,
    recorder: Recorder,
    monitor: MonitorConfig | None = None,
    share: Share = ALONE,
) -> Path:
    """Pretrain on the training classes, resuming from ``folder/state.pt``; return ``folder/encoder.safetensors``.

    Its metadata says what it saw: dataset, training classes, labels used, augmentation, and the seconds it took. Of
    several processes the first alone writes. Raises DataError where ``monitor`` cannot have its episodes.
    """
    if monitor:
        monitor_sampler(dataset, monitor)  # refuse what would fail after an epoch
    built = build_objective(dataset, objective, model, seed)
    state = folder / "state.pt"
    began = time.monotonic()
    before = _read_seconds(folder)
    images = torch.from_numpy(dataset.train.images())
    labels = torch.from_numpy(dataset.train.labels)

    def watch(now: VAEObjective) -> Mapping[str, float]:
        _write_seconds(folder, before + time.monotonic() - began)
        return validation_accuracy(now, dataset, monitor, device) if monitor else {}

    pretrain(
        built, images, labels, training=Training(**training.model_dump(exclude={"augmentation"})), seed=seed,
        augment=build_augment(training.augmentation, images.shape[1]), device=device, state=state, recorder=recorder,
        monitor=watch, factors={name: torch.from_numpy(values) for name, values in dataset.train.factors.items()},
        groups=class_groups(dataset.train.class_names), share=share,
    )  # fmt: skip
    if not share.first:
        return folder / ENCODER
    info = {
        "objective": objective.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        **provenance(dataset, built.labels_used, before + time.monotonic() - began, seed),
    }
    return save_encoder(folder, built.vae, info)


def provenance(
    dataset: Dataset, labels_used: str, seconds: float, seed: int, classes_before: Collection[str] = ()
) -> dict[str, Any]:
    """What a checkpoint says of its training on a dataset, and on the classes that were seen before."""
    return {
        "labels_used": labels_used,
        "seed": seed,
        "dataset": dataset.label,
        "dataset_settings": dict(dataset.settings),
        "dataset_fingerprint": dataset.train.fingerprint,
        "training_classes": sorted(dataset.train.base_classes | frozenset(classes_before)),
        "seconds": round(seconds, 1),
    }


def kept_encoder(
    folder: Path, make: Callable[[], Path], recorder: Recorder, share: Share = ALONE
) -> tuple[Path, dict[str, Any]]:
    """Return the encoder kept in ``folder`` with its info, or make it; a damaged one is made again and said so.

    Of several processes the first looks, and all make it; they need a folder that all can read. Another run that makes
    the same encoder at this time is waited for.
    """
    path = folder / ENCODER
    with alone_in(folder, recorder) if share.first else nullcontext():
        if not share.tell(share.first and is_whole(path, recorder)):
            make()
        share.tell(None)  # it is written when the first process comes to this point
    return path, load_encoder(path)[1]


@contextmanager
def alone_in(folder: Path, recorder: Recorder) -> Iterator[None]:
    """Inside, no other process that asks is in the folder; the system gives it free when this process ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        recorder.progress(0, 0, "waiting for another process that trains this encoder")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_whole(path: Path, recorder: Recorder) -> bool:
    """Whether an encoder is kept in a file; a damaged one is removed and said so."""
    if not path.exists():
        return False
    try:
        load_encoder(path)
    except ModelError as error:
        recorder.text(0, "cache", f"kept encoder {path} is damaged and is trained again: {error}")
        path.unlink()
        return False
    return True


def forget_state(folder: Path) -> None:
    """Remove what only an unfinished training needs from the folder of a finished one."""
    for name in ("state.pt", "seconds.txt"):
        (folder / name).unlink(missing_ok=True)


def monitor_sampler(dataset: Dataset, monitor: MonitorConfig) -> EpisodeSampler:
    """Return the episodes of the validation classes; DataError where that part cannot give them."""
    try:
        return dataset.val.episodes(ways=monitor.ways, shots=monitor.shots, queries=monitor.queries, seed=0)
    except DataError as error:
        raise DataError(
            f"monitor: the validation part of {dataset.label} has no such episodes: {error}; or train without them by "
            "monitor: null"
        ) from None


def validation_accuracy(
    objective: VAEObjective, dataset: Dataset, monitor: MonitorConfig, device: str
) -> dict[str, float]:
    """Return the accuracy (fraction) of nearest class mean on episodes of the validation classes; draws nothing."""
    sampler = monitor_sampler(dataset, monitor)
    features = extract(PosteriorMean(objective.vae), dataset.val, device=device)
    correct = evaluate_features(features, dataset.val.labels, Prototypical(), sampler, monitor.episodes)
    name = f"val/accuracy_{monitor.ways}w{monitor.shots}s"
    return {name: float(correct.mean()) / (monitor.ways * monitor.queries)}


def _read_seconds(folder: Path) -> float:
    """Seconds that earlier starts of an interrupted training took, 0 where there was none."""
    path = folder / "seconds.txt"
    return float(path.read_text()) if path.exists() and (folder / "state.pt").exists() else 0.0


def _write_seconds(folder: Path, seconds: float) -> None:
    write_atomic(folder / "seconds.txt", lambda file: file.write(f"{seconds:.1f}".encode()))
