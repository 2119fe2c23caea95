"""Draws of images: at random, with a factor held, without repeats."""

import numpy as np
import pytest
from known_factors import codes_of, full_factorial
from scipy import stats

from gvae.errors import ModelError
from gvae.metrics.codes import LEVELS, FactorCodes, bins, is_continuous


def skewed():
    """One factor of three levels of 10, 30 and 60 images, in no order."""
    levels = np.random.default_rng(0).permutation(np.repeat([7, 8, 9], [10, 30, 60]))
    return FactorCodes(np.arange(100.0)[:, None], {"f": levels}), levels


def test_partners_share_the_level_and_are_each_as_likely():
    codes, levels = skewed()
    rows = codes.draw(60_000, np.random.default_rng(1))
    found = codes.partners("f", rows, np.random.default_rng(2))
    assert np.array_equal(levels[found], levels[rows])
    for level in (7, 8, 9):
        counts = np.bincount(found[levels[rows] == level], minlength=100)[levels == level]
        assert stats.chisquare(counts).pvalue > 1e-4


def test_in_a_batch_with_a_factor_held_the_others_vary_and_batches_differ():
    factors = full_factorial()
    codes = FactorCodes(codes_of(factors), factors)
    rows = codes.draw_with_fixed("angle", 500, 32, np.random.default_rng(0))
    assert rows.shape == (500, 32)
    angles = factors["angle"][rows]
    assert (angles == angles[:, :1]).all() and set(angles[:, 0]) == set(range(20))
    assert (np.ptp(factors["shape"][rows], 1) > 0).all()


def test_a_level_is_held_as_often_as_images_have_it():
    codes, levels = skewed()
    held = levels[codes.draw_with_fixed("f", 30_000, 2, np.random.default_rng(0))[:, 0]]
    assert stats.chisquare(np.bincount(held)[7:], 30_000 * np.array([0.1, 0.3, 0.6])).pvalue > 1e-4


def test_a_continuous_factor_is_held_within_a_twentieth_of_its_range():
    values = np.random.default_rng(0).uniform(-2, 3, 4000).astype(np.float32)
    codes = FactorCodes(values[:, None].astype(float), {"x": values})
    assert codes.continuous["x"] and codes.levels["x"].max() == LEVELS - 1
    held = values[codes.draw_with_fixed("x", 200, 64, np.random.default_rng(1))]
    assert (np.ptp(held, 1) <= np.ptp(values) / LEVELS + 1e-5).all() and np.ptp(held, 1).min() > 0


@pytest.mark.parametrize(
    ("values", "continuous"),
    [
        (np.arange(20.0), False),  # few values
        (np.arange(21.0), True),
        (np.arange(400) % 40, False),  # many, each of 10 images
        (np.arange(399) % 40, True),
    ],
)
def test_a_factor_is_discrete_when_its_values_are_few_or_repeat(values, continuous):
    assert is_continuous(values) == continuous
    codes = FactorCodes(np.zeros((len(values), 1)), {"f": values})
    assert len(set(codes.levels["f"])) == (LEVELS if continuous else len(set(values)))


def test_empty_bins_are_no_levels():
    values = np.concatenate([np.linspace(0, 0.2, 50), np.linspace(0.8, 1, 50)])
    levels = FactorCodes(np.zeros((100, 1)), {"f": values}).levels["f"]
    assert sorted(set(levels)) == list(range(levels.max() + 1)) and levels.max() < LEVELS - 1


def test_bins_are_of_equal_width_and_one_for_equal_values():
    assert bins(np.array([0.0, 0.049, 0.051, 0.5, 1.0])).tolist() == [0, 0, 1, 10, 19]
    assert bins(np.full(3, 0.7)).tolist() == [0, 0, 0]


def test_no_image_is_drawn_twice_to_train_or_test():
    codes, _ = skewed()
    for train, test, sizes in ((50, 20, (50, 20)), (10_000, 5_000, (66, 34)), (1, 10_000, (1, 99))):
        one, other = codes.split(train, test, np.random.default_rng(0))
        assert (len(one), len(other)) == sizes
        assert len({*one, *other}) == sum(sizes)
    assert len(set(codes.sample(30, np.random.default_rng(0)))) == 30
    assert codes.sample(101, np.random.default_rng(0)).tolist() == list(range(100))


@pytest.mark.parametrize(
    ("codes", "factor", "words"),
    [
        (np.zeros((0, 2)), np.arange(0), r"codes of shape \(0, 2\); allowed: at least one image \(row\)"),
        (np.zeros((4, 0)), np.arange(4), "and one latent"),
        (np.zeros((4, 2)), np.arange(5), r"codes of 4 images, but other numbers of values: f \(5\)"),
        (np.array([[1.0], [np.nan]]), np.arange(2), "codes of 1 of 2 images are not finite; the encoder is damaged"),
        (np.zeros((2, 1)), np.array([0, np.inf]), r"factors \['f'\] hold values that are not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(codes, factor, words):
    with pytest.raises(ModelError, match=words):
        FactorCodes(codes, {"f": factor})
