"""The one pretraining loop: every objective, any device, resumed to exactly what an uninterrupted run gives."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gvae.arithmetic import MemoryFormat, Precision, autocast, compiled, float32_products, memory_layout
from gvae.augment import Augment
from gvae.batch import Phase
from gvae.batch_norm import shared_statistics
from gvae.checkpoint import save_state
from gvae.errors import ModelError
from gvae.guard import Guard
from gvae.objective import VAEObjective
from gvae.recorder import Recorder
from gvae.seeds import seeded
from gvae.share import ALONE, Share
from gvae.shuffled import Shuffled, as_floats
from gvae.state import identify, restore, snapshot
from gvae.traverse import preview, preview_augmentation

Schedule = Literal["constant", "cosine"]
LOG_EVERY = 25  # steps between two records; states are saved at these steps only, so no average is lost


@dataclass(frozen=True)
class Training:
    """How to train: ``learning_rate`` of Adam, at ``schedule``; seconds between two saved states.

    ``precision``, ``memory_format`` and ``compile`` say how to compute it, see `gvae.arithmetic`; all three change the
    last bits of the weights, or more, and are therefore part of what a training is.
    """

    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    precision: Precision = "auto"
    memory_format: MemoryFormat = "channels_last"
    compile: bool = False
    checkpoint_seconds: float = 60.0


def pretrain(
    objective: VAEObjective,
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    training: Training,
    seed: int,
    augment: Augment | None = None,
    device: str | torch.device = "cpu",
    state: Path | None = None,
    recorder: Recorder | None = None,
    monitor: Callable[[VAEObjective], Mapping[str, float]] | None = None,
    factors: Mapping[str, Tensor] | None = None,
    groups: Int[np.ndarray, " classes"] | None = None,
    share: Share = ALONE,
) -> VAEObjective:
    """Train ``objective`` on images (uint8, kept on the device) and labels; return it in eval mode.

    The order of an epoch, and the noise and augmentation of a step, depend on (seed, epoch) and (seed, step) alone.
    With ``state`` the run continues from that file where it exists, to bitwise the weights of an uninterrupted run on
    a CPU. ``augment`` changes every image of every batch, each on its own. ``monitor`` runs after every epoch, its
    numbers are recorded. ``factors``: known factors of the images, name -> (n,), of which the objective takes what it
    asks for. ``groups``: which group each class belongs to, for objectives that want classes of one group together.
    Raises ModelError on a factor that is missing, on a loss or gradient that is not finite, before the step
    that it would spoil, on a state of another run, and on a jitter that the images cannot have. Where the device works
    ahead of the host nothing waits for it within a step (see ``Guard``): that error then comes with the next record.
    ``share``: several processes, all given the same, train as one would; process 0 alone keeps state and records.
    """
    if not share.first:
        state = recorder = monitor = None
    recorder = recorder or Recorder()
    device = torch.device(device)
    objective.to(device).train()
    objective.prepare(factors or {})
    asked = {name: (factors or {})[name].to(device) for name in objective.factors}
    if share.processes > 1 and objective.set_size > 1:
        raise ModelError("an objective on sets is trained by one process; start it without torchrun")
    shuffled = Shuffled(
        images.to(device), labels.to(device), training.batch_size, seed, asked, share, set_size=objective.set_size,
        group_size=objective.group_size, groups=groups,
    )  # fmt: skip
    phases = objective.phases()
    optimisers = build_optimisers(phases, training.learning_rate, training.weight_decay)
    steps, total = shuffled.steps, shuffled.steps * training.epochs
    kept = state or share.processes > 1
    alike = {"groups": torch.from_numpy(groups)} if groups is not None and objective.group_size > 1 else {}
    identity = identify(objective, images, labels, describe(training, augment), seed, asked | alike) if kept else {}
    meter, guard = Meter(), Guard(device, deferred=works_ahead(device))
    with computing(objective, training, device, share):
        done = restore(state, objective, optimisers, identity, share)
        saved = time.monotonic()
        recorder.progress(done, total, f"epoch {done // steps + 1}/{training.epochs}")
        for step in range(done, total):
            batch = shuffled[step]
            if augment:
                plain = batch.images
                batch = batch._replace(images=augment(plain, seeded(device, seed, 3, step), share))
            for phase in phases:
                optimiser, base = optimisers[phase.optimiser], rate(phase, training.learning_rate)
                set_learning_rate(optimiser, scheduled(base, training.schedule, step, total))
                with autocast(training.precision, device):
                    loss, terms = phase.loss(batch)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                loss, terms = share.average(phase.parameters, loss, terms)
                guard.watch(phase, loss, terms, optimiser, step)
                optimiser.step()
                meter.add(named(phase, loss, terms))
            epoch_ends, log = (step + 1) % steps == 0, (step + 1) % LOG_EVERY == 0
            if log or epoch_ends:
                guard.check()
                values = meter.flush()
                recorder.scalars(step + 1, {f"train/{name}": value for name, value in values.items()})
                recorder.progress(
                    step + 1, total, f"epoch {step // steps + 1}/{training.epochs}, loss {values['loss']:.1f}"
                )
            if epoch_ends:
                report_epoch(objective, shuffled.images, step + 1, recorder, monitor)
                if augment:
                    preview_augmentation(plain, batch.images, step + 1, recorder)
            due = log and time.monotonic() - saved >= training.checkpoint_seconds
            if state and (due or step + 1 == total):
                save_state(state, snapshot(objective, optimisers, identity, step + 1))
                saved = time.monotonic()
    return objective.eval()


def works_ahead(device: torch.device) -> bool:
    """Whether the device runs behind the host, so that reading a number from it costs a wait."""
    return device.type != "cpu"


@contextmanager
def computing(objective: VAEObjective, training: Training, device: torch.device, share: Share) -> Iterator[None]:
    """Compute in the training's way: precision, layout, batch norm over the batch, compilation; undone at the end."""
    vae = objective.vae
    with (
        float32_products(training.precision, device),
        memory_layout(vae, training.memory_format),
        shared_statistics(objective.image_nets, share),
        compiled([vae.encoder, vae.decoder], training.compile, device),
    ):
        yield


