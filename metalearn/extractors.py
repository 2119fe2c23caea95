"""Feature extractors: images in [0, 1] to features, whatever network is behind them; swapped by a config line."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae.checkpoint import load_encoder
from gvae.nets import ImageShape, initialise
from gvae.vae import VAE, Posterior, SetPosterior
from metalearn.cells import LabelsUsed
from metalearn.errors import UserError, unknown
from metalearn.schema import Kind, ModelConfig


class FeatureExtractor(nn.Module):
    """Images (n, c, h, w) in [0, 1] to features (n, d); owns its normalisation; deterministic in eval mode.

    ``seeded``: whether another seed gives another extractor. ``pretrained``: whether its weights come from data.
    ``labels_used``: what the training of those weights saw (none, class, factor, external). ``training_classes``:
    names of the classes that training saw, so that testing on one of them can be refused.
    """

    image_shape: ImageShape
    feature_dim: int
    seeded: ClassVar[bool] = False
    pretrained: bool = False
    labels_used: LabelsUsed = "none"
    training_classes: frozenset[str] = frozenset()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the features of a batch."""
        raise NotImplementedError


class Pixels(FeatureExtractor):
    """The pixels themselves, flattened: what every learned feature must beat."""

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        self.image_shape = image_shape
        self.feature_dim = image_shape[0] * image_shape[1] * image_shape[2]

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return (n, c * h * w) pixel values."""
        return images.flatten(1)


class SetExtractor(FeatureExtractor):
    """An extractor that also has the posterior of any set of images, for learners that compare those of sets.

    ``instance_dim``: length of what is pooled over a set, a vector an image.
    """

    instance_dim: int

    def instances(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return a vector an image, from which ``summary`` makes the posterior of any set of them."""
        raise NotImplementedError

    def summary(self, instances: Float[Tensor, "b s k"]) -> Posterior:
        """Return the posterior of b sets of s images."""
        raise NotImplementedError


class PosteriorMean(SetExtractor):
    """The posterior mean of a VAE, or of some of its named slots. ``vae`` is the whole of it, decoder too.

    ``objective``: what it was pretrained by, None where by none.
    """

    vae: VAE
    objective: Kind | None = None

    posterior: SetPosterior
    index: Tensor

    def __init__(self, vae: VAE, slots: Sequence[str] | None = None):
        super().__init__()
        for slot in slots or ():
            if slot not in vae.slots:
                raise UserError(unknown("slot", slot, vae.slots))
        self.encoder, self.posterior = vae.encoder, vae.posterior
        object.__setattr__(self, "vae", vae)  # no submodule, as the decoder is no part of the features
        self.image_shape, self.latents = vae.image_shape, vae.latents
        self.instance_dim = vae.posterior.instance_dim
        chosen = list(slots or vae.slots)
        index = [i for slot in chosen for i in range(*vae.slots[slot].indices(vae.latents))]
        self.register_buffer("index", torch.tensor(index), persistent=False)
        self.feature_dim = len(index)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the mean of q(z|x) in the chosen slots, (n, d). UserError for images of another shape."""
        if tuple(images.shape[1:]) != tuple(self.image_shape):
            raise UserError(
                f"images of shape {tuple(images.shape[1:])} given to an encoder of {self.image_shape} (c, h, w): "
                "give the dataset that image size, or an encoder of the other"
            )
        return self.posterior(self.encoder(images))[:, : self.latents][:, self.index]

    def instances(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return what the posterior's network pools: hidden vectors, or of a Neural Statistician one layer further."""
        return self.posterior.instances(self.encoder(images))

    def summary(self, instances: Float[Tensor, "b s k"]) -> Posterior:
        """Return the posterior, in the chosen slots, of b sets of s images: their contexts' for a Neural Statistician.

        Of another VAE: that of the mean of a set's hidden vectors.
        """
        mean, logvar = self.posterior.pooled(instances).chunk(2, 1)
        return Posterior(mean[:, self.index], logvar[:, self.index])


class Instances(FeatureExtractor):
    """What an extractor pools over a set: the features of learners that ask for posteriors of sets."""

    def __init__(self, extractor: SetExtractor):
        super().__init__()
        self.extractor, self.image_shape = extractor, extractor.image_shape
        self.feature_dim = extractor.instance_dim

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the extractor's instances."""
        return self.extractor.instances(images)


class RandomNetwork(PosteriorMean):
    """The encoder network untrained, its weights drawn by the seed: what architecture alone gives."""

    seeded: ClassVar[bool] = True

    def __init__(self, image_shape: ImageShape, seed: int, model: ModelConfig):
        vae = VAE(image_shape, trunk=model.trunk, latents=model.latents, slots={"content": model.latents})
        initialise(vae, torch.Generator().manual_seed(seed))
        super().__init__(vae)


class Checkpoint(PosteriorMean):
    """The posterior mean of an encoder on disk: a file, the folder that holds it, or a pretraining run."""

    def __init__(self, image_shape: ImageShape, *, path: str, slots: list[str] | None = None):
        vae, info = load_encoder(Path(path))
        if tuple(info["image_shape"]) != tuple(image_shape):
            raise UserError(
                f"checkpoint {path} is for images of shape {tuple(info['image_shape'])} (c, h, w), the dataset has "
                f"{tuple(image_shape)}; set the dataset's image_size, or give another checkpoint"
            )
        super().__init__(vae, slots)
        require_provenance(path, info)
        self.pretrained = True
        self.objective = Kind.model_validate(info["objective"]) if "objective" in info else None
        self.labels_used = info["labels_used"]
        self.training_classes = frozenset(info["training_classes"])


def require_provenance(path: str, info: Mapping[str, Any]) -> None:
    """Raise UserError when a checkpoint's info does not say which labels and classes its training saw."""
    missing = [name for name in ("labels_used", "training_classes") if name not in info]
    if missing:
        raise UserError(
            f"checkpoint {path} does not say what it was trained on ({', '.join(missing)}), so a leak of test "
            "classes cannot be ruled out; use an encoder written by `metalearn pretrain`"
        )


def pretrained(objective: Kind, *, slots: list[str] | None = None) -> None:
    """An encoder pretrained on the dataset's training classes by an objective, then frozen: its posterior mean.

    ``slots`` keeps some of the named latents (default: all). The program pretrains it and builds a `Checkpoint`.
    """
    raise UserError("extractor kind 'pretrain' is made by a command that can pretrain it, not by itself")


EXTRACTORS: dict[str, Callable[..., Any]] = {
    "pixels": Pixels,
    "random": RandomNetwork,
    "checkpoint": Checkpoint,
    "pretrain": pretrained,
}


def build_extractor(
    build: Callable[..., Any], options: dict[str, Any], *, image_shape: ImageShape, seed: int, model: ModelConfig
) -> FeatureExtractor:
    """Call a constructor with its options and whichever of image_shape, seed and model its signature names.

    The result is in eval mode. Raises UserError when it is no FeatureExtractor, or one without ``feature_dim``.
    """
    supplied = {"image_shape": image_shape, "seed": seed, "model": model}
    names = inspect.signature(build).parameters
    extractor = build(**{name: value for name, value in supplied.items() if name in names}, **options)
    if not isinstance(extractor, FeatureExtractor) or not isinstance(getattr(extractor, "feature_dim", None), int):
        raise UserError(
            f"{build!r} gives a {type(extractor).__name__}, which is no extractor: it must be a "
            "metalearn.extractors.FeatureExtractor with an integer feature_dim"
        )
    return extractor.eval()
