"""Every disentanglement metric of the table: numbers, draws, and what must and must not change them."""

import inspect
import math

import numpy as np
import pytest
from known_factors import SIZES, codes_of, full_factorial, measured, mixed

from gvae.errors import ModelError
from gvae.metrics import METRICS, FactorCodes

CHANCE = {  # what codes that tell nothing score
    "beta_vae": 1 / 3,
    "dci/disentanglement": 0,
    "dci/completeness": 0,
    "dci/informativeness": np.mean([1 / size for size in SIZES.values()]),
    "explicitness": 0.5,
    "factor_vae": 0,
    "mig": 0,
    "modularity": 0,
    "sap": 0,
}
LINEAR = {"beta_vae", "explicitness", "dci/informativeness", "factor_vae"}  # a rotation need not cost them


@pytest.fixture(scope="module", params=METRICS)
def name(request):
    return request.param


def test_options_have_the_counts_of_the_field(name):
    counts = {"train": 10_000, "test": 5_000, "samples": 10_000, "batch": 64}
    parameters = inspect.signature(METRICS[name]).parameters
    assert list(parameters)[:2] == ["codes", "generator"]
    found = {key: parameters[key].default for key in counts if key in parameters}
    assert found and all(counts[key] == default for key, default in found.items())


def test_factors_beat_their_mixture_and_constant_codes_are_chance(name):
    factors = full_factorial()
    codes = codes_of(factors)
    best, worse, none = (measured(name, given, factors) for given in (codes, mixed(codes), np.full_like(codes, 2.5)))
    for key, high in best.values.items():
        assert 0 <= none.values[key] <= high <= 1 + 1e-9
        assert none.values[key] == pytest.approx(CHANCE[key], abs=0.06 if CHANCE[key] else 0)
        assert worse.values[key] <= high + 0.02
        assert key in LINEAR or worse.values[key] < high - 0.1
    assert best.drawn and (best.matrix is None or best.matrix.shape == (3, 3))


def test_codes_independent_of_the_factors_are_near_chance(name):
    factors = full_factorial()
    codes = np.random.default_rng(1).normal(size=(len(factors["shape"]), 4))
    for key, found in measured(name, codes, factors).values.items():
        if key == "factor_vae":  # no latent stands out, so the majority vote names any factor
            assert found == pytest.approx(1 / 3, abs=0.08)
        elif key not in ("modularity", "dci/disentanglement", "dci/completeness"):  # shares of nothing
            assert found == pytest.approx(CHANCE[key], abs=0.08)


def test_the_order_of_latents_does_not_matter(name):
    factors = full_factorial()
    codes = np.hstack([codes_of(factors), mixed(codes_of(factors))[:, :1]])
    order = [2, 0, 3, 1]
    found, again = measured(name, codes, factors), measured(name, codes[:, order], factors)
    assert again.values == pytest.approx(found.values, abs=0.01)
    if found.matrix is not None:
        np.testing.assert_allclose(again.matrix, found.matrix[order], atol=0.01)


def test_a_result_is_a_function_of_codes_and_generator(name):
    factors = full_factorial()
    codes = mixed(codes_of(factors))
    codes += 2 * np.random.default_rng(0).normal(size=codes.shape)
    kept, state = codes.copy(), np.random.get_state()[1].copy()
    first, second, other = (measured(name, codes, factors, seed) for seed in (3, 3, 4))
    assert first.values == second.values
    assert name in ("mig", "modularity") or first.values != other.values  # those two took every image
    assert np.array_equal(codes, kept) and np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("option", ["train", "test", "samples", "batch"])
def test_a_count_below_one_is_refused(name, option):
    if option in inspect.signature(METRICS[name]).parameters:
        factors = full_factorial(1)
        with pytest.raises(ModelError, match=f"{option}=0: .*whole numbers from [12]"):
            measured(name, codes_of(factors), factors, **{option: 0})


def test_one_factor_alone_and_two_images_are_enough(name):
    for count in (2, 400):
        factors = {"bit": np.arange(count) % 2}
        found = measured(name, factors["bit"][:, None] * 1.0, factors).values
        assert all(math.isfinite(one) and 0 <= one <= 1 for one in found.values())
        assert count == 2 or name == "sap" or min(found.values()) == pytest.approx(1)


def test_a_factor_that_never_changes_is_left_out(name):
    factors = full_factorial(2)
    still = {"still": np.zeros(len(factors["shape"]), np.int64), **factors}
    codes = mixed(codes_of(factors))
    assert measured(name, codes, still).values == measured(name, codes, factors).values
    with pytest.raises(ModelError, match=r"none of the factors \['still'\] varies"):
        FactorCodes(codes, {"still": still["still"]})
