"""What holds the latents to the prior or apart: one regulariser a class, each added to the reconstruction's loss."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae import losses
from gvae.batch import Batch, Seen, Terms, plain_settings
from gvae.errors import ModelError


class Regularizer(nn.Module):
    """The part of a VAE's loss that is not reconstruction. Its constructor's keywords are its options."""

    discriminator: nn.Module | None
    discriminator_adam: tuple[float | None, tuple[float, float]]
    """Learning rate (None: the training's) and betas of the discriminator's optimiser, where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_module("discriminator", None)

    def build(self, latents: int, dataset_size: int) -> None:
        """Take what is known of the network and the data, before weights are drawn."""

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return (weighted regulariser, its terms besides ``kl``), batch means in nats."""
        raise NotImplementedError

    def discriminator_loss(self, batch: Batch, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return the loss of ``discriminator``, where there is one, on detached latents."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return the plain settings that the loss is a function of."""
        return {"regularizer": type(self).__name__, **plain_settings(self)}


class Beta(Regularizer):
    """Beta KL(q(z|x) || N(0, 1)): VAE (Kingma & Welling 2014) and beta-VAE (Higgins et al. 2017).

    ``regularizer="tc"`` adds (beta - 1) TC(z) to the plain KL instead of weighting it: beta-TCVAE, Chen et al. 2018,
    equation 4 with alpha = gamma = 1.
    """

    def __init__(self, *, beta: float = 1.0, regularizer: Literal["kl", "tc"] = "kl"):
        super().__init__()
        self.beta, self.form = beta, regularizer

    def build(self, latents: int, dataset_size: int) -> None:
        """Keep the number of images: the estimator of q(z) is weighted by it."""
        self.dataset_size = dataset_size

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return the weighted KL, or the KL and the weighted total correlation."""
        kl = seen.kl()
        if self.form == "kl":
            return self.beta * kl, {}
        tc = losses.total_correlation(seen.z, *seen.posterior, self.dataset_size).mean()
        return kl + (self.beta - 1) * tc, {"tc": tc}


class KL(Beta):
    """Beta KL(q(z|x) || N(0, 1)): VAE (Kingma & Welling 2014) and beta-VAE (Higgins et al. 2017)."""

    def __init__(self, *, beta: float = 1.0):
        super().__init__(beta=beta)


class TotalCorrelation(Beta):
    """Beta-TCVAE: KL + (beta - 1) TC(z) by minibatch-weighted sampling (Chen et al. 2018, equations 4 and 5)."""

    def __init__(self, *, beta: float = 6.0):
        super().__init__(beta=beta, regularizer="tc")


class Capacity(Regularizer):
    """Gamma |KL - C(step)|, C rising from 0 to ``capacity`` nats in ``capacity_steps`` (Burgess et al. 2018, eq. 8).

    The defaults are the paper's, for trainings of 100,000 steps and more: a shorter one must shorten the rise.
    """

    def __init__(self, *, gamma: float = 1000.0, capacity: float = 25.0, capacity_steps: int = 100_000):
        super().__init__()
        if capacity_steps < 1:
            raise ModelError(f"capacity_steps: given {capacity_steps}; allowed: 1 or more")
        self.gamma, self.capacity, self.capacity_steps = gamma, capacity, capacity_steps

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return the weighted distance of the KL from the step's capacity."""
        kl = seen.kl()
        allowed = losses.capacity_at(batch.step, self.capacity, self.capacity_steps)
        return self.gamma * (kl - allowed).abs(), {"capacity": torch.full_like(kl, allowed)}


class Factor(Regularizer):
    """FactorVAE: KL + gamma TC(z), TC from a discriminator with a phase of its own (Kim & Mnih 2018, algorithm 2).

    The discriminator has ``discriminator_layers`` hidden layers of ``discriminator_width`` units, LeakyReLU 0.2. It
    tells latents of the first half of a batch from those of the second half, permuted over the images one by one.
    ``discriminator_betas`` of its Adam are the paper's; ``discriminator_rate`` is its learning rate at the start of the
    training's schedule, None for the training's own (in the paper both are 1e-4).
    """

    def __init__(
        self,
        *,
        gamma: float = 6.4,
        discriminator_width: int = 1000,
        discriminator_layers: int = 6,
        discriminator_rate: float | None = None,
        discriminator_betas: Sequence[float] = (0.5, 0.9),
    ):
        super().__init__()
        if discriminator_rate is not None and not discriminator_rate > 0:
            raise ModelError(f"discriminator_rate: given {discriminator_rate}; allowed: above 0, or none")
        if len(discriminator_betas) != 2 or not all(0 <= beta < 1 for beta in discriminator_betas):
            raise ModelError(f"discriminator_betas: given {discriminator_betas}; allowed: two numbers in [0, 1)")
        first, second = discriminator_betas
        self.discriminator_adam = discriminator_rate, (first, second)
        if discriminator_width < 1 or discriminator_layers < 1:
            raise ModelError(
                f"discriminator_width, discriminator_layers: given {discriminator_width}, {discriminator_layers}; "
                "allowed: 1 or more"
            )
        self.gamma, self.width, self.depth = gamma, discriminator_width, discriminator_layers

    def build(self, latents: int, dataset_size: int) -> None:
        """Build the discriminator."""
        widths = [latents, *[self.width] * self.depth]
        layers: list[nn.Module] = []
        for before, width in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, width), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers, nn.Linear(self.width, 2))

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return the KL and the weighted total correlation as the discriminator sees it."""
        assert self.discriminator is not None
        tc = losses.log_density_ratio(self.discriminator(seen.z)).mean()
        return seen.kl() + self.gamma * tc, {"tc": tc}

    def discriminator_loss(self, batch: Batch, z: Float[Tensor, "n d"]) -> tuple[Tensor, Terms]:
        """Return the discriminator's cross-entropy, and its accuracy: 0.5 where latents are independent."""
        assert self.discriminator is not None
        half = len(z) // 2
        joint = self.discriminator(z[:half])
        permuted = self.discriminator(losses.permute_latents(z[half:], batch.generator))
        right = (losses.log_density_ratio(joint) > 0).float().mean()
        right = 0.5 * (right + (losses.log_density_ratio(permuted) <= 0).float().mean())
        loss = losses.discriminator_loss(joint, permuted)
        return loss, {"discriminator": loss, "discriminator_accuracy": right}


