"""Episodic meta-training: Adam over batches of training episodes, the checkpoint chosen on validation episodes."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvae.augment import Augment
from gvae.checkpoint import load_state, save_state
from gvae.recorder import Recorder
from gvae.seeds import seeded
from metalearn.errors import UserError
from metalearn.evaluate import episode_images, evaluate_images, located
from metalearn.learners.base import EpisodeError, Learner
from tasks.episodes import EpisodeSampler
from tasks.resident import DeviceImages
from tasks.splits import Partition

Episode = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support images and labels, query images and labels."""


@dataclass(frozen=True)
class MetaTrained:
    """The validation accuracy (a fraction) of the weights the learner was left with, and when they were reached."""

    best_accuracy: float
    best_iteration: int


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
    augment: Augment | None = None,
    tasks_at_once: int | None = None,
    device: str | torch.device = "cpu",
    state: Path | None = None,
    recorder: Recorder | None = None,
) -> MetaTrained:
    """Minimise the mean ``learner.meta_losses`` over ``meta_batch`` training episodes, ``iterations`` times, by Adam.

    Every ``eval_every`` iterations and at the end, ``eval_episodes`` validation episodes are answered; the learner is
    left with the weights that answered best (the earliest of equals), on ``device``, in eval mode. Episodes depend on
    ``seed`` and the iteration alone, and so does what ``augment`` makes of each of their support and query images;
    validation images stay as they are. ``tasks_at_once``: how many episodes of a meta-batch are in memory together, by
    default what ``learner.tasks_at_once`` says; it changes memory, speed and rounding. With ``state``, a file, training
    goes on where that file stands, to exactly what an uninterrupted run gives (bitwise on a CPU, with the same
    ``tasks_at_once``); it is written after each validation.

    Raises UserError when nothing can be trained, when ``state`` is of another training, and, before the optimiser's
    step, on a loss or gradient that is not finite, naming iteration and task, and when memory does not suffice.
    ModelError for a broken ``state``.
    """
    recorder = recorder or Recorder()
    learner = learner.to(device).train()
    optimizer = torch.optim.Adam(trainable(learner), lr=learning_rate)
    episode = {"ways": ways, "shots": shots, "queries": queries, "seed": seed}
    tasks = EpisodeSampler(train.labels, **episode, class_names=train.class_names)
    checks = EpisodeSampler(val.labels, **episode, class_names=val.class_names)
    settings = {
        **episode, "meta_batch": meta_batch, "iterations": iterations, "learning_rate": learning_rate,
        "eval_every": eval_every, "eval_episodes": eval_episodes, "train": train.fingerprint, "val": val.fingerprint,
        "learner": type(learner).__name__, "initial weights": fingerprint(learner),
        **({"augmentation": augment.settings()} if augment else {}),
    }  # fmt: skip
    done, best = resume(state, settings, learner, optimizer)
    episodes = episode_images(DeviceImages(train, device), tasks, done * meta_batch, iterations * meta_batch)
    if augment:
        episodes = augmented(episodes, augment, seed, done * meta_batch)
    val_images = DeviceImages(val, device)

    for iteration in range(done, iterations):
        with reproducible(seed, iteration, device):
            loss, accuracy = meta_step(learner, optimizer, episodes, iteration, meta_batch, tasks_at_once)
        recorder.scalars(iteration + 1, {"train/loss": loss, "train/accuracy": accuracy})
        if (iteration + 1) % eval_every == 0 or iteration + 1 == iterations:
            with located(f"validation after iteration {iteration}"):
                correct = evaluate_images(learner, val_images, checks, eval_episodes, device=device)
            validation = float(correct.mean()) / (ways * queries)
            recorder.scalars(iteration + 1, {"val/accuracy": validation})
            if best is None or validation > best["accuracy"]:
                best = {"accuracy": validation, "iteration": iteration + 1, "weights": copied(learner)}
            if state is not None:
                now = {"iteration": iteration + 1, "weights": learner.state_dict(), "optimizer": optimizer.state_dict()}
                save_state(state, {"settings": settings, **now, "best": best})
        recorder.progress(iteration + 1, iterations, f"meta-training, loss {loss:.3f}")

    assert best is not None  # iterations >= 1, and the last one is validated
    learner.load_state_dict(best["weights"])
    learner.eval()
    return MetaTrained(best["accuracy"], best["iteration"])


