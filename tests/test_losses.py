"""The terms of the objectives against torch.distributions, closed forms and slow loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.distributions import Bernoulli, Normal, kl_divergence

from gvae import losses


def matrices(rows, columns, low=-3.0, high=3.0):
    values = st.floats(low, high, allow_nan=False, width=32)
    return arrays(np.float32, (rows, columns), elements=values).map(torch.from_numpy).map(torch.Tensor.double)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(matrices(4, 3), matrices(4, 3))
def test_kl_is_torch_distributions_kl(mean, logvar):
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * logvar)), Normal(0.0, 1.0))
    torch.testing.assert_close(losses.kl_to_standard_normal(mean, logvar), expected, rtol=1e-9, atol=1e-9)
    assert (losses.kl_to_standard_normal(mean, logvar) >= -1e-12).all()


def test_kl_vanishes_at_the_prior_only():
    zero = torch.zeros(2, 3)
    assert (losses.kl_to_standard_normal(zero, zero) == 0).all()
    assert (losses.kl_to_standard_normal(zero, zero + 0.5) > 0).all()


def test_bernoulli_nll_is_torch_distributions_log_prob_summed_over_pixels():
    logits = 3 * noise(3, 2, 4, 5)
    images = noise(3, 2, 4, 5, seed=1).gt(0).double()
    expected = -Bernoulli(logits=logits).log_prob(images).sum((1, 2, 3))
    torch.testing.assert_close(losses.bernoulli_nll(logits, images), expected)


def test_bernoulli_nll_of_grey_pixels_is_the_cross_entropy_least_at_the_pixel():
    grey = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    at = losses.bernoulli_nll(torch.logit(grey), grey)
    assert at.item() == pytest.approx(entropy)
    for step in (-0.1, 0.1):
        assert losses.bernoulli_nll(torch.logit(grey) + step, grey) > at


def test_squared_error_is_summed_over_pixels_and_kept_per_image():
    images = torch.zeros(2, 1, 2, 2)
    prediction = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert losses.squared_error(prediction, images).tolist() == [4 * 1.0, 4 * 4.0]


@settings(max_examples=25, deadline=None)
@given(matrices(4, 3), matrices(4, 3), matrices(4, 3))
def test_gaussian_log_density_is_normal_log_prob(z, mean, logvar):
    expected = Normal(mean, torch.exp(0.5 * logvar)).log_prob(z)
    torch.testing.assert_close(losses.gaussian_log_density(z, mean, logvar), expected, rtol=1e-9, atol=1e-9)


def test_gaussian_log_density_broadcasts_every_sample_against_every_posterior():
    z, mean, logvar = noise(4, 3), noise(4, 3, seed=1), noise(4, 3, seed=2)
    table = losses.gaussian_log_density(z[:, None], mean[None], logvar[None])
    torch.testing.assert_close(table[2, 1], losses.gaussian_log_density(z[2], mean[1], logvar[1]))


def slow_total_correlation(z, mean, logvar, dataset_size):
    """Chen et al. 2018's estimator, a number at a time."""
    n, d = z.shape
    found = []
    for i in range(n):
        joint, marginals = 0.0, [0.0] * d
        for j in range(n):
            each = [Normal(mean[j, k], torch.exp(0.5 * logvar[j, k])).log_prob(z[i, k]).exp().item() for k in range(d)]
            joint += math.prod(each) / (n * dataset_size)
            marginals = [total + one / (n * dataset_size) for total, one in zip(marginals, each, strict=True)]
        found.append(math.log(joint) - sum(map(math.log, marginals)))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("dataset_size", [1, 50])
def test_total_correlation_is_the_slow_loop(dataset_size):
    z, mean, logvar = noise(6, 3), noise(6, 3, seed=1), 0.5 * noise(6, 3, seed=2)
    expected = slow_total_correlation(z, mean, logvar, dataset_size)
    torch.testing.assert_close(losses.total_correlation(z, mean, logvar, dataset_size), expected, rtol=1e-9, atol=1e-9)


