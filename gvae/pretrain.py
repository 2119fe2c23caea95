"""The one pretraining loop: every objective, any device, resumed to exactly what an uninterrupted run gives."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gvae.augment import Augment
from gvae.checkpoint import save_state
from gvae.errors import ModelError
from gvae.objective import Batch, Phase, VAEObjective
from gvae.recorder import Recorder
from gvae.state import identify, restore, snapshot
from gvae.traverse import preview, preview_augmentation

LOG_EVERY = 25  # steps between two records; states are saved at these steps only, so no average is lost


@dataclass(frozen=True)
class Training:
    """How to train: ``learning_rate`` of Adam, at ``schedule``; seconds between two saved states."""

    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_seconds: float = 60.0


def mix(*numbers: int) -> int:
    """Hash integers to 63 bits (splitmix64's finaliser): the seed of a step's noise or an epoch's order."""
    state = 0
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


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
) -> VAEObjective:
    """Train ``objective`` on images (uint8, kept on the device) and labels; return it in eval mode.

    The order of an epoch, and the noise and augmentation of a step, depend on (seed, epoch) and (seed, step) alone.
    With ``state`` the run continues from that file where it exists, to bitwise the weights of an uninterrupted run on
    a CPU. ``augment`` changes every image of every batch, each on its own. ``monitor`` runs after every epoch, its
    numbers are recorded. ``factors``: known factors of the images, name -> (n,), of which the objective takes what it
    asks for. Raises ModelError on a factor that is missing, on a non-finite loss, before the step that it would spoil,
    on a state of another run, and on a jitter that the images cannot have.
    """
    recorder = recorder or Recorder()
    device = torch.device(device)
    objective.to(device).train()
    images, labels = images.to(device), labels.to(device)
    objective.prepare(factors or {})
    asked = {name: (factors or {})[name].to(device) for name in objective.factors}
    phases = objective.phases()
    optimisers = build_optimisers(phases, training)
    steps = _steps_per_epoch(len(images), training.batch_size)
    total = steps * training.epochs
    identity = identify(objective, images, labels, describe(training, augment), seed, asked) if state else {}
    done = restore(state, objective, optimisers, identity) if state else 0
    meter = Meter()
    saved = time.monotonic()
    recorder.progress(done, total, f"epoch {done // steps + 1}/{training.epochs}")
    for step in range(done, total):
        batch = draw(images, labels, step, steps, training.batch_size, seed, asked)
        if augment:
            plain = batch.images
            batch = batch._replace(images=augment(plain, seeded(device, seed, 3, step)))
        learning_rate = _learning_rate(training, step, total)
        for phase in phases:
            optimiser = optimisers[phase.optimiser]
            set_learning_rate(optimiser, learning_rate)
            with autocast(training.precision, device):
                loss, terms = phase.loss(batch)
            meter.add(check_finite(loss, terms, phase.name, step))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            check_gradients(phase, step)
            optimiser.step()
        epoch_ends = (step + 1) % steps == 0
        if (step + 1) % LOG_EVERY == 0 or epoch_ends:
            values = meter.flush()
            recorder.scalars(step + 1, {f"train/{name}": value for name, value in values.items()})
            recorder.progress(
                step + 1, total, f"epoch {step // steps + 1}/{training.epochs}, loss {values['loss']:.1f}"
            )
        if epoch_ends:
            report_epoch(objective, images, step + 1, recorder, monitor)
            if augment:
                preview_augmentation(plain, batch.images, step + 1, recorder)
        due = (step + 1) % LOG_EVERY == 0 and time.monotonic() - saved >= training.checkpoint_seconds
        if state and (due or step + 1 == total):
            save_state(state, snapshot(objective, optimisers, identity, step + 1))
            saved = time.monotonic()
    return objective.eval()


def build_optimisers(phases: list[Phase], training: Training) -> dict[str, torch.optim.Optimizer]:
    """Build one fused Adam for each optimiser that the phases name; phases that share one share parameters."""
    parameters = {phase.optimiser: phase.parameters for phase in phases}
    return {
        name: torch.optim.Adam(found, training.learning_rate, weight_decay=training.weight_decay, fused=True)
        for name, found in parameters.items()
    }


def draw(
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    step: int,
    steps: int,
    batch_size: int,
    seed: int,
    factors: Mapping[str, Tensor] | None = None,
) -> Batch:
    """Return the batch of a step: a slice of the epoch's seeded permutation, images as floats in [0, 1]."""
    epoch, position = divmod(step, steps)
    order = torch.randperm(len(images), generator=seeded("cpu", seed, 1, epoch))
    index = order[position * batch_size : (position + 1) * batch_size].to(images.device)
    known = {name: values[index] for name, values in (factors or {}).items()}
    noise = seeded(images.device, seed, 2, step)
    return Batch(images[index].float().mul_(1 / 255), labels[index], noise, step, known)


def seeded(device: torch.device | str, *numbers: int) -> torch.Generator:
    """Return a generator on a device, seeded by all of the numbers: seed, kind of randomness, step."""
    return torch.Generator(device).manual_seed(mix(*numbers))


def describe(training: Training, augment: Augment | None) -> dict[str, Any]:
    """Return how to train as plain data; augmentation is named only where there is one."""
    return {**asdict(training), **({"augmentation": augment.settings()} if augment else {})}


def check_finite(loss: Tensor, terms: Mapping[str, Tensor], phase: str, step: int) -> dict[str, Tensor]:
    """Return the terms with the loss, detached; raise ModelError naming the term when the loss is not finite."""
    if not torch.isfinite(loss):
        bad = [f"{name} = {value.item()}" for name, value in terms.items() if not torch.isfinite(value)]
        raise ModelError(
            f"the loss of phase {phase!r} is {loss.item()} at step {step} ({', '.join(bad) or 'all terms finite'}); "
            "stopped before the optimiser step. Lower training.learning_rate or the weight of that term"
        )
    name = "loss" if phase == "main" else f"loss_{phase}"
    return {name: loss.detach(), **{key: value.detach() for key, value in terms.items()}}


def check_gradients(phase: Phase, step: int) -> None:
    """Raise ModelError when a gradient is not finite, as it can be though the loss is: log, sqrt or a norm at 0."""
    gradients = [parameter.grad for parameter in phase.parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        raise ModelError(
            f"the gradient of phase {phase.name!r} has norm {norm.item()} at step {step} though its loss is finite; "
            "stopped before the optimiser step. Lower training.learning_rate or the weight of that phase's terms"
        )


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
        preview(objective, images[spread].float().mul_(1 / 255), step, recorder)  # images are sorted by class
        if monitor:
            recorder.scalars(step, dict(monitor(objective)))
    objective.train()


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return bfloat16 autocast where asked for; ``auto`` is bfloat16 on CUDA and float32 on a CPU."""
    enabled = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = value


def _learning_rate(training: Training, step: int, total: int) -> float:
    if training.schedule == "constant":
        return training.learning_rate
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))


def _steps_per_epoch(images: int, batch_size: int) -> int:
    if batch_size < 2 or batch_size > images:
        raise ModelError(f"training.batch_size must be between 2 and the {images} training images, got {batch_size}")
    return images // batch_size


def batches(images: Tensor, size: int = 512) -> Iterator[Tensor]:
    """Yield images (uint8) as floats in [0, 1], ``size`` at a time."""
    for start in range(0, len(images), size):
        yield images[start : start + size].float().mul_(1 / 255)
