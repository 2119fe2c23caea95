"""The table of extractors: what a config's kind of extractor builds, and from which options."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gvae.checkpoint import load_encoder
from gvae.nets import ImageShape
from gvae.vae import VAE
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor, Pixels, PosteriorMean, RandomNetwork, Trunk
from metalearn.schema import Kind, ModelConfig
from metalearn.views import with_views

Features = Literal["mean", "trunk"]


def random_network(
    image_shape: ImageShape, seed: int, model: ModelConfig, *, views: dict[str, Any] | None = None
) -> FeatureExtractor:
    """The encoder network untrained, see `RandomNetwork`; ``views`` as for `checkpoint`."""
    return with_views(RandomNetwork(image_shape, seed, model), views)


def encoder_features(vae: VAE, slots: Sequence[str] | None, features: Features) -> PosteriorMean | Trunk:
    """Return an encoder as an extractor: its posterior mean in some slots, or its trunk, which has none (UserError)."""
    if features == "mean":
        return PosteriorMean(vae, slots)
    if slots:
        raise UserError("slots are of the posterior mean, and features: trunk is the vector before it; leave one out")
    return Trunk(vae)


def checkpoint(
    image_shape: ImageShape,
    *,
    path: str,
    slots: list[str] | None = None,
    features: Features = "mean",
    views: dict[str, Any] | None = None,
) -> FeatureExtractor:
    """The posterior mean (or trunk) of an encoder on disk: a file, its folder, or a run of `pretrain` or `train`.

    ``slots`` keeps some of the named latents; ``features``: trunk gives the hidden vector before the posterior.
    ``views``: the mean over the image and ``count`` views under small warps, see `metalearn.views`.
    """
    vae, info = load_encoder(Path(path))
    if tuple(info["image_shape"]) != tuple(image_shape):
        raise UserError(
            f"checkpoint {path} is for images of shape {tuple(info['image_shape'])} (c, h, w), the dataset has "
            f"{tuple(image_shape)}; set the dataset's image_size, or give another checkpoint"
        )
    found = encoder_features(vae, slots, features)
    require_provenance(path, info)
    if "meta_training" in info:
        by = f"encoder meta-trained by {info['meta_training']['learner']['kind']}"
        found.settings = f"{by}; {found.settings}" if found.settings else by
    found.pretrained = True
    found.objective = Kind.model_validate(info["objective"]) if "objective" in info else None
    found.labels_used = info["labels_used"]
    found.training_classes = frozenset(info["training_classes"])
    return with_views(found, views)


def require_provenance(path: str, info: Mapping[str, Any]) -> None:
    """Raise UserError when a checkpoint's info does not say which labels and classes its training saw."""
    missing = [name for name in ("labels_used", "training_classes") if name not in info]
    if missing:
        raise UserError(
            f"checkpoint {path} does not say what it was trained on ({', '.join(missing)}), so a leak of test "
            "classes cannot be ruled out; use an encoder written by `metalearn pretrain` or `metalearn train`"
        )


def pretrained(
    objective: Kind,
    *,
    slots: list[str] | None = None,
    features: Features = "mean",
    views: dict[str, Any] | None = None,
) -> None:
    """An encoder pretrained on the dataset's training classes by an objective, then frozen: its posterior mean.

    ``slots``, ``features`` and ``views`` as for `checkpoint`. The program pretrains it and builds a `checkpoint`.
    """
    raise UserError("extractor kind 'pretrain' is made by a command that can pretrain it, not by itself")


EXTRACTORS: dict[str, Callable[..., Any] | str] = {
    "pixels": Pixels,
    "random": random_network,
    "checkpoint": checkpoint,
    "pretrain": pretrained,
    "torchvision": "metalearn.torchvision_models:Torchvision",
    "timm": "metalearn.timm_models:Timm",
    "network": "metalearn.own_network:OwnNetwork",
}
