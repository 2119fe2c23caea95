"""Features as a mean over views of an image: as it is, and under a few small warps that are the same for all images."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gvae.augment import Parameters
from metalearn.augmentation import build_augment
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor

EXAMPLE = "{count: 4, rotation: 9, translation: 0.03}"


class Views(FeatureExtractor):
    """Another extractor's features, mean over the image and ``count`` warped views of it (test-time augmentation).

    The warps are drawn once, by a fixed seed and ``options`` of `gvae.augment.Augment`, and are the same for every
    image: features stay a function of the image alone. Each view costs as much as the image does. In train mode there
    are none, so an extractor that is trained on episodes has them in tests. What it knows of itself stays. Raises
    UserError for a count below 1, for no options and for wrong ones, ModelError for some out of range.
    """

    def __init__(self, extractor: FeatureExtractor, *, count: int, options: Mapping[str, Any]):
        super().__init__()
        augment = build_augment(options, extractor.image_shape[0])
        if count < 1 or not options or augment is None:
            raise UserError(
                f"views: given {count} with {dict(options) or 'no warp'}; allowed: 1 or more under a warp, such as "
                f"{EXAMPLE}"
            )
        self.extractor, self.augment, self.count = extractor, augment, count
        self.image_shape, self.feature_dim = extractor.image_shape, extractor.feature_dim
        self.pretrained, self.labels_used = extractor.pretrained, extractor.labels_used
        self.training_classes = extractor.training_classes
        drawn = augment.draw(count, torch.Generator().manual_seed(0), torch.device("cpu"))
        for name, values in drawn._asdict().items():
            self.register_buffer(f"view_{name}", values, persistent=False)
        for name in ("vae", "objective"):
            if hasattr(extractor, name):
                object.__setattr__(self, name, getattr(extractor, name))  # no submodule of its own
        asked = ", ".join(f"{name} {value}" for name, value in options.items())
        views = f"mean over the image and {count} views of it ({asked})"
        self.settings = f"{extractor.settings}; {views}" if extractor.settings else views

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the mean of the extractor's features over the views; in train mode those of the images."""
        found = self.extractor(images)
        if self.training:
            return found
        for number in range(self.count):
            rows = {name: getattr(self, f"view_{name}")[number] for name in Parameters._fields}
            drawn = Parameters(**{name: row.expand(len(images), *row.shape) for name, row in rows.items()})
            found = found + self.extractor(self.augment.apply(images, drawn))
        return found / (self.count + 1)


def with_views(extractor: FeatureExtractor, views: Mapping[str, Any] | None) -> FeatureExtractor:
    """Return an extractor as it is, or with the ``views`` of a config, such as ``{count: 4, rotation: 9}``."""
    if views is None:
        return extractor
    options = dict(views)
    count = options.pop("count", 4)
    if not isinstance(count, int) or isinstance(count, bool):
        raise UserError(f"views: given count {count!r}; allowed: a whole number, as in {EXAMPLE}")
    return Views(extractor, count=count, options=options)
