"""The table of objectives: a method is an entry here, its constructor's keywords are its options."""

from collections.abc import Callable
from functools import partial

from gvae.objective import VAEObjective
from gvae.supervised import SupervisedGuidedVAEObjective
from gvae.unsupervised import GuidedVAEObjective

OBJECTIVES: dict[str, Callable[..., VAEObjective]] = {
    "vae": VAEObjective,
    "beta_tcvae": partial(VAEObjective, regularizer="tc", beta=6.0),
    "guided_vae": GuidedVAEObjective,
    "guided_vae_release": partial(
        GuidedVAEObjective,
        slot_order=("scale", "rotation"), weight=0.5, orthogonality_weight=1 / 128, light_likelihood="bernoulli",
        penalty="absolute", unit_norm=False, bounded=True, linear_scale=True, resample_each=True, random_start=True,
    ),
    "guided_beta_tcvae": partial(GuidedVAEObjective, regularizer="tc", beta=6.0),
    "guided_vae_supervised": SupervisedGuidedVAEObjective,
    "guided_vae_supervised_release": partial(
        SupervisedGuidedVAEObjective, excitation=200.0, inhibition=200.0, form="release"
    ),
}  # fmt: skip
