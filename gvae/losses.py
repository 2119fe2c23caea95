"""The terms of the objectives, one cited equation each, as pure functions.

Unless said otherwise a term is returned per image, shape (n,), in nats, summed over pixels or latents, so that
an objective is the batch mean of a weighted sum.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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


def kl_between_gaussians(
    mean: Float[Tensor, "*batch d"],
    logvar: Float[Tensor, "*batch d"],
    other_mean: Float[Tensor, "*batch2 d"],
    other_logvar: Float[Tensor, "*batch2 d"],
) -> Float[Tensor, "*out d"]:
    """KL(N(mean, exp(logvar)) || N(other_mean, exp(other_logvar))) of each latent, nats; the arguments broadcast."""
    shift = (mean - other_mean).square() * torch.exp(-other_logvar)
    return 0.5 * (other_logvar - logvar + torch.exp(logvar - other_logvar) + shift - 1.0)


def set_bound(
    log_likelihood: Float[Tensor, "b s"], kl_latents: Float[Tensor, "b s"], kl_context: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """L_D of each of b sets of s images, nats: Edwards & Storkey 2017, equation 4 (or 7 to 10, several layers of z).

    ``log_likelihood``: log p(x|c, z). ``kl_latents``: KL of an image's z from p(z|c), summed over layers.
    ``kl_context``: KL(q(c|D) || p(c)), once a set. (Equation 7 of the paper adds divergences: a slip of sign.)
    """
    return (log_likelihood - kl_latents).sum(1) - kl_context


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


def mixup_cross_entropy(
    logits: Float[Tensor, "n k"], truth: Int[Tensor, " n"], other: Int[Tensor, " n"], share: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Share * CE(truth) + (1 - share) * CE(other), nats: the loss on mixtures of Zhang et al. 2018, section 2.

    Linear in its one-hot target, hence the cross-entropy from the mixed target. Row i of ``logits`` is about a mixture
    of ``share`` of an input of class ``truth`` and the rest of one of class ``other``.
    """
    first, second = (F.cross_entropy(logits, target, reduction="none") for target in (truth, other))
    return share * first + (1 - share) * second


def capacity_at(step: int, capacity: float, steps: int) -> float:
    """C(step), nats: from 0 linearly to ``capacity`` in ``steps`` steps, then constant (Burgess et al. 2018)."""
    return capacity * min(1.0, step / steps)


def covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Covariance of the latents over the batch, divided by n: the estimate of Kumar et al. 2018, section 3."""
    centred = z - z.mean(0)
    return centred.T @ centred / len(z)


def covariance_to_identity(matrix: Float[Tensor, "d d"], off_diagonal: float, diagonal: float) -> Float[Tensor, ""]:
    """Off_diagonal * sum_{i != j} C_ij^2 + diagonal * sum_i (C_ii - 1)^2: Kumar et al. 2018, equations 6 and 7.

    DIP-VAE-I takes the covariance of the posterior means, DIP-VAE-II adds the mean posterior covariance to it.
    """
    variances = torch.diagonal(matrix)
    rest = matrix - torch.diag_embed(variances)
    return off_diagonal * rest.square().sum() + diagonal * (variances - 1).square().sum()


def permute_latents(z: Float[Tensor, "n d"], generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Shuffle each latent over the batch on its own: a sample of prod_j q(z_j) (Kim & Mnih 2018, algorithm 1)."""
    order = torch.rand(z.shape, generator=generator, device=generator.device).argsort(0).to(z.device)
    return z.gather(0, order)


def log_density_ratio(logits: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Log D(z) - log(1 - D(z)), nats, from the logits of (joint, permuted): its mean is TC (Kim & Mnih 2018, eq. 3)."""
    return logits[:, 0] - logits[:, 1]


def discriminator_loss(joint: Float[Tensor, "n 2"], permuted: Float[Tensor, "m 2"]) -> Float[Tensor, ""]:
    """Cross-entropy of telling samples of q(z) from permuted ones, nats: Kim & Mnih 2018, algorithm 2.

    The mean over both kinds, each with half the weight; log 2 where they cannot be told apart.
    """
    return -0.5 * (F.log_softmax(joint, 1)[:, 0].mean() + F.log_softmax(permuted, 1)[:, 1].mean())


def normalised_temperature_cross_entropy(
    one: Float[Tensor, "n d"], other: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, " n"]:
    """NT-Xent of Chen, Kornblith, Norouzi & Hinton 2020, equation 1, nats: which of 2n - 1 views is of the same image.

    Row i of ``one`` and of ``other`` are two views of image i; similarity is the cosine over ``temperature``. The mean
    of both directions for each image. An InfoNCE bound (van den Oord et al. 2018): log(2n - 1) where nothing is known.
    """
    n = len(one)
    views = F.normalize(torch.cat([one, other]), dim=1)
    similarity = views @ views.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=one.device)
    partner = torch.arange(2 * n, device=one.device).roll(n)
    each = F.cross_entropy(similarity.masked_fill(itself, -math.inf), partner, reduction="none")
    return each.view(2, n).mean(0)


def supervised_contrastive(
    z: Float[Tensor, "n d"], labels: Int[Tensor, " n"], temperature: float
) -> Float[Tensor, " n"]:
    """Supervised contrastive loss of Khosla et al. 2020, equation 2 (L_out), nats: which others are of the same class.

    Similarity is the cosine over ``temperature``; the mean log-probability of a row's partners among the n - 1 others,
    negative. 0 for a row without a partner.
    """
    views = F.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_probability = (views @ views.T / temperature).masked_fill(itself, -math.inf).log_softmax(1)
    partners = (labels[:, None] == labels) & ~itself
    return -log_probability.masked_fill(~partners, 0).sum(1) / partners.sum(1).clamp_min(1)


def variance_explained(answer: Float[Tensor, "n k"], truth: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """R2 over the batch, the mean over columns: 1 - residual / variance; 0 for the mean, below for worse."""
    residual = (answer - truth).square().mean(0)
    return (1 - residual / truth.var(0, correction=0).clamp_min(1e-12)).mean()
