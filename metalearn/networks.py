"""Any torch network as an extractor: images made fit for it, the network or one layer read, the width found by a pass.

The network may be of torchvision, timm or one's own; see docs/swap-an-extractor.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gvae.nets import ImageShape
from metalearn.cells import LabelsUsed
from metalearn.errors import UserError, unknown, unknown_of_many
from metalearn.extractors import FeatureExtractor, require_shape
from metalearn.weights import WeightsFile

Pool = Literal["mean", "mean_last", "flatten"]
FROM_THE_SEED = "weights drawn by the seed"


class Network(FeatureExtractor):
    """A network behind the contract of extractors: images (n, c, h, w) in [0, 1] to vectors (n, d).

    ``channels``: what the network takes, by default as many as the images have; one channel is repeated. ``size``: the
    side in pixels that images are resized to, bilinear and antialiased; by default they stay as they are. ``mean`` and
    ``std``: a number a channel, subtracted and divided by. ``layer``: the submodule whose output is read, by default
    the network's own; the pass ends there. ``pool``: how maps (n, c, h, w) or tokens (n, t, c) become vectors: their
    mean over places (``mean_last`` for maps (n, h, w, c)), or all numbers (``flatten``); None takes vectors only.

    Parameters that the features do not depend on are frozen. What the network says of itself by the attributes
    ``labels_used``, ``pretrained`` and ``training_classes`` is taken over. Raises UserError for images, layers and
    outputs that do not fit, saying both shapes.
    """

    network: nn.Module
    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        image_shape: ImageShape,
        *,
        name: str,
        weights: str = FROM_THE_SEED,
        channels: int | None = None,
        size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        layer: str | None = None,
        pool: Pool | None = None,
    ):
        super().__init__()
        self.network, self.name = network, name
        self.image_shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
        self.channels, self.size, self.layer, self.pool = channels or image_shape[0], size, layer, pool
        self._check_options(mean, std)
        statistics = [None if one is None else torch.tensor(one).view(1, -1, 1, 1) for one in (mean, std)]
        self.register_buffer("mean", statistics[0], persistent=False)
        self.register_buffer("std", statistics[1], persistent=False)
        self.eval()
        self.feature_dim = self._find_width()
        self.labels_used = getattr(network, "labels_used", "none")
        if self.labels_used not in get_args(LabelsUsed):
            raise UserError(unknown(f"labels_used of {name}", self.labels_used, get_args(LabelsUsed)))
        self.pretrained = bool(getattr(network, "pretrained", self.labels_used != "none"))
        self.training_classes = frozenset(getattr(network, "training_classes", ()))
        self.settings = "; ".join([name, weights, self._images(mean, std), self._reading(), f"{self.feature_dim} wide"])

    @classmethod
    def depends_on_seed(cls, options: Mapping[str, Any]) -> bool:
        """Whether the weights are drawn: where none are given."""
        return options.get("weights") is None

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the features of a batch. UserError for images of another shape."""
        require_shape(images, self.image_shape)
        return self._features(images)

    def _features(self, images: Tensor) -> Any:
        return self._pooled(self._read(self._adapted(images)))

    def _adapted(self, images: Tensor) -> Tensor:
        if self.channels != self.image_shape[0]:
            images = images.expand(-1, self.channels, -1, -1)
        if self.size is not None and self.image_shape[1:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images if self.mean is None or self.std is None else (images - self.mean) / self.std

    def _read(self, images: Tensor) -> Any:
        """What the network gives, or the layer."""
        if self.layer is None:
            return self.network(images)
        handle = self.network.get_submodule(self.layer).register_forward_hook(_reached)
        try:
            self.network(images)
        except _Reached as end:
            return end.output
        finally:
            handle.remove()
        raise UserError(f"layer {self.layer!r} of {self.name} takes no part in what it computes; name another layer")

    def _pooled(self, output: Any) -> Any:
        if self.pool is None or not isinstance(output, Tensor) or output.dim() not in (3, 4):
            return output
        if self.pool == "flatten":
            return output.flatten(1)
        if output.dim() == 3:
            return output.mean(1)
        return output.mean((2, 3)) if self.pool == "mean" else output.mean((1, 2))

    def _check_options(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        given = self.image_shape[0]
        if self.channels != given and given != 1:
            raise UserError(
                f"{self.name} takes {self.channels} channels and the images have {given}; allowed: images of 1 or "
                f"{self.channels} channels"
            )
        if self.channels < 1 or (self.size is not None and self.size < 1):
            raise UserError(f"{self.name}: channels {self.channels}, size {self.size}; allowed: 1 or more")
        for what, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != self.channels:
                raise UserError(f"{self.name}: {what} has {len(values)} numbers; allowed: {self.channels}, as channels")
        if (mean is None) != (std is None) or (std is not None and min(std) <= 0):
            raise UserError(f"{self.name}: mean {mean} and std {std}; allowed: both or neither, std above 0")
        layers = [name for name, _ in self.network.named_modules() if name]
        if self.layer is not None and self.layer not in layers:
            raise UserError(unknown_of_many(f"layer of {self.name}", self.layer, layers))

    def _find_width(self) -> int:
        """Pass two images; return the width of the features and freeze what they do not depend on."""
        images = torch.rand(2, *self.image_shape, generator=torch.Generator().manual_seed(0))
        given = (self.channels, *((self.size, self.size) if self.size else self.image_shape[1:]))
        with torch.enable_grad():
            try:
                features = self._features(images)
            except UserError:
                raise
            except Exception as error:  # whatever another's network raises
                said = str(error).partition("\n")[0]
                raise UserError(
                    f"{self.name} fails on images of shape {given} (c, h, w): {type(error).__name__}: {said}; give "
                    "the size (kind torchvision, timm or network: `size`, in pixels) and channels that it takes"
                ) from error
            shape = tuple(features.shape) if isinstance(features, Tensor) else f"none, but a {type(features).__name__}"
            if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
                raise UserError(
                    f"{self._what} gives an output of shape {shape} for {len(images)} images of shape {given}; allowed:"
                    f" ({len(images)}, d), a vector an image, or maps and tokens with `pool`: mean, mean_last or "
                    "flatten; or name another layer"
                )
            self._freeze_unused(features)
        return features.shape[1]

    def _freeze_unused(self, features: Tensor) -> None:
        moving = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        used: Sequence[Tensor | None] = [None] * len(moving)
        if moving and features.requires_grad:
            used = torch.autograd.grad(features.sum(), moving, allow_unused=True)
        for parameter, gradient in zip(moving, used, strict=True):
            parameter.requires_grad_(gradient is not None)

    @property
    def _what(self) -> str:
        return self.name if self.layer is None else f"layer {self.layer!r} of {self.name}"

    def _images(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> str:
        repeated = f", repeated to {self.channels} channels" if self.channels != self.image_shape[0] else ""
        resized = f", resized to {self.size}x{self.size}" if self.size else ""
        norm = f", less mean {list(mean)} by std {list(std)}" if mean and std else ", in [0, 1]"
        return f"images {self.image_shape}{repeated}{resized}{norm}"

    def _reading(self) -> str:
        return f"layer {self.layer or 'output'}, pool {self.pool or 'none'}"


class _Reached(Exception):
    """The layer that is read has its output."""

    def __init__(self, output: Any):
        super().__init__()
        self.output = output


def _reached(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)


def take_weights(
    extractor: Network, training_classes: Sequence[str] | None, weights: str | WeightsFile | None, name: str
) -> None:
    """Flag an extractor whose weights were read from a file as pretrained elsewhere, on these classes if they are told.

    Raises UserError for classes without weights.
    """
    if weights is None and training_classes is not None:
        raise UserError(f"{name}: training_classes without weights; they are of the training that gave the weights")
    if weights is not None:
        extractor.pretrained, extractor.labels_used = True, "external"
        extractor.training_classes |= frozenset(training_classes or ())
