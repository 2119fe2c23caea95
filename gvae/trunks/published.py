"""Networks of publications, each for the one image size it was published for."""

from jaxtyping import Float
from torch import Tensor, nn

from gvae.trunks.base import Encoder, ImageShape, require_size


class ReleaseEncoder(Encoder):
    """The MNIST encoder of the authors' release: conv 1-64 k6 s2 (no ReLU), 64-128 k5, 128-256 k5; 28x28 only."""

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        require_size("release28", image_shape, 28)
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
        require_size("release28", image_shape, 28)
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


class Release64Encoder(Encoder):
    """The CelebA encoder of the authors' release: conv 32 32 64 64 (k4 s2 p1), conv 256 (k4), ReLU; 64x64 only."""

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        require_size("release64", image_shape, 64)
        self.layers = nn.Sequential(*_halvings(image_shape[0]), nn.Conv2d(64, 256, 4), nn.ReLU())
        self.hidden_dim = 256

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hidden"]:
        """Return the last feature map, one pixel large, as (n, 256)."""
        return self.layers(images).flatten(1)


class Release64Decoder(nn.Module):
    """The mirrored CelebA decoder of the authors' release: latents (n, d) to what the likelihood is of."""

    def __init__(self, image_shape: ImageShape, latents: int):
        super().__init__()
        require_size("release64", image_shape, 64)
        self.linear = nn.Sequential(nn.Linear(latents, 256), nn.ReLU())
        self.layers = nn.Sequential(nn.ConvTranspose2d(256, 64, 4), nn.ReLU(), *_doublings(image_shape[0]))

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return pixel logits or means, (n, c, 64, 64)."""
        return self.layers(self.linear(z).view(-1, 256, 1, 1))


class StudyEncoder(Encoder):
    """Encoder of the disentanglement study: conv 32 32 64 64 (k4 s2 p1), linear 256, ReLU; 64x64 only.

    Locatello et al. 2019, "Challenging common assumptions in the unsupervised learning of disentangled
    representations"; first the chairs net of Higgins et al. 2017, table 1. The study's code has k2 in the two
    convolutions of 64 channels.
    """

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        require_size("study64", image_shape, 64)
        self.layers = nn.Sequential(*_halvings(image_shape[0]))
        self.linear = nn.Sequential(nn.Linear(64 * 4 * 4, 256), nn.ReLU())
        self.hidden_dim = 256

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hidden"]:
        """Return the last hidden layer, (n, 256)."""
        return self.linear(self.layers(images).flatten(1))


class StudyDecoder(nn.Module):
    """Decoder of the disentanglement study: linear 256 and 1024, transposed conv 64 32 32 c (k4 s2 p1)."""

    def __init__(self, image_shape: ImageShape, latents: int):
        super().__init__()
        require_size("study64", image_shape, 64)
        self.linear = nn.Sequential(nn.Linear(latents, 256), nn.ReLU(), nn.Linear(256, 64 * 4 * 4), nn.ReLU())
        self.layers = nn.Sequential(*_doublings(image_shape[0]))

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return pixel logits, (n, c, 64, 64)."""
        return self.layers(self.linear(z).view(-1, 64, 4, 4))


class StatisticianEncoder(Encoder):
    """The shared encoder of the Neural Statistician on Omniglot: 9 convolutions 3x3, 64 to 256 channels; 28x28 only.

    Edwards & Storkey 2017, appendix B.1: every third has stride 2, batch norm and ELU after each.
    """

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        require_size("statistician28", image_shape, 28)
        layers: list[nn.Module] = []
        before = image_shape[0]
        for width in (64, 128, 256):
            for stride in (1, 1, 2):
                layers += _with_norm(nn.Conv2d(before, width, 3, stride, padding=1, bias=False))
                before = width
        self.layers = nn.Sequential(*layers)
        self.hidden_dim = 256 * 4 * 4

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hidden"]:
        """Return the flattened last feature map, (n, 4096)."""
        return self.layers(images).flatten(1)


class StatisticianDecoder(nn.Module):
    """The decoder of the Neural Statistician on Omniglot: 6 convolutions 3x3 and 3 doublings, latents to pixel logits.

    Edwards & Storkey 2017, appendix B.1. The doublings are transposed convolutions 2x2 with stride 2; 4x4 to 28x28
    pixels takes one convolution without padding, the last one here.
    """

    def __init__(self, image_shape: ImageShape, latents: int):
        super().__init__()
        require_size("statistician28", image_shape, 28)
        self.linear = nn.Linear(latents, 256 * 4 * 4)
        layers: list[nn.Module] = []
        before = 256
        for width, padding in ((256, 1), (128, 1), (64, 0)):
            layers += _with_norm(nn.Conv2d(before, width, 3, padding=1, bias=False))
            layers += _with_norm(nn.Conv2d(width, width, 3, padding=padding, bias=False))
            layers += _with_norm(nn.ConvTranspose2d(width, width, 2, stride=2, bias=False))
            before = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(64, image_shape[0], 1))

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Return pixel logits, (n, c, 28, 28)."""
        return self.layers(self.linear(z).view(-1, 256, 4, 4))


def _with_norm(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ELU()]


def _halvings(channels: int) -> list[nn.Module]:
    """64x64 to 4x4 pixels of 64 channels: what the CelebA net and the study's have in common."""
    layers: list[nn.Module] = []
    for before, width in zip((channels, 32, 32, 64), (32, 32, 64, 64), strict=True):
        layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.ReLU()]
    return layers


def _doublings(channels: int) -> list[nn.Module]:
    """4x4 pixels of 64 channels back to 64x64; no ReLU at the end."""
    layers: list[nn.Module] = []
    for before, width in zip((64, 64, 32, 32), (64, 32, 32, channels), strict=True):
        layers += [nn.ConvTranspose2d(before, width, 4, stride=2, padding=1), nn.ReLU()]
    return layers[:-1]
