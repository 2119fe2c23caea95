"""Disentanglement metrics by name: codes (n, d) and known factors, name -> (n,), to a number."""

from collections.abc import Callable, Mapping

import numpy as np

from gvae.metrics.mig import mutual_information_gap

METRICS: dict[str, Callable[[np.ndarray, Mapping[str, np.ndarray]], float]] = {"mig": mutual_information_gap}
