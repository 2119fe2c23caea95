"""The class of a set excited in a context, with mixup in the head: guidance of a Neural Statistician."""

from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from gvae import losses
from gvae.batch import Batch, Seen, Terms
from gvae.errors import ModelError
from gvae.excitation import ClassAttribute
from gvae.part import Setting
from gvae.statistician import gaussian


class ContextClass(ClassAttribute):
    """A set's class excited in the slot ``class`` of its context and inhibited in ``content``, the rest.

    Ding et al. 2020, section 4.3: guidance by class after the statistic network of Edwards & Storkey 2017, with mixup.
    The head sees mixtures of the excited context of pairs of sets, share ~ Beta(mixup, mixup) for each, and the loss is
    ``gvae.losses.mixup_cross_entropy``; 0 is no mixup. ``guide``: the context of each ``set``, or of each ``image``
    alone, as a query is seen, which gives ``set_size`` times as many labels a step. Neither the paper's account nor its
    release, which has no few-shot code, settles which of the two, what is mixed (images or contexts), by which Beta,
    whether the adversary sees mixtures too (here it does not), the weights, and how many dimensions are excited.
    """

    def __init__(
        self,
        *,
        class_latents: int = 48,
        head: Literal["softmax", "prototype", "cosine"] = "softmax",
        excitation: float = 50.0,
        inhibition: float = 50.0,
        adversary_hidden: int = 128,
        mixup: float = 1.0,
        guide: Literal["set", "image"] = "set",
    ):
        super().__init__(
            class_latents=class_latents, head=head, excitation=excitation, inhibition=inhibition,
            adversary_hidden=adversary_hidden,
        )  # fmt: skip
        if mixup < 0:
            raise ModelError(f"mixup: given {mixup}; allowed: 0, no mixup, or more: both parameters of a Beta")
        self.mixup, self.guide = mixup, guide

    def build(self, setting: Setting) -> None:
        """Build head and adversary, and know the network that gives an image its context."""
        super().build(setting)
        self._posterior = partial(setting.vae.posterior)  # not a part of this one: no second copy of its weights

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return weighted excitation and inhibition of what is guided."""
        return super().loss(batch, self.guided(batch, seen))

    def adversary_loss(self, batch: Batch, seen: Seen, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return the adversary's loss on the rest of what is guided."""
        if self.guide == "image":
            with torch.no_grad():
                seen = self.guided(batch, seen)
            z = seen.z
        return super().adversary_loss(batch, seen, z)

    def guided(self, batch: Batch, seen: Seen) -> Seen:
        """Return what is guided: contexts of sets, as they are seen already, or a sample of those of single images."""
        if self.guide == "set":
            return seen
        posterior = gaussian(self._posterior(seen.hidden))
        return seen._replace(posterior=posterior, z=posterior.sample(batch.generator))

    def truth(self, batch: Batch, seen: Seen) -> Int[Tensor, " n"]:
        """Return the class of each set, that of its first image; or of each image where those are guided."""
        return batch.labels[:: len(batch.labels) // len(seen.z)]

    def excite(
        self, batch: Batch, mine: Float[Tensor, "n k"], truth: Shaped[Tensor, "n ..."]
    ) -> tuple[Float[Tensor, "n a"], Tensor]:
        """Return the head's answers on contexts as they are, and its loss on mixtures of pairs of them."""
        if not self.mixup:
            return super().excite(batch, mine, truth)
        share, partner = pairs(len(mine), self.mixup, batch.generator, mine.device)
        mixed = share[:, None] * mine + (1 - share[:, None]) * mine[partner]
        loss = losses.mixup_cross_entropy(self.head(mixed), truth, truth[partner], share).mean()
        return self.head(mine), loss


def pairs(
    n: int, concentration: float, generator: torch.Generator, device: torch.device
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Draw a share ~ Beta(concentration, concentration) and a partner, a permutation, for each of n."""
    where = generator.device
    partner = torch.rand(n, generator=generator, device=where).argsort()
    gamma = torch._standard_gamma(torch.full((2, n), concentration, device=where), generator=generator)
    first, second = gamma.clamp_min(torch.finfo(gamma.dtype).tiny)  # torch.distributions takes no generator
    return (first / (first + second)).to(device), partner.to(device)
