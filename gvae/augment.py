"""Augmentation of a batch on its device: one affine warp and one colour jitter an image, drawn from a generator."""

import inspect
import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gvae import colour
from gvae.errors import ModelError
from gvae.share import ALONE, Share
from gvae.warp import sampling_matrix, warp

Range = tuple[float, float]
_COLUMNS = 14  # random numbers an image, whatever is asked for


class Parameters(NamedTuple):
    """What is done to each image of a batch: one row an image."""

    crop: Float[Tensor, "n 4"]
    """Left, top, width, height of the part that is kept, shares of the image's sides."""
    flip: Bool[Tensor, " n"]
    rotation: Float[Tensor, " n"]
    """Degrees, counter-clockwise as seen."""
    translation: Float[Tensor, "n 2"]
    """To the right and down, shares of the image's sides."""
    scale: Float[Tensor, " n"]
    shear: Float[Tensor, " n"]
    """Degrees, along x."""
    brightness: Float[Tensor, " n"]
    contrast: Float[Tensor, " n"]
    saturation: Float[Tensor, " n"]
    hue: Float[Tensor, " n"]
    """Share of the colour circle."""
    elastic: Float[Tensor, "n 2 points points"]
    """To the right and down, shares of the image's sides, of each point of the grid; no points: nothing is bent."""

    def mine(self, share: Share) -> "Parameters":
        """Return the rows of one process's share."""
        return Parameters(*(share.mine(values) for values in self))


class Augment:
    """Random warp and colour jitter of float images in [0, 1], every image by parameters of its own.

    An image is cropped and the crop brought to full size, flipped, then sheared, scaled and turned about the centre
    and moved, and bent: one warp, read once, bilinear, without antialiasing; where it leaves room beside the crop, the
    image goes on to its own border. Brightness, contrast, saturation and hue follow in this order. Each is drawn
    uniformly, and no draw of a call depends on what else is asked for.

    ``rotation``: up to so many degrees either way, 0 to 180. ``translation``: up to so large a share of the side, each
    axis. ``scale``: lowest and highest factor of the size. ``shear``: degrees either way, below 90. ``crop``: lowest
    and highest share of the area, a random resized crop; its width over height is drawn uniformly in the logarithm
    from 1 / ``aspect`` to ``aspect``, as far as the crop fits, and its place anywhere inside. ``flip``: chance of a
    horizontal flip. ``elastic``: how far, as a share of the side, each point of a grid of ``elastic_points`` by
    ``elastic_points`` over the image moves at most along each axis; pixels between follow a bicubic surface (smooth
    deformations as Simard et al. 2003 make of digits). ``brightness``, ``contrast``, ``saturation``: 0.4 draws factors
    from 0.6 to 1.4 (never below 0). ``hue``: share of the colour circle either way, up to 0.5. ``outside``: what a warp
    shows beyond the image, the value ``fill`` or the nearest pixel of its ``edge``. The defaults leave images as they
    are.

    Raises ModelError for a value out of range, and for a jitter that the images' channels cannot have.
    """

    def __init__(
        self,
        *,
        rotation: float = 0.0,
        translation: float = 0.0,
        scale: Range = (1.0, 1.0),
        shear: float = 0.0,
        crop: Range = (1.0, 1.0),
        aspect: float = 4 / 3,
        flip: float = 0.0,
        elastic: float = 0.0,
        elastic_points: int = 4,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        outside: Literal["fill", "edge"] = "fill",
        fill: float = 0.0,
    ):
        _require("rotation", rotation, 0 <= rotation <= 180, "0 to 180 degrees")
        _require("translation", translation, 0 <= translation <= 1, "0 to 1, a share of the side")
        _require("scale", scale, 0 < scale[0] <= scale[1] < math.inf, "two factors, 0 < lowest <= highest")
        _require("shear", shear, 0 <= shear < 90, "0 to less than 90 degrees")
        _require("crop", crop, 0 < crop[0] <= crop[1] <= 1, "two shares of the area, 0 < lowest <= highest <= 1")
        _require("aspect", aspect, 1 <= aspect < math.inf, "1 or more, the longer side of a crop over the shorter")
        _require("flip", flip, 0 <= flip <= 1, "0 to 1, a chance")
        _require("elastic", elastic, 0 <= elastic <= 0.5, "0 to 0.5, a share of the side")
        _require("elastic_points", elastic_points, elastic_points >= 2, "2 or more, along each side")
        for name, value in {"brightness": brightness, "contrast": contrast, "saturation": saturation}.items():
            _require(name, value, 0 <= value < math.inf, "0 or more, how far factors go from 1")
        _require("hue", hue, 0 <= hue <= 0.5, "0 to 0.5, a share of the colour circle")
        _require("outside", outside, outside in ("fill", "edge"), "fill, edge")
        _require("fill", fill, 0 <= fill <= 1, "0 to 1, a pixel's value")
        self.rotation, self.translation, self.scale, self.shear = rotation, translation, scale, shear
        self.crop, self.aspect, self.flip = crop, aspect, flip
        self.elastic, self.elastic_points = elastic, elastic_points
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.outside, self.fill = outside, fill

    def settings(self) -> dict[str, Any]:
        """Return every option as plain data; ``Augment`` takes them back."""
        values = {name: getattr(self, name) for name in inspect.signature(Augment).parameters}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def warps(self) -> bool:
        """Whether pixels move at all."""
        ranges = (*self.scale, *self.crop)
        return any((self.rotation, self.translation, self.shear, self.flip, self.elastic)) or ranges != (1, 1, 1, 1)

    def check(self, channels: int) -> None:
        """Raise ModelError for a jitter that images of so many channels cannot have."""
        for name, allowed in {"contrast": (1, 3), "saturation": (3,), "hue": (3,)}.items():
            if getattr(self, name) and channels not in allowed:
                need = " or ".join(str(number) for number in allowed)
                raise ModelError(
                    f"augmentation: {name}: given {getattr(self, name)}; allowed: 0, for these images have "
                    f"{channels} channel{'s' * (channels > 1)} and it needs {need}"
                )

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "n c h w"], generator: torch.Generator, share: Share = ALONE
    ) -> Float[Tensor, "n c h w"]:
        """Return augmented images, in [0, 1]; the images themselves where nothing is asked for.

        They depend on the images and ``generator`` alone. A generator on the images' device keeps the host out of it;
        one on the CPU gives the same parameters for every device. Where the images are a process's ``share`` of a
        batch, it is drawn for the whole batch.
        """
        drawn = self.draw(share.processes * len(images), generator, images.device)
        return self.apply(images, drawn.mine(share))

    def draw(self, images: int, generator: torch.Generator, device: torch.device) -> Parameters:
        """Draw the parameters of so many images."""
        random = torch.rand(images, _COLUMNS, generator=generator, device=generator.device).to(device)
        points = self.elastic_points if self.elastic else 0
        bend = torch.rand(images, 2, points, points, generator=generator, device=generator.device).to(device)
        unit, signed = random.unbind(1), (2 * random - 1).unbind(1)
        area = _between(*self.crop, unit[0])
        limit = torch.clamp(-area.log(), max=math.log(self.aspect))  # of width / height: none is longer than the image
        half = limit * signed[1] / 2
        width, height = area.sqrt() * half.exp(), area.sqrt() * (-half).exp()
        crop = torch.stack([(1 - width) * unit[2], (1 - height) * unit[3], width, height], 1)
        return Parameters(
            crop=crop, flip=unit[4] < self.flip, rotation=self.rotation * signed[5],
            translation=self.translation * torch.stack([signed[6], signed[7]], 1),
            scale=_between(*self.scale, unit[8]), shear=self.shear * signed[9],
            brightness=_factors(self.brightness, unit[10]), contrast=_factors(self.contrast, unit[11]),
            saturation=_factors(self.saturation, unit[12]), hue=self.hue * signed[13],
            elastic=self.elastic * (2 * bend - 1),
        )  # fmt: skip

    def apply(self, images: Float[Tensor, "n c h w"], drawn: Parameters) -> Float[Tensor, "n c h w"]:
        """Do to each image what was drawn for it. What the options leave out is not done, whatever was drawn."""
        self.check(images.shape[1])
        if self.warps:
            matrix = reading_matrix(drawn, images.shape[2], images.shape[3])
            bend = displacement(drawn.elastic, images.shape[2], images.shape[3]) if self.elastic else None
            if self.outside == "edge":
                images = warp(images, matrix, "border", bend)
            else:  # a border of the value, not of black
                images = warp(images - self.fill, matrix, bend=bend).add_(self.fill)
            images = images.clamp_(0, 1)
        if self.brightness:
            images = colour.adjust_brightness(images, drawn.brightness)
        if self.contrast:
            images = colour.adjust_contrast(images, drawn.contrast)
        if self.saturation:
            images = colour.adjust_saturation(images, drawn.saturation)
        if self.hue:
            images = colour.adjust_hue(images, drawn.hue)
        return images


