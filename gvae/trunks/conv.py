"""The default trunk: small strided convolutions for any image size and channel count."""

from jaxtyping import Float
from torch import Tensor, nn

from gvae.trunks.base import Encoder, ImageShape


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
