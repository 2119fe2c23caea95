"""Encoder and decoder trunks: images to a hidden vector, and latents back to pixel logits."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvae.errors import ModelError

ImageShape = tuple[int, int, int]


class Encoder(nn.Module):
    """An encoder trunk: images (n, c, h, w) to hidden (n, ``hidden_dim``)."""

    hidden_dim: int


class ConvEncoder(Encoder):
    """Strided 3x3 convolutions with batch norm and ReLU, one halving a stage; any image size and channel count.

    Images (n, c, h, w) in [0, 1] to hidden (n, ``hidden_dim``). In eval mode batch norm uses its running
    statistics, so that the features of an image do not depend on the others in its batch.
    """

    def __init__(self, image_shape: ImageShape, widths: tuple[int, ...] = (32, 64, 128, 128)):
        super().__init__()
        self.widths = widths
        self.sizes = [image_shape[1:]]
        layers: list[nn.Module] = []
        before = image_shape[0]
        for width in widths:
            layers += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
            height, breadth = self.sizes[-1]
            self.sizes.append(((height + 1) // 2, (breadth + 1) // 2))
        self.layers = nn.Sequential(*layers)
        self.hidden_dim = before * self.sizes[-1][0] * self.sizes[-1][1]

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hidden"]:
        """Return the flattened last feature map."""
        return self.layers(images).flatten(1)


class ConvDecoder(nn.Module):
    """The mirror of ``ConvEncoder``: latents (n, d) to pixel logits (n, c, h, w)."""

    def __init__(self, image_shape: ImageShape, latents: int, widths: tuple[int, ...] = (32, 64, 128, 128)):
        super().__init__()
        encoder = ConvEncoder(image_shape, widths)
        self.start = (widths[-1], *encoder.sizes[-1])
        self.linear = nn.Sequential(nn.Linear(latents, encoder.hidden_dim), nn.ReLU())
        layers: list[nn.Module] = []
        targets = encoder.sizes[-2::-1]
        outputs = [*widths[-2::-1], image_shape[0]]
        sources = [widths[-1], *widths[-2::-1]]
        for stage, (source, output, target) in enumerate(zip(sources, outputs, targets, strict=True)):
            now = encoder.sizes[len(widths) - stage]
            extra = (
                target[0] - (2 * now[0] - 1),
                target[1] - (2 * now[1] - 1),
            )  # undo the rounding of odd sizes
            last = stage == len(widths) - 1
            layers.append(nn.ConvTranspose2d(source, output, 3, stride=2, padding=1, output_padding=extra, bias=last))
            if not last:
                layers += [nn.BatchNorm2d(output), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return logits; their sigmoid is the Bernoulli mean of each pixel."""
        return self.layers(self.linear(z).view(-1, *self.start))


class ReleaseEncoder(Encoder):
    """The MNIST encoder of the authors' release: conv 1-64 k6 s2 (no ReLU), 64-128 k5, 128-256 k5; 28x28 only."""

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        _require_28(image_shape)
        self.layers = nn.Sequential(
            nn.Conv2d(image_shape[0], 64, 6, stride=2),
            nn.Conv2d(64, 128, 5),
            nn.ReLU(),
            nn.Conv2d(128, 256, 5),
            nn.ReLU(),
        )
        self.hidden_dim = 4096

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hidden"]:
        """Return the flattened last feature map, (n, 4096)."""
        return self.layers(images).flatten(1)


class ReleaseDecoder(nn.Module):
    """The mirrored decoder of the authors' release, without its final sigmoid: latents (n, d) to logits."""

    def __init__(self, image_shape: ImageShape, latents: int):
        super().__init__()
        _require_28(image_shape)
        self.linear = nn.Sequential(nn.Linear(latents, 4096), nn.ReLU())
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(256, 128, 5),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 5),
            nn.ReLU(),
            nn.ConvTranspose2d(64, image_shape[0], 6, stride=2),
        )

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return pixel logits, (n, c, 28, 28)."""
        return self.layers(self.linear(z).view(-1, 256, 4, 4))


def _require_28(image_shape: ImageShape) -> None:
    if image_shape[1:] != (28, 28):
        raise ModelError(
            f"trunk 'release28' takes 28x28 images, got {image_shape[1]}x{image_shape[2]}; use trunk 'conv'"
        )


TRUNKS: dict[str, tuple[Callable[..., Encoder], Callable[..., nn.Module]]] = {
    "conv": (ConvEncoder, ConvDecoder),
    "release28": (ReleaseEncoder, ReleaseDecoder),
}


def build_trunk(name: str, image_shape: ImageShape, latents: int) -> tuple[Encoder, nn.Module]:
    """Build the encoder (with ``hidden_dim``) and decoder called ``name``; raise ModelError on an unknown name."""
    if name not in TRUNKS:
        raise ModelError(f"unknown trunk {name!r}; allowed: {', '.join(sorted(TRUNKS))}")
    encoder, decoder = TRUNKS[name]
    return encoder(image_shape), decoder(image_shape, latents)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw linear and convolution weights anew from ``generator``: uniform, variance 1/(3 fan_in).

    That is torch's default, but for transposed convolutions, whose fan-in is counted over their input channels.

    A network's start is thus a pure function of its seed, whatever else has drawn random numbers before.
    """
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and isinstance(weight, Tensor):
            fan_in = weight[0].numel() if not isinstance(layer, nn.ConvTranspose2d) else weight[:, 0].numel()
            bound = fan_in**-0.5
            weight.uniform_(-bound, bound, generator=generator)
            if layer.bias is not None:
                layer.bias.uniform_(-bound, bound, generator=generator)
