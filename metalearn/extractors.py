"""Feature extractors: images in [0, 1] to features, whatever network is behind them; swapped by a config line."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae.nets import ImageShape, initialise
from gvae.vae import VAE, Posterior, SetPosterior
from metalearn.cells import LabelsUsed
from metalearn.errors import UserError, unknown
from metalearn.schema import Kind, ModelConfig


class FeatureExtractor(nn.Module):
    """Images (n, c, h, w) in [0, 1] to features (n, d); owns its normalisation; deterministic in eval mode.

    ``seeded``: whether another seed gives another extractor. ``pretrained``: whether its weights come from data.
    ``labels_used``: what the training of those weights saw (none, class, factor, external). ``training_classes``:
    names of the classes that training saw, so that testing on one of them can be refused. ``settings``: a line for
    reports on what it makes of an image, where its kind does not say it.
    """

    image_shape: ImageShape
    feature_dim: int
    seeded: ClassVar[bool] = False
    pretrained: bool = False
    labels_used: LabelsUsed = "none"
    training_classes: frozenset[str] = frozenset()
    settings: str = ""

    @classmethod
    def depends_on_seed(cls, options: Mapping[str, Any]) -> bool:
        """Whether another seed gives another extractor of these options."""
        return cls.seeded

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


def require_shape(images: Tensor, image_shape: ImageShape) -> None:
    """Raise UserError for images (n, c, h, w) of another shape than an encoder's."""
    if tuple(images.shape[1:]) != tuple(image_shape):
        raise UserError(
            f"images of shape {tuple(images.shape[1:])} given to an encoder of {image_shape} (c, h, w): "
            "give the dataset that image size, or an encoder of the other"
        )


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
        self.settings = f"posterior mean of slots {', '.join(slots)}; {len(index)} wide" if slots else ""

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the mean of q(z|x) in the chosen slots, (n, d). UserError for images of another shape."""
        require_shape(images, self.image_shape)
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


class Trunk(FeatureExtractor):
    """The hidden vector of a VAE's encoder, from which its posterior is computed. ``vae`` is the whole of it."""

    vae: VAE
    objective: Kind | None = None

    def __init__(self, vae: VAE):
        super().__init__()
        self.encoder, self.image_shape, self.feature_dim = vae.encoder, vae.image_shape, vae.encoder.hidden_dim
        object.__setattr__(self, "vae", vae)  # no submodule, as in PosteriorMean
        self.settings = "hidden vector of the trunk"

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return what the trunk gives. UserError for images of another shape."""
        require_shape(images, self.image_shape)
        return self.encoder(images)
