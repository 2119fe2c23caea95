"""The table of trunks, images to a hidden vector and latents back to pixel logits; and their first weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gvae.errors import ModelError
from gvae.trunks.base import Encoder, ImageShape
from gvae.trunks.conv import ConvDecoder, ConvEncoder
from gvae.trunks.few_shot import Conv4Decoder, Conv4Encoder, ResNet12Decoder, ResNet12Encoder
from gvae.trunks.published import (
    Release64Decoder,
    Release64Encoder,
    ReleaseDecoder,
    ReleaseEncoder,
    StatisticianDecoder,
    StatisticianEncoder,
    StudyDecoder,
    StudyEncoder,
)

TRUNKS: dict[str, tuple[Callable[..., Encoder], Callable[..., nn.Module]]] = {
    "conv": (ConvEncoder, ConvDecoder),
    "conv4": (Conv4Encoder, Conv4Decoder),
    "release28": (ReleaseEncoder, ReleaseDecoder),
    "release64": (Release64Encoder, Release64Decoder),
    "resnet12": (ResNet12Encoder, ResNet12Decoder),
    "statistician28": (StatisticianEncoder, StatisticianDecoder),
    "study64": (StudyEncoder, StudyDecoder),
}


def build_trunk(name: str, image_shape: ImageShape, latents: int) -> tuple[Encoder, nn.Module]:
    """Build the encoder (with ``hidden_dim``) and decoder called ``name``.

    ``conv4/conv`` is the encoder of one and the decoder of another: features are the encoder's, and a light decoder
    leaves it the time. Raises ModelError on an unknown name, and on images that the trunk does not take.
    """
    first, slash, second = name.partition("/")
    for one in (first, second) if slash else (first,):
        if one not in TRUNKS:
            raise ModelError(
                f"unknown trunk {one!r}; allowed: {', '.join(sorted(TRUNKS))}, or two of them as ENCODER/DECODER"
            )
    return TRUNKS[first][0](image_shape), TRUNKS[second or first][1](image_shape, latents)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw linear and convolution weights anew from ``generator``: uniform, variance 1/(3 fan_in).

    That is torch's default, but for transposed convolutions, whose fan-in is counted over their input channels.
    Batch norm starts at the identity, and has seen nothing.

    A network's start is thus a pure function of its seed, whatever else has drawn random numbers before.
    """
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and isinstance(weight, Tensor):
            fan_in = weight[0].numel() if not isinstance(layer, nn.ConvTranspose2d) else weight[:, 0].numel()
            bound = fan_in**-0.5
            weight.uniform_(-bound, bound, generator=generator)
            if layer.bias is not None:
                layer.bias.uniform_(-bound, bound, generator=generator)
