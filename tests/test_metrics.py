"""Disentanglement metrics on data whose right answer is known."""

import itertools
import math

import numpy as np
import pytest

from gvae.metrics import METRICS
from gvae.metrics.mig import mutual_information_gap

SIZES = {"shape": 3, "angle": 20, "size": 4}


def full_factorial():
    """Every combination of the factors once: independent, uniform."""
    rows = np.array(list(itertools.product(*map(range, SIZES.values()))), np.int64)
    return {name: rows[:, k] for k, name in enumerate(SIZES)}


def codes_of(factors):
    return np.stack([values.astype(np.float64) for values in factors.values()], 1)


def test_factors_as_codes_score_one():
    factors = full_factorial()
    assert mutual_information_gap(codes_of(factors), factors) == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=(len(factors["shape"]), 1)) * 0  # an idle latent changes nothing
    assert mutual_information_gap(np.hstack([codes_of(factors), noise]), factors) == pytest.approx(1)


def test_duplicated_codes_score_zero():
    factors = full_factorial()
    assert mutual_information_gap(np.hstack([codes_of(factors)] * 2), factors) == pytest.approx(0, abs=1e-12)


def test_constant_codes_score_zero():
    factors = full_factorial()
    assert mutual_information_gap(np.full((len(factors["shape"]), 5), 2.5), factors) == 0


def test_order_sign_and_scale_of_latents_and_order_of_images_do_not_matter():
    factors, generator = full_factorial(), np.random.default_rng(0)
    codes = codes_of(factors) @ generator.normal(size=(3, 4))
    score = mutual_information_gap(codes, factors)
    assert 0 < score < 1
    assert mutual_information_gap(codes[:, [2, 0, 3, 1]], factors) == pytest.approx(score)
    assert mutual_information_gap(codes * [4.0, 2.0, 0.5, 8.0], factors) == pytest.approx(score)
    order = generator.permutation(len(codes))
    shuffled = {name: values[order] for name, values in factors.items()}
    assert mutual_information_gap(codes[order], shuffled) == pytest.approx(score)


def test_two_by_two_by_hand():
    """One binary factor; latent a agrees with it in 3 of 4 images, latent b in half of them.

    The joint of (a, factor) is [[1/2, 1/4], [0, 1/4]]: factor 0 always reads 0, factor 1 reads 0 or 1.
    """
    factor = np.array([0, 0, 1, 1])
    codes = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    a = 0.5 * math.log(0.5 / (0.75 * 0.5)) + 0.25 * math.log(0.25 / (0.75 * 0.5)) + 0.25 * math.log(0.25 / (0.25 * 0.5))
    entropy = math.log(2)
    assert mutual_information_gap(codes, {"bit": factor}) == pytest.approx((a - 0) / entropy)


def test_a_continuous_factor_is_cut_into_twenty_bins_like_the_codes():
    values = np.linspace(0, 1, 2000)
    assert mutual_information_gap(values[:, None] * 3 - 1, {"angle": values}) == pytest.approx(1)


def test_a_factor_that_never_changes_is_left_out():
    factors = full_factorial()
    still = {**factors, "still": np.zeros(len(factors["shape"]), np.int64)}
    assert mutual_information_gap(codes_of(factors), still) == pytest.approx(1)
    assert mutual_information_gap(codes_of(factors), {"still": still["still"]}) == 0


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_a_number_from_zero_to_one_and_best_for_the_factors_themselves(name):
    factors = full_factorial()
    codes = codes_of(factors)
    mixed = codes @ np.random.default_rng(0).normal(size=(3, 3))
    best, worse, none = (METRICS[name](given, factors) for given in (codes, mixed, np.zeros_like(codes)))
    assert 0 <= none <= worse < best <= 1 + 1e-9
