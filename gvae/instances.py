"""Guidance by identity: two warps of one image excite the same content."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae import losses
from gvae.batch import Batch, Seen, Terms, full_precision
from gvae.errors import ModelError
from gvae.part import Part, Setting, places
from gvae.vae import take, width


class Instances(Part):
    """Each image under two warps: its content must find its partner among the batch (NT-Xent, Chen et al. 2020).

    On the posterior means of the ``slots`` (default: content), through a hidden layer of ``projection`` units and a
    linear one where that is not 0. With an objective's ``elbo`` at 0 it is a contrastive encoder without any VAE term.
    """

    warped = True
    second_view = True

    def __init__(
        self,
        *,
        instance_weight: float = 100.0,
        temperature: float = 0.1,
        projection: int = 0,
        slots: Sequence[str] = ("content",),
    ):
        super().__init__()
        if temperature <= 0 or projection < 0:
            raise ModelError(
                f"temperature, projection: given {temperature}, {projection}; allowed: above 0, and 0 or more units"
            )
        self.instance_weight, self.temperature = instance_weight, temperature
        self.projection, self.compared = projection, tuple(slots)

    def build(self, setting: Setting) -> None:
        """Build the projection."""
        self._places = places(setting.vae, self.compared)
        hidden = self.projection
        self.project: nn.Module = nn.Identity()
        if hidden:
            self.project = nn.Sequential(nn.Linear(width(self._places), hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return (weighted NT-Xent, the term and how many images find their partner)."""
        assert seen.other is not None
        with full_precision(seen.z):
            one = self.project(take(seen.posterior.mean, self._places))
            other = self.project(take(seen.other.mean, self._places))
            instances = losses.normalised_temperature_cross_entropy(one, other, self.temperature).mean()
        terms = {"instances": instances, "instance_accuracy": _found(one.detach(), other.detach())}
        return self.instance_weight * instances, terms


def _found(one: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Share of images whose second view is the nearest of all second views."""
    nearest = (nn.functional.normalize(one, dim=1) @ nn.functional.normalize(other, dim=1).T).argmax(1)
    return (nearest == torch.arange(len(one), device=one.device)).float().mean()
