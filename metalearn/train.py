"""Episodic meta-training: Adam over batches of training episodes, the checkpoint chosen on validation episodes."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gvae.augment import Augment
from gvae.checkpoint import load_state, save_state
from gvae.pretrain import scheduled, set_learning_rate
from gvae.recorder import Recorder
from gvae.share import ALONE, Share
from metalearn.auxiliary import Auxiliary
from metalearn.errors import UserError
from metalearn.evaluate import episode_images, evaluate_trained, located
from metalearn.learners.base import Learner
from metalearn.meta_batch import tasks_of
from metalearn.meta_step import augmented, meta_step, reproducible
from metalearn.traces import TRACED, show_inside
from tasks.resident import DeviceImages
from tasks.splits import Partition


@dataclass(frozen=True)
class MetaTrained:
    """The validation accuracy (a fraction) of the weights the learner was left with, and when they were reached.

    ``earlier``: seconds that it had taken up to the state from which it went on, 0 where there was none.
    """

    best_accuracy: float
    best_iteration: int
    earlier: float = field(default=0.0, compare=False)


def meta_train(
    learner: Learner,
    train: Partition,
    val: Partition,
    *,
    ways: int,
    shots: int,
    queries: int,
    meta_batch: int,
    iterations: int,
    learning_rate: float,
    seed: int,
    eval_every: int,
    eval_episodes: int,
    eval_ways: int | None = None,
    schedule: Literal["constant", "cosine"] = "constant",
    patience: int | None = None,
    augment: Augment | None = None,
    auxiliary: Auxiliary | None = None,
    tasks_at_once: int | None = None,
    device: str | torch.device = "cpu",
    state: Path | None = None,
    recorder: Recorder | None = None,
    share: Share = ALONE,
) -> MetaTrained:
    """Minimise the mean ``learner.meta_losses`` over ``meta_batch`` training episodes, ``iterations`` times, by Adam.

    ``schedule``: of the learning rate. ``auxiliary``: losses that are added in every iteration. Every ``eval_every``
    iterations and at the end, ``eval_episodes`` validation episodes, of ``eval_ways`` classes where it is given, are
    answered; the learner is left with the weights that answered best (the earliest of equals), on ``device``, in eval
    mode. Training ends before ``iterations`` once ``patience`` validations on end were no better than the best before
    them. Episodes depend on ``seed`` and the iteration alone, and so does what ``augment`` makes of each of their
    support and query images; validation images stay as they are. ``tasks_at_once``: how many episodes of a meta-batch
    are in memory together, by default what ``learner.tasks_at_once`` says; it changes memory, speed and rounding. With
    ``state``, a file, training goes on where that file stands, to exactly what an uninterrupted run gives (bitwise on a
    CPU, with the same ``tasks_at_once``); it is written after each validation. ``share``: several processes, all given
    the same, train as one would, each on its tasks of every meta-batch; process 0 alone keeps state and records.

    Raises UserError when nothing can be trained, when ``state`` is of another training, and, before the optimiser's
    step, on a loss or gradient that is not finite, naming iteration and task, and when memory does not suffice.
    ModelError for a broken ``state``.
    """
    began = time.monotonic()
    own = tasks_of(meta_batch, share)[share.rank]
    recorder = recorder if recorder and share.first else Recorder()
    learner = learner.to(device).train()
    optimizer = torch.optim.Adam(to_train(learner, auxiliary), lr=learning_rate)
    episode = {"ways": ways, "shots": shots, "queries": queries, "seed": seed}
    tasks, checks = train.episodes(**episode), val.episodes(**{**episode, "ways": eval_ways or ways})
    settings = {
        **episode, "meta_batch": meta_batch, "iterations": iterations, "learning_rate": learning_rate,
        "schedule": schedule, "eval_every": eval_every, "eval_episodes": eval_episodes, "patience": patience,
        "train": train.drawn_from, "val": val.drawn_from, "learner": type(learner).__name__,
        "initial weights": fingerprint(learner), **({"augmentation": augment.settings()} if augment else {}),
        **({"auxiliary": plain(auxiliary.settings())} if auxiliary else {}),
        **({"eval_ways": eval_ways} if eval_ways else {}),
    }  # fmt: skip
    done, best, earlier = resume(state, settings, learner, optimizer, auxiliary, share)
    start, stop = (count * len(own) for count in (done, iterations))
    episodes = episode_images(DeviceImages(train, device), tasks.of_each(meta_batch, own), start, stop)
    if augment:
        numbers = (iteration * meta_batch + task for iteration in range(done, iterations) for task in own)
        episodes = augmented(episodes, augment, seed, numbers)
    val_images = DeviceImages(val, device)

    for iteration in range(done, iterations):
        if patience and best and iteration - best["iteration"] >= patience * eval_every:
            recorder.progress(iterations, iterations, f"meta-training, over: the best of {best['iteration']} stands")
            break
        set_learning_rate(optimizer, scheduled(learning_rate, schedule, iteration, iterations))
        with reproducible(seed, iteration, device, share.rank):
            told = meta_step(learner, optimizer, episodes, iteration, meta_batch, tasks_at_once, auxiliary, share)
        recorder.scalars(iteration + 1, {f"train/{name}": value for name, value in told.items()})
        if (iteration + 1) % eval_every == 0 or iteration + 1 == iterations:
            with located(f"validation after iteration {iteration}"):
                correct = evaluate_trained(learner, val_images, checks, eval_episodes, device=device, share=share)
                if share.first:
                    watched = episode_images(val_images, checks, 0, min(TRACED, eval_episodes))
                    show_inside(learner, watched, recorder, iteration + 1)
            validation = float(correct.mean()) / (checks.ways * queries)
            recorder.scalars(iteration + 1, {"val/accuracy": validation})
            if best is None or validation > best["accuracy"]:
                best = {"accuracy": validation, "iteration": iteration + 1, "weights": copied(learner)}
            if state is not None and share.first:
                now = {"iteration": iteration + 1, "weights": learner.state_dict(), "optimizer": optimizer.state_dict()}
                beside = {"auxiliary": auxiliary.state()} if auxiliary else {}
                seconds = earlier + time.monotonic() - began
                save_state(state, {"settings": settings, **now, **beside, "best": best, "seconds": seconds})
        recorder.progress(iteration + 1, iterations, f"meta-training, loss {told['loss']:.3f}")

    assert best is not None  # iterations >= 1, and the last one is validated
    learner.load_state_dict(best["weights"])
    learner.eval()
    return MetaTrained(best["accuracy"], best["iteration"], earlier)


def resume(
    state: Path | None,
    settings: dict[str, Any],
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    auxiliary: Auxiliary | None = None,
    share: Share = ALONE,
) -> tuple[int, dict[str, Any] | None, float]:
    """Bring learner and optimiser to where ``state`` stands; return iterations and seconds done, and the best weights.

    Nothing to do without a file there. Process 0 reads it and tells the others. Raises UserError when the file was
    written with other settings, and where processes were not all given the same ones.
    """
    first = share.tell(settings)
    if first != settings:
        raise UserError(
            f"process {share.rank} was given another meta-training than process 0: {differences(first, settings)}; "
            "give every process the same config, data and version"
        )
    stored = share.tell(load_state(state) if share.first and state is not None and state.exists() else None)
    if stored is None:
        return 0, None, 0.0
    given = stored.get("settings", {})
    if given != settings:
        raise UserError(
            f"{state} is the state of another meta-training: {differences(given, settings)}; remove it to start "
            "again, or give the settings it was written with"
        )
    learner.load_state_dict(stored["weights"])
    optimizer.load_state_dict(stored["optimizer"])
    if auxiliary:
        auxiliary.load(stored["auxiliary"])
    return stored["iteration"], stored["best"], stored.get("seconds", 0.0)  # states of earlier versions do not tell


def differences(given: dict[str, Any], settings: dict[str, Any]) -> str:
    """Which settings were given otherwise."""
    named = [(key, settings.get(key)) for key in {**settings, **given}]
    return "; ".join(f"{key} {given.get(key)!r} (now {now!r})" for key, now in named if given.get(key) != now)


def to_train(learner: Learner, auxiliary: Auxiliary | None) -> list[Tensor]:
    """The parameters to train, those of ``auxiliary`` too, each once. Raises UserError when the learner has none."""
    parameters: list[Tensor] = [p for p in learner.parameters() if p.requires_grad]
    if not parameters:
        raise UserError(
            f"learner {type(learner).__name__} has no trainable parameter: give it an extractor with weights, or "
            "evaluate it as it is"
        )
    mine = {id(parameter) for parameter in parameters}
    return [*parameters, *(p for p in (auxiliary.parameters() if auxiliary else ()) if id(p) not in mine)]


def plain(settings: Any) -> Any:
    """Settings as what a state file gives back: tuples as lists, other things by their text."""
    return json.loads(json.dumps(settings, default=str))


def copied(learner: Learner) -> dict[str, Tensor]:
    """Weights and buffers, copied to the CPU."""
    return {name: value.detach().cpu().clone() for name, value in learner.state_dict().items()}


def fingerprint(learner: Learner) -> str:
    """SHA-256 over names, shapes and bytes of weights and buffers."""
    digest = hashlib.sha256()
    for name, value in copied(learner).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
