"""Disentanglement metrics by name: codes with known factors and a generator to a `Result`; options are keywords."""

from collections.abc import Callable

from gvae.metrics.beta_vae import z_diff
from gvae.metrics.codes import FactorCodes, Result, varying
from gvae.metrics.dci import dci
from gvae.metrics.explicitness import explicitness
from gvae.metrics.factor_vae import factor_vae_score
from gvae.metrics.mig import mutual_information_gap
from gvae.metrics.modularity import modularity
from gvae.metrics.sap import separated_attribute_predictability

__all__ = ["METRICS", "FactorCodes", "Result", "varying"]

METRICS: dict[str, Callable[..., Result]] = {
    "beta_vae": z_diff,
    "dci": dci,
    "explicitness": explicitness,
    "factor_vae": factor_vae_score,
    "mig": mutual_information_gap,
    "modularity": modularity,
    "sap": separated_attribute_predictability,
}
