"""Disentanglement metrics against closed forms, values by hand and scikit-learn."""

import math

import numpy as np
import pytest
from known_factors import SIZES, codes_of, full_factorial, measured, mixed, value
from scipy import stats
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.metrics import mutual_info_score

from gvae.metrics import FactorCodes
from gvae.metrics.codes import bins
from gvae.metrics.dci import completeness, disentanglement
from gvae.metrics.information import information, information_matrix, top_gaps

LOG2 = math.log(2)
BITS = {"f": np.array([0, 0, 1, 1] * 500), "g": np.array([0, 1, 0, 1] * 500)}


def one_hot(factors):
    return np.hstack([np.eye(values.max() + 1)[values] for values in factors.values()])


def three_of_four(values, seed=0):
    """A bit that agrees with ``values`` in three images of four, whichever they are."""
    return np.where(np.random.default_rng(seed).permutation(len(values)) % 4 == 0, 1 - values, values)


@pytest.mark.parametrize("name", ["beta_vae", "factor_vae", "mig", "modularity"])
def test_factors_as_codes_score_one(name):
    factors = full_factorial()
    idle = np.zeros((len(factors["shape"]), 1))
    assert value(name, codes_of(factors), factors) == pytest.approx(1)
    expected = 3 / 4 if name == "modularity" else 1  # to it an idle latent is one that tells nothing
    assert value(name, np.hstack([codes_of(factors), idle]), factors) == pytest.approx(expected)


def test_duplicated_codes_cost_the_metrics_that_want_one_latent_a_factor():
    factors = full_factorial()
    twice = np.hstack([codes_of(factors)] * 2)
    assert value("mig", twice, factors) == pytest.approx(0, abs=1e-12)
    assert value("sap", twice, factors) == pytest.approx(0, abs=1e-12)
    for name in ("factor_vae", "beta_vae", "modularity"):
        assert value(name, twice, factors) == pytest.approx(1)
    assert measured("dci", twice, factors).values["dci/disentanglement"] > 0.98


class TestInformation:
    def test_it_is_that_of_scikit_learn(self):
        factors = full_factorial()
        codes = FactorCodes(mixed(codes_of(factors)), factors)
        found = information_matrix(codes, np.arange(len(codes)))
        for latent, column in enumerate(codes.values.T):
            for k, levels in enumerate(factors.values()):
                assert found[latent, k] == pytest.approx(mutual_info_score(bins(column), levels))
        assert information(factors["angle"], factors["angle"]) == pytest.approx(math.log(20))

    def test_mig_by_hand(self):
        """One bit; latent a agrees with it in 3 of 4 images, latent b in half of them.

        The joint of (a, bit) is [[1/2, 1/4], [0, 1/4]]: bit 0 always reads 0, bit 1 reads 0 or 1.
        """
        codes = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
        a = 0.5 * math.log(0.5 / (0.75 * 0.5)) + 0.25 * math.log(0.25 / (0.75 * 0.5))
        a += 0.25 * math.log(0.25 / (0.25 * 0.5))
        assert value("mig", codes, {"bit": np.array([0, 0, 1, 1])}) == pytest.approx((a - 0) / LOG2)

    def test_mig_of_a_continuous_factor_in_twenty_bins_like_the_codes(self):
        values = np.linspace(0, 1, 2000)
        assert value("mig", values[:, None] * 3 - 1, {"angle": values}) == pytest.approx(1)

    def test_mig_ignores_order_sign_and_scale(self):
        factors = full_factorial()
        codes = mixed(codes_of(factors))
        score = value("mig", codes, factors)
        assert 0 < score < 1
        assert value("mig", codes * [4.0, -2.0, 0.5], factors) == pytest.approx(score, abs=2e-3)
        order = np.random.default_rng(1).permutation(len(codes))
        shuffled = {name: values[order] for name, values in factors.items()}
        assert value("mig", codes[order], shuffled) == pytest.approx(score)

    def test_modularity_by_hand(self):
        """A latent of both bits spills all; one that reads g only where f is 1 has I = log 2 and log 2 / 2."""
        f, g = BITS["f"], BITS["g"]
        for latent, expected in ((f, 1), (2 * f + g, 0), (f * (1 + g), 1 - (1 / 2) ** 2)):
            assert value("modularity", latent[:, None] * 1.0, BITS) == pytest.approx(expected)
        both = np.stack([f, 2 * f + g], 1) * 1.0
        assert value("modularity", both, BITS) == pytest.approx((1 + 0) / 2)
        third = full_factorial(100, f=2, g=2, h=2)
        latent = (2 * third["f"] + third["g"])[:, None] * 1.0
        assert value("modularity", latent, third) == pytest.approx(1 - 1 / 2)  # one of the two other factors