def augmented(episodes: Iterator[Episode], augment: Augment, seed: int, first: int) -> Iterator[Episode]:
    """Episodes from number ``first`` on, every image augmented on its own, by the seed and the episode's number."""
    for number, (support, labels, query, truth) in enumerate(episodes, first):
        noise = seeded(support.device, seed, 4, number)
        yield augment(support, noise), labels, augment(query, noise), truth


def meta_step(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    episodes: Iterator[Episode],
    iteration: int,
    meta_batch: int,
    tasks_at_once: int | None = None,
) -> tuple[float, float]:
    """One optimiser step on the next ``meta_batch`` episodes; return the mean loss and the mean accuracy.

    ``tasks_at_once``: how many episodes are in memory together, by default what ``learner.tasks_at_once`` says.
    Raises UserError, before the step, on a loss or gradient that is not finite and when memory does not suffice.
    """
    optimizer.zero_grad()
    where = f"meta-training stopped at iteration {iteration}"
    batch, found = list(islice(episodes, meta_batch)), []
    support, labels, query, truth = batch[0]
    at_once = tasks_at_once or learner.tasks_at_once(len(support) + len(query), support.device) or meta_batch
    for first in range(0, meta_batch, at_once):
        chunk = batch[first : first + at_once]
        supports, queries = (torch.stack([episode[place] for episode in chunk]) for place in (0, 2))
        with enough_memory(where, len(chunk)):
            try:
                losses, correct = learner.meta_losses(supports, labels, queries, truth)
            except EpisodeError as error:
                raise UserError(f"{where}, task {first + error.episode}: {error}") from error
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            (losses.sum() / meta_batch).backward()
        found.append((losses.detach(), correct))
    losses, correct = (torch.cat(each) for each in zip(*found, strict=True))
    for task, loss in enumerate(losses.tolist()):
        if not math.isfinite(loss):
            with located(f"{where}, task {task}"):
                learner.meta_loss(*batch[task])  # says more where it can
                raise UserError(f"the loss is {loss}; lower learning_rate, or inner_lr where there is one")
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    finite = torch.stack([gradient.isfinite().all() for gradient in gradients.values()]).tolist()
    for name, fine in zip(gradients, finite, strict=True):
        if not fine:
            raise UserError(f"{where}: the gradient of {name} is not finite")
    optimizer.step()
    return float(losses.mean()), int(correct.sum()) / (meta_batch * len(truth))


@contextmanager
def enough_memory(where: str, tasks: int) -> Iterator[None]:
    """Say which setting to lower when memory does not suffice inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's error on a CPU has no class of its own
        words = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in words:
            raise
        lower = f"tasks_at_once (now {tasks})" if tasks > 1 else "queries, shots or adapt_steps (tasks_at_once is 1)"
        raise UserError(f"{where}: out of memory; lower {lower}: {words.splitlines()[0] if words else ''}") from error


def resume(
    state: Path | None, settings: dict[str, Any], learner: Learner, optimizer: torch.optim.Optimizer
) -> tuple[int, dict[str, Any] | None]:
    """Bring learner and optimiser to where ``state`` stands; return the iterations done and the best weights so far.

    Nothing to do without a file there. Raises UserError when the file was written with other settings.
    """
    if state is None or not state.exists():
        return 0, None
    stored = load_state(state)
    given = stored.get("settings", {})
    if given != settings:
        named = [(key, settings.get(key)) for key in {**settings, **given}]
        other = [f"{key} {given.get(key)!r} (now {now!r})" for key, now in named if given.get(key) != now]
        raise UserError(
            f"{state} is the state of another meta-training: {'; '.join(other)}; remove it to start again, or give the "
            "settings it was written with"
        )
    learner.load_state_dict(stored["weights"])
    optimizer.load_state_dict(stored["optimizer"])
    return stored["iteration"], stored["best"]


def trainable(learner: Learner) -> list[Tensor]:
    """The parameters to train. Raises UserError when there is none."""
    parameters: list[Tensor] = [p for p in learner.parameters() if p.requires_grad]
    if not parameters:
        raise UserError(
            f"learner {type(learner).__name__} has no trainable parameter: give it an extractor with weights, or "
            "evaluate it as it is"
        )
    return parameters


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


@contextmanager
def reproducible(seed: int, iteration: int, device: str | torch.device) -> Iterator[None]:
    """Inside, random numbers (dropout's, say) depend on (seed, iteration) alone; the global state survives."""
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        number = (seed * 1_000_003 + iteration) % 2**63
        torch.default_generator.manual_seed(number)
        if cuda:
            torch.cuda.manual_seed(number)
        yield
