"""Factors whose right answers are known, for the tests of the metrics."""

import inspect
import itertools

import numpy as np

from gvae.metrics import METRICS, FactorCodes

SIZES = {"shape": 3, "angle": 20, "size": 4}
SMALL = {"train": 600, "test": 300, "samples": 2000, "batch": 16}  # where the field takes thousands


def full_factorial(copies=8, **sizes):
    """Every combination of the factors, as often: independent, uniform."""
    sizes = sizes or SIZES
    rows = np.array(list(itertools.product(*map(range, sizes.values()))) * copies, np.int64)
    return {name: rows[:, k] for k, name in enumerate(sizes)}


def codes_of(factors):
    return np.stack([values.astype(np.float64) for values in factors.values()], 1)


def mixed(codes, seed=0):
    """Codes turned by an orthogonal matrix, once of unit variance."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(codes.shape[1],) * 2))
    return (codes - codes.mean(0)) / codes.std(0) @ turn


def measured(name, codes, factors, seed=0, **options):
    """Result of a metric with small sample counts."""
    metric = METRICS[name]
    small = {key: value for key, value in SMALL.items() if key in inspect.signature(metric).parameters}
    return metric(FactorCodes(codes, factors), np.random.default_rng(seed), **{**small, **options})


def value(name, codes, factors, seed=0, **options):
    """Value of a metric that gives one."""
    (found,) = measured(name, codes, factors, seed, **options).values.values()
    return found
