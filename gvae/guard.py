"""The guard before every optimiser step: no number that is not finite reaches a weight."""

import math
from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from gvae.batch import Phase
from gvae.errors import ModelError


class Guard:
    """Watches the losses and gradients of a training, on its device, and stops it before the first bad step.

    ``deferred``: a device that works ahead of the host would have to be waited for to know whether a loss is finite.
    So nothing is read in a step. From the first loss or gradient on that is not finite ``found`` is 1, and a fused
    optimiser that is given it as ``found_inf`` leaves weights and its own state as they are, in that step and in all
    that follow, until ``check`` reads the flag and raises. Who calls ``check`` before anything is saved or returned
    therefore never sees a spoiled weight, on any device. Not deferred, every step is checked before it is taken.
    """

    def __init__(self, device: torch.device, deferred: bool):
        self.deferred = deferred
        self.found = torch.zeros((), device=device)
        """1.0 since a loss or gradient was not finite, else 0.0; what an optimiser takes as ``found_inf``."""
        self._step = torch.zeros((), dtype=torch.long, device=device)
        self._seen: dict[str, tuple[list[str], Tensor]] = {}

    def watch(
        self, phase: Phase, loss: Tensor, terms: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, step: int
    ) -> None:
        """Look at a phase after its backward pass, before its optimiser's step; raises as ``check`` unless deferred.

        A gradient can be not finite though the loss is: log, sqrt or a norm at 0.
        """
        gradients = [parameter.grad for parameter in phase.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        values = torch.stack([value.detach().float() for value in (loss, norm, *terms.values())])
        before = self.found.bool()
        names, kept = self._seen.get(phase.name, (list(terms), values))
        self._seen[phase.name] = names, torch.where(before, kept, values)
        self._step = self._step * before + step * ~before  # where() would copy it there, and wait
        self.found = torch.maximum(self.found, (~values[:2].isfinite().all()).float())
        if self.deferred:
            vars(optimiser)["found_inf"] = self.found
        else:
            self.check()

    def check(self) -> None:
        """Raise ModelError naming the phase, the step and the terms when something was not finite; waits for it."""
        if self.found:
            for phase, (names, kept) in self._seen.items():
                loss, norm, *terms = kept.tolist()
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    _stop(phase, int(self._step), loss, norm, dict(zip(names, terms, strict=True)))


def _stop(phase: str, step: int, loss: float, norm: float, terms: Mapping[str, float]) -> NoReturn:
    fix = "stopped before the optimiser step. Lower training.learning_rate or the weight of that"
    if math.isfinite(loss):
        raise ModelError(
            f"the gradient of phase {phase!r} has norm {norm} at step {step} though its loss is finite; "
            f"{fix} phase's terms"
        )
    bad = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
    raise ModelError(
        f"the loss of phase {phase!r} is {loss} at step {step} ({', '.join(bad) or 'all terms finite'}); {fix} term"
    )