class TestSap:
    def test_a_bit_by_hand(self):
        """A latent that agrees in 3 of 4 images scores 3/4, a constant one the share of its class, 1/2."""
        codes = np.stack([three_of_four(BITS["f"]), np.zeros(2000)], 1) * 1.0
        found = measured("sap", codes, {"f": BITS["f"]}, train=1000, test=1000)
        assert found.matrix[:, 0] == pytest.approx([3 / 4, 1 / 2], abs=0.04)
        assert found.values["sap"] == pytest.approx(1 / 4, abs=0.06)

    def test_a_continuous_factor_by_squared_correlation(self):
        generator = np.random.default_rng(0)
        values = generator.uniform(size=3000)
        codes = np.stack([-3 * values + 1, values + generator.normal(size=3000), np.zeros(3000)], 1)
        found = measured("sap", codes, {"x": values}, train=2999, test=1)
        noisy = stats.pearsonr(codes[:, 1], values).statistic ** 2
        assert found.matrix[:, 0] == pytest.approx([1, noisy, 0], abs=2e-3)
        assert found.values["sap"] == pytest.approx(1 - noisy, abs=2e-3)

    def test_one_latent_has_no_rival(self):
        assert top_gaps(np.array([[0.5, 0.25]])).tolist() == [0.5, 0.25]
        assert top_gaps(np.array([[0.5, 0.25], [0.75, 1.0], [0.0, 0.75]])).tolist() == [0.25, 0.25]


class TestExplicitness:
    def test_levels_that_are_linearly_readable_score_one(self):
        factors = full_factorial()
        assert value("explicitness", one_hot(factors), factors) == pytest.approx(1)

    def test_a_bit_that_agrees_in_three_of_four_by_hand(self):
        """A predictor of two values has the area (sensitivity + specificity) / 2."""
        codes = three_of_four(BITS["f"])[:, None] * 1.0
        assert value("explicitness", codes, {"f": BITS["f"]}, train=1000, test=1000) == pytest.approx(3 / 4, abs=0.04)


