"""An epoch's images in sets of one class, for objectives whose data are sets."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gvae.errors import ModelError


class Sets:
    """Sets of ``size`` images of one class: an epoch shows each image at most once, in one set.

    What is left of a class when its sets are full is not shown in that epoch. A batch is as many whole sets as fit
    ``batch_size``, 2 or more. With ``alike`` above 1, sets come by so many of classes of one group, whose number
    ``groups`` has for each class: classes that are hard to tell apart, such as characters of one alphabet. What is
    left of a group when its rows of ``alike`` are full comes in rows of several groups.

    Raises ModelError for a batch size that holds fewer, or more than there are, for a class with fewer images than a
    set, for ``alike`` sets that do not fill batches evenly, and for classes without groups.
    """

    def __init__(
        self,
        labels: Int[Tensor, " n"],
        size: int,
        batch_size: int,
        *,
        alike: int = 1,
        groups: Int[np.ndarray, " classes"] | None = None,
    ):
        self.labels, self.size, self.alike = labels.cpu(), size, alike
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
        if alike > 1:
            self._group = _known(groups)[self.labels]
            if self.batch_size // size % alike:
                raise ModelError(
                    f"group_size: given {alike} sets of a group together, of {self.batch_size // size} in a batch; "
                    "allowed: what divides them, or another training.batch_size"
                )

    def form(self, order: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " shown"]:
        """Return the images of a random ``order`` set after set: sets at random, a class's images among its sets too.

        All on the CPU.
        """
        by_class = order[self.labels[order].argsort(stable=True)]
        label = self.labels[by_class]
        place = torch.arange(len(order)) - self._first[label]  # in its class
        sets = by_class[place < self._whole[label]].unflatten(0, (-1, self.size))
        sets = sets[torch.randperm(len(sets), generator=generator)]
        if self.alike > 1:
            sets = sets[self._rows(self._group[sets[:, 0]], generator)]
        return sets.flatten()

    def _rows(self, group: Int[Tensor, " sets"], generator: torch.Generator) -> Int[Tensor, " sets"]:
        """Return an order of sets in which rows of ``alike`` are of one group, rows at random, as far as there are."""
        by_group = group.argsort(stable=True)
        counts = torch.bincount(group)
        place = torch.arange(len(group)) - (counts.cumsum(0) - counts)[group[by_group]]
        full = place < (counts // self.alike * self.alike)[group[by_group]]
        left = by_group[~full]
        left = left[torch.randperm(len(left), generator=generator)]
        whole = len(left) // self.alike * self.alike
        rows = torch.cat([by_group[full], left[:whole]]).unflatten(0, (-1, self.alike))
        rows = rows[torch.randperm(len(rows), generator=generator)]
        return torch.cat([rows.flatten(), left[whole:]])


def _known(groups: Int[np.ndarray, " classes"] | None) -> Int[Tensor, " classes"]:
    if groups is None:
        raise ModelError(
            "group_size: the training classes have no groups; allowed: where they are named group/class, as Omniglot's "
            "characters by their alphabet, or group_size 1"
        )
    return torch.from_numpy(groups)
