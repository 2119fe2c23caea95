"""What every trunk shares: its type, and the words for images that it does not take."""

from torch import nn

from gvae.errors import ModelError

ImageShape = tuple[int, int, int]


class Encoder(nn.Module):
    """An encoder trunk: images (n, c, h, w) to hidden (n, ``hidden_dim``)."""

    hidden_dim: int


def require_size(trunk: str, image_shape: ImageShape, side: int) -> None:
    """Raise ModelError unless the images are ``side`` x ``side``, the one size that a published net takes."""
    if image_shape[1:] != (side, side):
        raise ModelError(
            f"trunk {trunk!r} takes {side}x{side} images, got {image_shape[1]}x{image_shape[2]}; "
            "use trunk 'conv', or set the dataset's image_size"
        )
