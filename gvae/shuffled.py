"""The minibatches of a training, each a function of the seed and its step."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gvae.batch import Batch
from gvae.errors import ModelError
from gvae.seeds import seeded
from gvae.sets import Sets
from gvae.share import ALONE, Share


class Shuffled:
    """Batches of images (uint8), labels and known factors, all on one device: slices of a new permutation every epoch.

    The order of an epoch depends on (seed, epoch) alone and is the same on every device: the CPU draws it, once an
    epoch. What is left over at an epoch's end is not shown. Of images a batch has this process's ``share``.
    ``set_size``: a batch is as many whole sets of one class as fit it, formed anew every epoch, ``group_size`` of them
    of one group of classes, see `gvae.sets`. Raises ModelError for a batch size below 2, above the number of images, or
    not to be shared evenly.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        batch_size: int,
        seed: int,
        factors: Mapping[str, Tensor] = MappingProxyType({}),
        share: Share = ALONE,
        *,
        set_size: int = 1,
        group_size: int = 1,
        groups: Int[np.ndarray, " classes"] | None = None,
    ):
        if batch_size < 2 or batch_size > len(images):
            raise ModelError(
                f"training.batch_size must be between 2 and the {len(images)} training images, got {batch_size}"
            )
        share.check(batch_size)
        self.images, self.labels, self.factors = images, labels, factors
        self.batch_size, self.seed, self.share = batch_size, seed, share
        self._sets: Sets | None = None
        if set_size > 1:
            self._sets = Sets(labels, set_size, batch_size, alike=group_size, groups=groups)
        shown = len(images)
        if self._sets:
            self.batch_size, shown = self._sets.batch_size, self._sets.images
        self.steps = shown // self.batch_size
        """Batches an epoch."""
        self._epoch, self._order = -1, torch.empty(0)

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step, counted from the first epoch's start, images as floats in [0, 1]."""
        epoch, position = divmod(step, self.steps)
        if epoch != self._epoch:
            drawn = seeded("cpu", self.seed, 1, epoch)
            order = torch.randperm(len(self.images), generator=drawn)
            if self._sets:
                order = self._sets.form(order, drawn)
            self._epoch, self._order = epoch, order.to(self.images.device)
        index = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        noise = seeded(self.images.device, self.seed, 2, step)
        known = {name: values[index] for name, values in self.factors.items()}
        images = as_floats(self.images[self.share.mine(index)])
        return Batch(images, self.labels[index], noise, step, known, self.share)


def as_floats(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return images in [0, 1]."""
    return images.to(torch.get_default_dtype()).mul_(1 / 255)
