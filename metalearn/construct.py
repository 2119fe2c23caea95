"""From a constructor and its options to an extractor, whatever it makes; weights that it draws depend on the seed."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gvae.nets import ImageShape
from gvae.seeds import mix
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor
from metalearn.networks import Network
from metalearn.schema import ModelConfig


@contextmanager
def drawn_by(seed: int) -> Iterator[None]:
    """Inside, weights that torch draws are a function of the seed; torch's own state is as before, after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(seed, 6))
        yield


def construct(
    build: Callable[..., Any], options: Mapping[str, Any], *, image_shape: ImageShape, seed: int, model: ModelConfig
) -> Any:
    """Call a constructor with its options and whichever of image_shape, seed and model its signature names."""
    supplied = {"image_shape": image_shape, "seed": seed, "model": model}
    names = inspect.signature(build).parameters
    with drawn_by(seed):
        return build(**{name: value for name, value in supplied.items() if name in names}, **options)


def build_extractor(
    build: Callable[..., Any], options: dict[str, Any], *, image_shape: ImageShape, seed: int, model: ModelConfig
) -> FeatureExtractor:
    """Make an extractor by its constructor (`construct`), in eval mode; a plain network is taken as one, as it is.

    Raises UserError for anything else, and for an extractor without ``feature_dim``.
    """
    extractor = construct(build, options, image_shape=image_shape, seed=seed, model=model)
    if isinstance(extractor, nn.Module) and not isinstance(extractor, FeatureExtractor):
        kind = type(extractor)
        extractor = Network(extractor, image_shape, name=f"network {kind.__module__}:{kind.__qualname__}")
    if not isinstance(extractor, FeatureExtractor) or not isinstance(getattr(extractor, "feature_dim", None), int):
        raise UserError(
            f"{build!r} gives a {type(extractor).__name__}, which is no extractor: it must be a torch.nn.Module, or a "
            "metalearn.extractors.FeatureExtractor with an integer feature_dim"
        )
    return extractor.eval()


def depends_on_seed(build: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether another seed gives another extractor: one that takes it, or a plain network, whose weights torch draws.

    A network may say ``seeded = False``.
    """
    if isinstance(build, type) and issubclass(build, FeatureExtractor):
        return build.depends_on_seed(options)
    network = isinstance(build, type) and issubclass(build, nn.Module)
    return bool(getattr(build, "seeded", network or "seed" in inspect.signature(build).parameters))