class TestDci:
    @pytest.mark.parametrize("trees", ["histogram", "exact"])
    def test_factors_as_codes(self, trees):
        factors = full_factorial(16, shape=3, angle=5, size=4)
        found = measured("dci", codes_of(factors)[:, [2, 0, 1]], factors, trees=trees)
        assert found.values == pytest.approx(dict.fromkeys(found.values, 1), abs=0.03)
        np.testing.assert_allclose(found.matrix, np.eye(3)[[2, 0, 1]], atol=0.01)

    def test_one_code_for_two_of_k_factors(self):
        """Its entropy is log 2 of log K: 1 - log 2 / log K; the two others, of half the weight in all, score 1."""
        factors = full_factorial(12, a=4, b=4, c=3, d=3)
        joint = 4 * factors["a"] + factors["b"]
        found = measured("dci", np.stack([joint, factors["c"], factors["d"]], 1) * 1.0, factors).values
        alone = 1 - LOG2 / math.log(4)
        assert found["dci/disentanglement"] == pytest.approx((alone + 1) / 2, abs=0.02)
        assert found["dci/completeness"] == pytest.approx(1, abs=0.02)

    @pytest.mark.parametrize("k", [2, 3, 7])
    def test_of_a_matrix_by_hand(self, k):
        row = np.zeros((1, k))
        row[0, :2] = 0.5
        assert disentanglement(row) == pytest.approx(1 - LOG2 / math.log(k))
        assert completeness(row.T) == pytest.approx(1 - LOG2 / math.log(k))
        assert disentanglement(row.T) == completeness(row) == pytest.approx(1)
        assert disentanglement(np.ones((3, k))) == pytest.approx(0)
        idle = np.vstack([row, np.zeros((2, k))])  # latents of no importance have no weight
        assert disentanglement(idle) == pytest.approx(disentanglement(row))
        assert disentanglement(np.zeros((3, k))) == completeness(np.zeros((3, k))) == 0

    @pytest.mark.parametrize("continuous", [True, False])
    def test_histogram_trees_find_what_the_exact_ones_find(self, continuous):
        generator = np.random.default_rng(0)
        codes = generator.normal(size=(1500, 4))
        mean = codes[:, 0] + 0.5 * codes[:, 1] + 0.3 * generator.normal(size=1500)
        factor = mean if continuous else (mean > 0).astype(int)
        found = measured("dci", codes, {"x": factor}, train=1000, test=500)
        kind = GradientBoostingRegressor if continuous else GradientBoostingClassifier
        rows, tested = FactorCodes(codes, {"x": factor}).split(1000, 500, np.random.default_rng(0))
        exact = kind(random_state=0).fit(codes[rows], factor[rows])
        np.testing.assert_allclose(found.matrix[:, 0], exact.feature_importances_, atol=0.05)
        score = exact.score(codes[tested], factor[tested])
        assert found.values["dci/informativeness"] == pytest.approx(score, abs=0.03)


class TestFactorVae:
    def test_it_prunes_a_latent_that_would_win_every_vote(self):
        """A latent that is nearly always the same varies least in nearly every batch, whatever is held."""
        factors = full_factorial()
        rare = np.where(np.random.default_rng(0).random(len(factors["shape"])) < 0.005, 1e-3, 0.0)
        codes = np.hstack([rare[:, None], codes_of(factors)])
        found = measured("factor_vae", codes, factors)
        assert found.values["factor_vae"] == pytest.approx(1) and found.drawn.endswith("3 of 4 latents active")
        assert value("factor_vae", codes, factors, least_deviation=0.0) < 0.6
        assert value("factor_vae", 2 * 0.05 * codes[:, :1] / codes[:, 0].std(), factors) < 0.6  # wide enough to stay

    def test_variance_counts_relative_to_the_whole(self):
        factors = full_factorial()
        assert value("factor_vae", codes_of(factors) * [100.0, 1.0, 0.1], factors) == pytest.approx(1)

    def test_one_code_of_two_factors_names_one_of_them(self):
        """Latents s and a + b: with s held, it varies least; with a or b held, the sum does: two of three are named
        where the majority is right, for it cannot say which of a and b."""
        factors = full_factorial(s=6, a=6, b=6)
        codes = np.stack([factors["s"], factors["a"] + factors["b"]], 1) * 1.0
        assert value("factor_vae", codes, factors, batch=64) == pytest.approx(2 / 3, abs=0.05)


class TestZDiff:
    def test_pairs_share_the_factor_but_batches_do_not_share_its_level(self):
        """Codes whose difference is nil exactly in the held factor: a logistic regression cannot fail."""
        factors = full_factorial(**dict.fromkeys("abcdef", 3), copies=2)
        assert value("beta_vae", codes_of(factors), factors) == pytest.approx(1)

    def test_two_factors_in_one_code_cannot_be_told_apart(self):
        factors = full_factorial(s=6, a=6, b=6)
        codes = np.stack([factors["s"], factors["a"] + factors["b"]], 1) * 1.0
        assert value("beta_vae", codes, factors, batch=64) == pytest.approx(2 / 3, abs=0.06)


def test_sizes_are_those_that_the_tests_reckon_with():
    assert {name: len(set(values)) for name, values in full_factorial().items()} == SIZES
