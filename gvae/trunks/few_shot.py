"""The trunks of few-shot papers, conv4 and ResNet-12, with a decoder each, for any image of 16 pixels or more."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae.errors import ModelError
from gvae.trunks.base import Encoder, ImageShape

CONV4 = (64, 64, 64, 64)
RESNET12 = (64, 160, 320, 640)


class Conv4Encoder(Encoder):
    """Four blocks of conv 3x3 of 64 channels, batch norm, ReLU and 2x2 max pooling; Snell et al. 2017, section 3.

    Hidden is the flattened last map: 64 numbers for 28x28, 1,024 for 64x64, 1,600 for 84x84 images. Pooling comes
    before ReLU, which gives the same and has a quarter of the values to cut; convolutions have no bias, which batch
    norm would take away again. Maps lie channels last, in which the convolutions and norms are faster on a CPU.
    """

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        sizes = _halved("conv4", image_shape)
        layers: list[nn.Module] = []
        for before, width in zip((image_shape[0], *CONV4), CONV4, strict=False):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.MaxPool2d(2), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        if image_shape[0] == 1:  # the same numbers in the same order, but torch then gives maps channels last at once
            (weight,) = self.layers[0].parameters()
            weight.data = weight.data.as_strided(weight.shape, (9, 1, 3, 1))
        self.hidden_dim = CONV4[-1] * sizes[-1][0] * sizes[-1][1]

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hidden"]:
        """Return the flattened last feature map."""
        maps = self.layers[0](images).contiguous(memory_format=torch.channels_last)
        return self.layers[1:](maps).flatten(1)


class ResidualBlock(nn.Module):
    """Three conv 3x3 with batch norm and LeakyReLU 0.1, a 1x1 convolution around them, 2x2 max pooling at the end.

    Pooling comes before the last LeakyReLU, which gives the same.
    """

    def __init__(self, before: int, width: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.around = nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))
        self.end = nn.Sequential(nn.MaxPool2d(2), nn.LeakyReLU(0.1))

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n width half_h half_w"]:
        """Return maps of half the size, rounded down."""
        return self.end(self.path(maps) + self.around(maps))


class ResNet12Encoder(Encoder):
    """ResNet-12 of 64, 160, 320 and 640 channels, then the mean over pixels: hidden (n, 640) for any image size.

    The widths of MetaOptNet (Lee et al. 2019), without its DropBlock, and the mean over pixels at the end of TADAM
    (Oreshkin et al. 2018), whose own widths are 64, 128, 256 and 512.
    """

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        _halved("resnet12", image_shape)
        pairs = zip((image_shape[0], *RESNET12), RESNET12, strict=False)
        self.layers = nn.Sequential(*(ResidualBlock(before, width) for before, width in pairs))
        self.hidden_dim = RESNET12[-1]

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hidden"]:
        """Return the mean over pixels of the last feature map, (n, 640)."""
        return self.layers(images).mean((2, 3))


class UpsamplingDecoder(nn.Module):
    """An encoder's stages backwards: latents (n, d) to pixel logits (n, c, h, w).

    At every stage the nearest neighbour brings maps to the size that the encoder pooled from, and a 3x3 convolution
    follows, with batch norm and ReLU but at the last.
    """

    def __init__(self, image_shape: ImageShape, latents: int, trunk: str, widths: tuple[int, ...]):
        super().__init__()
        sizes = _halved(trunk, image_shape)
        self.start = (widths[-1], *sizes[-1])
        self.linear = nn.Sequential(nn.Linear(latents, widths[-1] * sizes[-1][0] * sizes[-1][1]), nn.ReLU())
        layers: list[nn.Module] = []
        outputs = (*widths[-2::-1], image_shape[0])
        for before, width, size in zip(widths[::-1], outputs, sizes[-2::-1], strict=True):
            layers += [nn.Upsample(size), nn.Conv2d(before, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers[-3:] = [nn.Conv2d(widths[0], image_shape[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return logits; their sigmoid is the Bernoulli mean of each pixel."""
        return self.layers(self.linear(z).view(-1, *self.start))


class Conv4Decoder(UpsamplingDecoder):
    """The mirror of ``Conv4Encoder``."""

    def __init__(self, image_shape: ImageShape, latents: int):
        super().__init__(image_shape, latents, "conv4", CONV4)


class ResNet12Decoder(UpsamplingDecoder):
    """The stages of ``ResNet12Encoder`` backwards, one convolution a stage."""

    def __init__(self, image_shape: ImageShape, latents: int):
        super().__init__(image_shape, latents, "resnet12", RESNET12)


def _halved(trunk: str, image_shape: ImageShape) -> list[tuple[int, int]]:
    """Heights and widths before, between and after four halvings; ModelError where nothing would be left."""
    height, width = image_shape[1:]
    if min(height, width) < 16:
        raise ModelError(
            f"trunk {trunk!r} halves images four times and takes 16x16 or larger, got {height}x{width}; "
            "use trunk 'conv', or set the dataset's image_size"
        )
    return [(height >> stage, width >> stage) for stage in range(5)]