class DIP(Regularizer):
    """KL + the distance of a covariance of the latents from the identity (Kumar et al. 2018, equations 6 and 7)."""

    sampled: ClassVar[bool]
    """Whether the covariance is that of samples (II) or of posterior means (I)."""

    def __init__(self, *, off_diagonal: float, diagonal: float):
        super().__init__()
        self.off_diagonal, self.diagonal = off_diagonal, diagonal

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return the KL and the weighted penalty."""
        matrix = losses.covariance(seen.posterior.mean)
        if self.sampled:
            matrix = matrix + torch.diag_embed(seen.posterior.logvar.exp().mean(0))
        dip = losses.covariance_to_identity(matrix, self.off_diagonal, self.diagonal)
        return seen.kl() + dip, {"dip": dip}


class DIPI(DIP):
    """DIP-VAE-I: the covariance of posterior means is held to the identity (Kumar et al. 2018, equation 6)."""

    sampled = False

    def __init__(self, *, off_diagonal: float = 10.0, diagonal: float = 100.0):
        super().__init__(off_diagonal=off_diagonal, diagonal=diagonal)


class DIPII(DIP):
    """DIP-VAE-II: the covariance of sampled latents is held to the identity (Kumar et al. 2018, equation 7)."""

    sampled = True

    def __init__(self, *, off_diagonal: float = 10.0, diagonal: float = 10.0):
        super().__init__(off_diagonal=off_diagonal, diagonal=diagonal)


REGULARIZERS: dict[str, Callable[..., Regularizer]] = {
    "kl": KL,
    "capacity": Capacity,
    "tc": TotalCorrelation,
    "factor": Factor,
    "dip_i": DIPI,
    "dip_ii": DIPII,
}
