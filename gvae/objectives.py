"""The table of objectives: a method is an entry here, its constructors' keywords are its options."""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from gvae.augment import Augment
from gvae.errors import ModelError
from gvae.excitation import Attribute, ClassAttribute
from gvae.geometry import Geometry
from gvae.instances import Instances
from gvae.nets import ImageShape
from gvae.objective import VAEObjective
from gvae.outside import gives, refusal
from gvae.part import Part
from gvae.regularizers import DIPI, DIPII, REGULARIZERS, Beta, Capacity, Factor, Regularizer
from gvae.same_class import SameClass
from gvae.set_objective import guided_neural_statistician, neural_statistician
from gvae.warps import Warps

Likelihood = Literal["bernoulli", "gaussian"]
Named = str | dict[str, Any]
"""A part or regulariser in a config: its name, or ``{kind: name, option: value}``."""

WARP: dict[str, Any] = {"rotation": 30.0, "translation": 0.1, "scale": [0.8, 1.2], "shear": 15.0}
"""The warp of methods that need one: every option of ``gvae.augment.Augment`` that is not named is left as it is."""

PARTS: dict[str, Callable[..., Part]] = {
    "geometry": Geometry,
    "attribute": Attribute,
    "warps": Warps,
    "instances": Instances,
    "same_class": SameClass,
}


def guided(
    image_shape: ImageShape,
    classes: int,
    dataset_size: int,
    seed: int,
    trunk: str,
    latents: int,
    *,
    regularizer: Named = "kl",
    parts: list[Named] = [],  # noqa: B006 (never changed; the default that a config's schema shows)
    warp: dict[str, Any] | None = None,
    elbo: float = 1.0,
    likelihood: Likelihood = "bernoulli",
) -> VAEObjective:
    """Any regulariser with any guidance parts: each is named, or a mapping of its kind and options.

    ``regularizer``: one of ``REGULARIZERS``; ``parts``: of ``PARTS``, ``attribute`` as often as there are attributes.
    ``warp``: options of ``gvae.augment.Augment``, what is encoded; None encodes images as they are.
    """
    return VAEObjective(
        image_shape, classes, dataset_size, seed, trunk, latents,
        regularizer=build_named("regularizer", regularizer, REGULARIZERS, Regularizer),
        parts=[build_named(f"parts.{number}", part, PARTS, Part) for number, part in enumerate(parts)],
        warp=build_warp(warp), elbo=elbo, likelihood=likelihood,
    )  # fmt: skip


def build_named(where: str, named: Named, table: Mapping[str, Callable[..., Any]], wanted: type) -> Any:
    """Build an entry of ``table`` or a ``package.module:Class`` that makes what is ``wanted``.

    ModelError, led by ``where``, for an unknown one, for unknown options and for code that does not say that it does.
    """
    options = {"kind": named} if isinstance(named, str) else dict(named)
    kind = str(options.pop("kind", None))
    module, colon, name = kind.partition(":")
    if not colon and kind not in table:
        raise ModelError(f"{where}: unknown kind {kind!r}; allowed: {', '.join(table)}, or package.module:Class")
    build = getattr(importlib.import_module(module), name) if colon else table[kind]
    if colon and not gives(build, wanted):
        raise ModelError(f"{where}: {refusal(kind, '.'.join([wanted.__module__, wanted.__name__]))}")
    _require_options(f"{where}: {kind}", options, build)
    return build(**options)


def build_warp(options: Mapping[str, Any] | None) -> Augment | None:
    """Build the warp that ``options`` describe; ModelError names one that does not exist or is out of range."""
    if options is None:
        return None
    _require_options("warp", options, Augment)
    given: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in options.items()}
    return Augment(**given)


def _require_options(where: str, options: Mapping[str, Any], build: Callable[..., Any]) -> None:
    allowed = list(inspect.signature(build).parameters)
    wrong = [name for name in options if name not in allowed]
    if wrong:
        raise ModelError(f"{where}: unknown option {wrong[0]!r}; allowed: {', '.join(allowed)}")