def reading_matrix(drawn: Parameters, height: int, width: int) -> Float[Tensor, "n 3 3"]:
    """Matrix of the whole warp, as ``warp`` reads it: from a position in the output back through each step.

    Angles are those of the picture: coordinates in [-1, 1] are shorter on the shorter side.
    """
    turn = sampling_matrix("rotation", drawn.rotation.deg2rad()[:, None])
    size = sampling_matrix("scale", (1 / drawn.scale)[:, None].expand(-1, 2))
    slant = sampling_matrix("shear", drawn.shear.deg2rad().tan()[:, None])
    middle = slant @ size @ turn
    middle[:, 0, 1] *= height / width
    middle[:, 1, 0] *= width / height
    move = sampling_matrix("translation", -2 * drawn.translation)
    corner, sides = drawn.crop[:, :2], drawn.crop[:, 2:]
    mirror = torch.stack([1 - 2 * drawn.flip.to(sides.dtype), torch.ones_like(drawn.scale)], 1)
    part = sampling_matrix("translation", 2 * corner + sides - 1) @ sampling_matrix("scale", sides * mirror)
    return part @ middle @ move


def displacement(points: Float[Tensor, "n 2 k k"], height: int, width: int) -> Float[Tensor, "n 2 height width"]:
    """How far from its place each pixel is read, in half sides: the moves of ``points``, bicubic between them."""
    return F.interpolate(-2 * points, size=(height, width), mode="bicubic", align_corners=True)


def _require(name: str, value: object, allowed: bool, what: str) -> None:
    if not allowed:
        given = list(value) if isinstance(value, tuple) else value
        raise ModelError(f"{name}: given {given}; allowed: {what}")


def _between(low: float, high: float, unit: Tensor) -> Tensor:
    return low + (high - low) * unit


def _factors(reach: float, unit: Tensor) -> Tensor:
    return _between(max(0.0, 1 - reach), 1 + reach, unit)
