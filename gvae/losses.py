"""The terms of the objectives, one cited equation each, as pure functions.

Unless said otherwise a term is returned per image, shape (n,), in nats, summed over pixels or latents, so that
an objective is the batch mean of a weighted sum.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def bernoulli_nll(logits: Float[Tensor, "n c h w"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """-log p(x|z) under independent Bernoulli pixels, nats: Kingma & Welling 2014, appendix C.1."""
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)


def squared_error(prediction: Float[Tensor, "n c h w"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """|| x - prediction ||^2 summed over pixels: Ding et al. 2020, equation 4 (and the release's MSE, summed)."""
    return (prediction - images).square().flatten(1).sum(1)


def kl_to_standard_normal(mean: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each latent, nats: Kingma & Welling 2014, appendix B."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)


def gaussian_log_density(
    z: Float[Tensor, "*batch d"], mean: Float[Tensor, "*batch2 d"], logvar: Float[Tensor, "*batch3 d"]
) -> Float[Tensor, "*out d"]:
    """Log N(z; mean, exp(logvar)) elementwise, nats; the arguments broadcast."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mean).square() * torch.exp(-logvar))


def total_correlation(
    z: Float[Tensor, "n d"], mean: Float[Tensor, "n d"], logvar: Float[Tensor, "n d"], dataset_size: int
) -> Float[Tensor, " n"]:
    """Log q(z) - sum_j log q(z_j) by minibatch-weighted sampling: Chen et al. 2018, equation 5; its mean is TC.

    q(z) is estimated from the batch as 1/(N n) sum_i q(z | x_i), N = ``dataset_size`` images. That lower bound makes
    the value too large by (d - 1) log N where the batch is typical of the data, a constant without a gradient.
    """
    n, d = z.shape
    density = gaussian_log_density(z[:, None, :], mean[None], logvar[None])  # (n, n, d): z_i under posterior j
    weight = math.log(n * dataset_size)
    joint = torch.logsumexp(density.sum(2), 1) - weight
    marginals = (torch.logsumexp(density, 1) - weight).sum(1)
    return joint - marginals


def orthogonality(
    basis: Float[Tensor, "pixels k"], form: Literal["square", "absolute"] = "square"
) -> Float[Tensor, ""]:
    """Sum over ordered pairs k != j of (b_k . b_j)^2 (Ding et al. 2020, equation 5) or |b_k . b_j| (the release).

    A scalar for the whole basis, not a value per image.
    """
    gram = basis.T @ basis
    gram = gram - torch.diag_embed(torch.diagonal(gram))
    return gram.square().sum() if form == "square" else gram.abs().sum()


def cross_entropy_to_uniform(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """-1/K sum_k log p_k, nats: least (log K) where the adversary is driven to the uniform distribution.

    The K-class form of the release's third phase, which drives a binary adversary's output to 0.5.
    """
    return -F.log_softmax(logits, dim=1).mean(1)