def test_total_correlation_of_a_correlated_gaussian_is_its_closed_form():
    """Posterior means from N(0, S - v I) with variance v make q(z) = N(0, S), whose TC is -1/2 log det corr.

    With n = 3000 posteriors of variance 0.1 the mixture is a kernel density estimate: the standard error of the mean
    is sd(log ratio) / sqrt(n), about 0.015; its bias (each z lies under its own kernel) is below 0.02 in 2 dimensions.
    """
    rho, variance, n = 0.8, 0.1, 3000
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance - variance * torch.eye(2, dtype=torch.float64))
    mean = noise(n, 2) @ root.T
    z = mean + variance**0.5 * noise(n, 2, seed=1)
    found = losses.total_correlation(z, mean, torch.full_like(mean, math.log(variance)), dataset_size=1).mean()
    closed_form = -0.5 * math.log(1 - rho**2)  # 0.51 nats
    assert found.item() == pytest.approx(closed_form, abs=0.06)


def test_total_correlation_of_independent_latents_is_near_zero_and_offset_by_the_dataset_size():
    mean, n = noise(2000, 2), 2000
    logvar = torch.full_like(mean, math.log(0.1))
    z = mean + 0.1**0.5 * noise(n, 2, seed=1)
    whole = losses.total_correlation(z, mean, logvar, dataset_size=1)
    assert abs(whole.mean().item()) < 0.05
    part = losses.total_correlation(z, mean, logvar, dataset_size=100)
    torch.testing.assert_close(part - whole, torch.full_like(whole, (2 - 1) * math.log(100)))  # (d - 1) log N


def test_total_correlation_of_one_latent_is_zero():
    z, mean, logvar = noise(5, 1), noise(5, 1, seed=1), noise(5, 1, seed=2)
    assert losses.total_correlation(z, mean, logvar, 10).abs().max() < 1e-12


def test_orthogonality_by_hand():
    basis = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])  # columns (1, 0), (2, 1), (0, -1): products 2, 0, -1
    assert losses.orthogonality(basis).item() == 2 * (2**2 + 0 + 1**2)
    assert losses.orthogonality(basis, "absolute").item() == 2 * (2 + 0 + 1)


@pytest.mark.parametrize("form", ["square", "absolute"])
def test_orthogonality_of_orthogonal_columns_is_zero_whatever_their_length(form):
    orthonormal = torch.linalg.qr(noise(20, 5))[0]
    assert losses.orthogonality(orthonormal, form).item() == pytest.approx(0, abs=1e-12)
    assert losses.orthogonality(3 * orthonormal, form).item() == pytest.approx(0, abs=1e-12)
    assert losses.orthogonality(torch.eye(4)[:, :1], form).item() == 0


@settings(max_examples=25, deadline=None)
@given(matrices(5, 3))
def test_orthogonality_is_the_loop_over_ordered_pairs(basis):
    pairs = [(j, k) for j in range(3) for k in range(3) if j != k]
    products = [float(basis[:, j] @ basis[:, k]) for j, k in pairs]
    assert losses.orthogonality(basis).item() == pytest.approx(sum(p * p for p in products), abs=1e-9)
    assert losses.orthogonality(basis, "absolute").item() == pytest.approx(sum(map(abs, products)), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(matrices(3, 7, -20, 20))
def test_cross_entropy_to_uniform_is_torch_with_soft_targets_and_least_at_uniform(logits):
    expected = F.cross_entropy(logits, torch.full_like(logits, 1 / 7), reduction="none")
    found = losses.cross_entropy_to_uniform(logits)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (found >= math.log(7) - 1e-9).all()


def test_cross_entropy_to_uniform_at_uniform_is_log_k_and_stationary():
    logits = torch.full((2, 5), 1.7, requires_grad=True)
    found = losses.cross_entropy_to_uniform(logits)
    torch.testing.assert_close(found, torch.full((2,), math.log(5)))
    found.sum().backward()
    assert logits.grad.abs().max() < 1e-7


def test_cross_entropy_to_uniform_of_two_classes_is_the_releases_binary_form():
    """The release: binary cross-entropy of a sigmoid's output with the label 0.5."""
    logit = noise(6, 1)
    both = torch.cat([torch.zeros_like(logit), logit], 1)
    expected = F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, 0.5), reduction="none")[:, 0]
    torch.testing.assert_close(losses.cross_entropy_to_uniform(both), expected)
