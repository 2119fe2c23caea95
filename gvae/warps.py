"""Guidance by known transformations: a random warp's parameters are labels that cost nothing."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae import losses
from gvae.arithmetic import widened
from gvae.augment import Augment, Parameters
from gvae.batch import Batch, Seen, Terms
from gvae.errors import ModelError
from gvae.excitation import Excitation, Form
from gvae.guidance import TRANSFORMS, build_adversary
from gvae.nets import build_trunk
from gvae.part import Setting
from gvae.vae import take, width

WARPED = ("rotation", "scale", "translation", "shear")
"""What a warp's parameters can be read back from; other augmentation has no slot."""


def excited_slots(warp: Augment) -> dict[str, int]:
    """Return the slots of what ``warp`` does and their latents; ModelError where it does what has no slot, or nothing.

    A crop or a flip has none: it moves and turns the image by more than the other parameters say. What is bent has none
    either but is let through: it moves pixels about the place that the parameters say, which stay true on average.
    """
    if warp.crop != (1, 1) or warp.flip:
        raise ModelError(
            f"warp: crop {list(warp.crop)} and flip {warp.flip} have no slot; allowed: {', '.join(WARPED)}"
        )
    found = {name: TRANSFORMS[name] for name, low_high in _ranges(warp).items() if low_high[0] < low_high[1]}
    if not found:
        raise ModelError(f"warp: given {warp.settings()}, which moves no pixel; allowed: one or more of "
                         f"{', '.join(WARPED)}")  # fmt: skip
    return found


def standardised(warp: Augment, drawn: Parameters) -> Float[Tensor, "n k"]:
    """Return what was drawn for ``excited_slots(warp)``, in their order, with mean 0 and variance 1."""
    columns = []
    for name in excited_slots(warp):
        low, high = _ranges(warp)[name]
        values = getattr(drawn, name).view(len(drawn.scale), -1)
        columns.append((values - (low + high) / 2) * (math.sqrt(12) / (high - low)))
    return torch.cat(columns, 1)


def _ranges(warp: Augment) -> dict[str, tuple[float, float]]:
    return {
        "rotation": (-warp.rotation, warp.rotation),
        "scale": warp.scale,
        "translation": (-warp.translation, warp.translation),
        "shear": (-warp.shear, warp.shear),
    }


class Warps(Excitation):
    """The parameters of a random warp excite the geometric slots, and are inhibited in the rest.

    What is encoded is the warped image. A linear head reads the parameters from the slots ``rotation``, ``scale``,
    ``translation`` and ``shear``, those that the warp has; an adversary must not find them in the other latents. From
    the latents of no geometric slot a decoder of its own draws the image as it was before the warp, by
    ``canonical_weight``; 0 has no such decoder.
    """

    warped = True
    label = "warp"
    canonical: nn.Module

    def __init__(
        self,
        *,
        excitation: float = 50.0,
        inhibition: float = 50.0,
        canonical_weight: float = 1.0,
        adversary_hidden: int = 128,
        form: Form = "joint",
    ):
        super().__init__("continuous", excitation, inhibition, adversary_hidden, form)
        self.canonical_weight = canonical_weight

    def slots(self, latents: int, warp: Augment | None) -> dict[str, int]:
        """Return a slot for each kind of movement that the warp has."""
        assert warp is not None  # the objective sees to that: ``warped``
        return excited_slots(warp)

    def build(self, setting: Setting) -> None:
        """Build the head, the adversary, and the canonical decoder."""
        vae, warp = setting.vae, setting.warp
        assert warp is not None
        self._warp, self._likelihood = warp, vae.likelihood
        mine, rest = self.divide(vae, tuple(excited_slots(warp)))
        self.head = nn.Linear(mine, mine)
        self.adversary = build_adversary(rest, mine, self.adversary_hidden)
        if self.canonical_weight:
            self._shown = vae.chosen(TRANSFORMS, others=True)
            self.canonical = build_trunk(vae.trunk_name, vae.image_shape, width(self._shown))[1]

    @property
    def image_nets(self) -> list[nn.Module]:
        """The decoder of its own."""
        return [self.canonical] if self.canonical_weight else []

    def truth(self, batch: Batch, seen: Seen) -> Float[Tensor, "n k"]:
        """Return the standardised parameters of each image's warp."""
        assert seen.drawn is not None
        return standardised(self._warp, seen.drawn)

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return weighted excitation, inhibition and the error of the canonical image."""
        loss, terms = super().loss(batch, seen)
        if self.canonical_weight:
            error = losses.bernoulli_nll if self._likelihood == "bernoulli" else losses.squared_error
            shown = take(batch.share.mine(seen.z), self._shown)
            terms["canonical"] = error(widened(self.canonical(shown)), batch.images).mean()
            loss = loss + self.canonical_weight * terms["canonical"]
        return loss, terms

    def pictures(self, z: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, "n c h w"]]:
        """Return the image as it would be before a warp."""
        if not self.canonical_weight:
            return {}
        output = self.canonical(take(z, self._shown))
        return {"unwarped": output.sigmoid() if self._likelihood == "bernoulli" else output.clamp(0, 1)}