def build_optimisers(
    phases: Sequence[Phase], learning_rate: float, weight_decay: float = 0.0
) -> dict[str, torch.optim.Optimizer]:
    """Build one fused Adam for each optimiser that the phases name; phases that share one share parameters."""
    return {
        name: torch.optim.Adam(
            phase.parameters, rate(phase, learning_rate), phase.betas, weight_decay=weight_decay, fused=True
        )
        for name, phase in {phase.optimiser: phase for phase in phases}.items()
    }


def rate(phase: Phase, learning_rate: float) -> float:
    """Return the learning rate that a phase's optimiser starts with: its own, or the training's."""
    return learning_rate if phase.rate is None else phase.rate


def describe(training: Training, augment: Augment | None) -> dict[str, Any]:
    """Return how to train as plain data; augmentation is named only where there is one."""
    return {**asdict(training), **({"augmentation": augment.settings()} if augment else {})}


def named(phase: Phase, loss: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss, by its phase's name, and the terms, detached: what is recorded."""
    name = "loss" if phase.name == "main" else f"loss_{phase.name}"
    return {name: loss.detach(), **{key: value.detach() for key, value in terms.items()}}


class Meter:
    """Running means on the device: the numbers come to the host only when they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one observation of each name."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self) -> dict[str, float]:
        """Return the means and start anew."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def report_epoch(
    objective: VAEObjective,
    images: UInt8[Tensor, "n c h w"],
    step: int,
    recorder: Recorder,
    monitor: Callable[[VAEObjective], Mapping[str, float]] | None,
) -> None:
    """Record the pictures, KL per latent and the monitor's numbers, in eval mode; draws no random number."""
    objective.eval()
    with torch.no_grad():
        spread = torch.linspace(0, len(images) - 1, min(512, len(images)), device=images.device).long()
        preview(objective, as_floats(images[spread]), step, recorder)  # images are sorted by class
        if monitor:
            recorder.scalars(step, dict(monitor(objective)))
    objective.train()


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = value


def scheduled(learning_rate: float, schedule: Schedule, step: int, total: int) -> float:
    """Return the learning rate of a step of ``total``; ``cosine`` falls to 0 (Loshchilov & Hutter 2017, eq. 5)."""
    if schedule == "constant":
        return learning_rate
    return learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))


def batches(images: Tensor, size: int = 512) -> Iterator[Tensor]:
    """Yield images (uint8) as floats in [0, 1], ``size`` at a time."""
    for start in range(0, len(images), size):
        yield as_floats(images[start : start + size])
