"""The class of a set excited in its context, with mixup in the head: guidance of a Neural Statistician."""

from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from gvae import losses
from gvae.batch import Batch, Seen
from gvae.errors import ModelError
from gvae.excitation import ClassAttribute


class ContextClass(ClassAttribute):
    """A set's class excited in the slot ``class`` of its context and inhibited in ``content``, the rest.

    Ding et al. 2020, section 4.3: guidance by class after the statistic network of Edwards & Storkey 2017, with mixup.
    The head sees mixtures of the excited context of pairs of sets, share ~ Beta(mixup, mixup) for each, and the loss is
    ``gvae.losses.mixup_cross_entropy``; 0 is no mixup. The paper does not say what is mixed, images or contexts, by
    which Beta, whether the adversary sees mixtures too (here it does not), nor its weights and how many dimensions of
    the context are excited.
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
    ):
        super().__init__(
            class_latents=class_latents, head=head, excitation=excitation, inhibition=inhibition,
            adversary_hidden=adversary_hidden,
        )  # fmt: skip
        if mixup < 0:
            raise ModelError(f"mixup: given {mixup}; allowed: 0, no mixup, or more: both parameters of a Beta")
        self.mixup = mixup

    def truth(self, batch: Batch, seen: Seen) -> Int[Tensor, " n"]:
        """Return the class of each set, that of its first image."""
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
