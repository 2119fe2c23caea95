"""An epoch's images in sets of one class, for objectives whose data are sets."""

import torch
from jaxtyping import Int
from torch import Tensor

from gvae.errors import ModelError


class Sets:
    """Sets of ``size`` images of one class: an epoch shows each image at most once, in one set.

    What is left of a class when its sets are full is not shown in that epoch. A batch is as many whole sets as fit
    ``batch_size``, 2 or more. Raises ModelError for a batch size that holds fewer, or more than there are, and for a
    class with fewer images than a set.
    """

    def __init__(self, labels: Int[Tensor, " n"], size: int, batch_size: int):
        self.labels, self.size = labels.cpu(), size
        counts = torch.bincount(self.labels)
        whole = counts // size
        self._whole = whole * size  # images of each class that are shown
        self._first = counts.cumsum(0) - counts
        self.images = int(self._whole.sum())
        """Images that an epoch shows, whole batches or not."""
        self.batch_size = batch_size // size * size
        """Images of a batch."""
        least = int(counts[counts > 0].min())
        if least < size:
            raise ModelError(
                f"set_size: given {size}, but a training class has only {least} images; allowed: 2 to {least}"
            )
        if not 2 * size <= batch_size <= self.images:
            raise ModelError(
                f"training.batch_size: given {batch_size}, which holds {batch_size // size} sets of {size} images; "
                f"allowed: 2 sets to all {int(whole.sum())}, {2 * size} to {self.images} images"
            )

    def form(self, order: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " shown"]:
        """Return the images of a random ``order`` set after set: sets at random, a class's images among its sets too.

        All on the CPU.
        """
        by_class = order[self.labels[order].argsort(stable=True)]
        label = self.labels[by_class]
        place = torch.arange(len(order)) - self._first[label]  # in its class
        sets = by_class[place < self._whole[label]].unflatten(0, (-1, self.size))
        return sets[torch.randperm(len(sets), generator=generator)].flatten()