class Method:
    """A regulariser and parts under a name of their own: their constructors' keywords together are its options.

    Called as the other constructors of the table: network and data by position, options by keyword. ``elbo`` is fixed;
    at 0 there is no decoder, hence no likelihood to choose. Parts that need a warp add the option ``warp``.
    """

    def __init__(self, doc: str, regularizer: type[Regularizer], *parts: type[Part], elbo: float = 1.0):
        self.__doc__ = doc
        self.elbo, self.regularizer, self.parts = elbo, regularizer, parts
        general = inspect.signature(guided).parameters
        self.common = {"likelihood": general["likelihood"]} if elbo else {}
        if any(part.warped for part in parts):
            self.common["warp"] = general["warp"].replace(default=WARP)
        chosen = list(general.values())[:6]  # the network and the data
        hints = typing.get_type_hints(guided)
        for component in (regularizer, *parts):
            chosen += inspect.signature(component).parameters.values()
            hints.update(typing.get_type_hints(component.__init__))
        self.__signature__ = inspect.Signature([*chosen, *self.common.values()])
        self.__annotations__ = {name: hints[name] for name in self.__signature__.parameters}

    def __call__(self, *network: Any, **options: Any) -> VAEObjective:
        """Build the objective; TypeError for an option that is none of its own."""
        given = self.__signature__.bind(*network, **options)
        given.apply_defaults()
        regularizer, *parts = (self._build(one, given.arguments) for one in (self.regularizer, *self.parts))
        common = {name: given.arguments[name] for name in self.common}
        warp = build_warp(common.pop("warp", None))
        return VAEObjective(*given.args, regularizer=regularizer, parts=parts, warp=warp, elbo=self.elbo, **common)

    def _build(self, component: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        return component(**{name: given[name] for name in inspect.signature(component).parameters})


_GUIDED = "Unsupervised Guided-VAE: a light decoder of transforms and components guides (Ding et al. 2020)."
_SUPERVISED = "Supervised Guided-VAE: classes excited in their slot, inhibited in the rest (Ding et al. 2020)."
_VAE = Method("VAE (Kingma & Welling 2014): reconstruction + beta KL.", Beta)
_GUIDED_VAE = Method(_GUIDED, Beta, Geometry)
_GUIDED_VAE_SUPERVISED = Method(_SUPERVISED, Beta, ClassAttribute)
_INSTANCES = Method("Guidance by known warps, and by identity: two warps of an image excite one content.",
                    Beta, Warps, Instances)  # fmt: skip

OBJECTIVES: dict[str, Callable[..., VAEObjective]] = {
    "vae": _VAE,
    "beta_vae": partial(_VAE, beta=4.0),
    "annealed_vae": Method("Annealed VAE (Burgess et al. 2018): the KL is led to a rising capacity.", Capacity),
    "factor_vae": Method("FactorVAE (Kim & Mnih 2018): total correlation by a discriminator.", Factor),
    "beta_tcvae": partial(_VAE, regularizer="tc", beta=6.0),
    "dip_vae_i": Method("DIP-VAE-I (Kumar et al. 2018): posterior means are decorrelated.", DIPI),
    "dip_vae_ii": Method("DIP-VAE-II (Kumar et al. 2018): sampled latents are decorrelated.", DIPII),
    "guided_vae": _GUIDED_VAE,
    "guided_vae_release": partial(
        _GUIDED_VAE,
        slot_order=("scale", "rotation"), weight=0.5, orthogonality_weight=1 / 128, light_likelihood="bernoulli",
        penalty="absolute", unit_norm=False, bounded=True, linear_scale=True, resample_each=True, random_start=True,
    ),
    "guided_beta_tcvae": partial(_GUIDED_VAE, regularizer="tc", beta=6.0),
    "guided_vae_supervised": _GUIDED_VAE_SUPERVISED,
    "guided_vae_supervised_release": partial(
        _GUIDED_VAE_SUPERVISED, excitation=200.0, inhibition=200.0, form="release"
    ),
    "guided_warps": Method("Guidance by known warps: excited in their slots, the image before it drawn.", Beta, Warps),
    "guided_instances": _INSTANCES,
    "contrastive": Method("Contrastive encoder: two warps of an image, no VAE (Chen et al. 2020).", Regularizer,
                          Instances, elbo=0.0),
    "guided_same_class": Method("Guidance by known warps, and by class: images of one class excite one content.",
                                Beta, Warps, SameClass),
    "supervised_contrastive": Method("Supervised contrastive encoder: images of a class, no VAE (Khosla et al. 2020).",
                                     Regularizer, SameClass, elbo=0.0),
    "neural_statistician": neural_statistician,
    "guided_neural_statistician": guided_neural_statistician,
    "guided": guided,
}  # fmt: skip
