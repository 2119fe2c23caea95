"""Colour adjustments of a batch, each image by its own factor: tensors in, tensors out, nothing read by the host.

torchvision's functions of the same names take one number for all images of a batch; each of these gives for an image
what torchvision gives for it alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey of a colour (ITU-R BT.601), to torchvision's four digits."""


def adjust_brightness(images: Float[Tensor, "n c h w"], factor: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Multiply images in [0, 1] by a factor >= 0, cut to [0, 1]: 0 gives black, 1 the image."""
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(images: Float[Tensor, "n c h w"], factor: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Move images in [0, 1] from their mean grey by a factor >= 0: 0 gives the mean grey alone, 1 the image."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Float[Tensor, "n 3 h w"], factor: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
    """Move images in [0, 1] from their grey picture by a factor >= 0: 0 gives the grey picture, 1 the image."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Float[Tensor, "n 3 h w"], shift: Float[Tensor, " n"]) -> Float[Tensor, "n 3 h w"]:
    """Turn the hue of images in [0, 1] by a share of the colour circle; value and saturation (HSV) stay.

    From HSV a channel is ``value - chroma * clamp(min(k, 4 - k), 0, 1)``, k = (o + 6 hue) mod 6, o = 5, 3, 1 for
    red, green, blue.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)  # ten times as fast on a CPU as images.amax(1)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma > 0, chroma, 1.0)  # a grey has no hue: any will do
    hue = torch.where(value == green, (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4))
    hue = torch.where(value == red, (green - blue).div_(divisor), hue).add_(6 * shift.view(-1, 1, 1))
    turned = [(hue + offset).remainder_(6) for offset in (5, 3, 1)]
    channels = [value - torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma) for k in turned]
    return torch.stack(channels, dim=1).clamp_(0, 1)  # one rounding may leave it


def grey(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """Return the luma of colour images (c = 3), other images as they are (c = 1)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor: Float[Tensor, " n"]) -> Tensor:
    return torch.lerp(other.expand_as(images), images, factor.view(-1, 1, 1, 1)).clamp_(0, 1)
