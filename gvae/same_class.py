"""Guidance by class without a head: images of one class excite the same content, however many classes there are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvae import losses
from gvae.batch import Batch, Seen, Terms, full_precision
from gvae.errors import ModelError
from gvae.part import Part, Setting, places
from gvae.vae import take


class SameClass(Part):
    """Images of one class must find each other among the batch (Khosla et al. 2020, equation 2).

    The supervised counterpart of ``Instances``: excitation of the class where no head has a row for each class, which
    is slow to learn with thousands of them. On the posterior means of the ``slots`` (default: content); a batch has
    ``set_size`` images of each of its classes, and the second view of each image too where another part asks for one.
    ``group_size`` above 1: so many of its classes are of one group, such as characters of an alphabet, which a batch of
    classes at random hardly ever has to tell apart.
    """

    labels_used = "class"

    def __init__(
        self,
        *,
        class_weight: float = 100.0,
        temperature: float = 0.1,
        set_size: int = 2,
        group_size: int = 1,
        slots: Sequence[str] = ("content",),
    ):
        super().__init__()
        if temperature <= 0 or set_size < 2 or group_size < 1:
            raise ModelError(
                f"temperature, set_size, group_size: given {temperature}, {set_size}, {group_size}; allowed: above "
                "0, 2 or more, and 1 or more"
            )
        self.class_weight, self.temperature = class_weight, temperature
        self.set_size, self.group_size, self.compared = set_size, group_size, tuple(slots)

    def build(self, setting: Setting) -> None:
        """Find the slots."""
        self._places = places(setting.vae, self.compared)

    def loss(self, batch: Batch, seen: Seen) -> tuple[Tensor, Terms]:
        """Return (the weighted loss, the term and how many images have one of their class nearest)."""
        views = [seen.posterior, *([seen.other] if seen.other else [])]
        with full_precision(seen.z):
            z = torch.cat([take(view.mean, self._places) for view in views])
            labels = batch.labels.repeat(len(views))
            same = losses.supervised_contrastive(z, labels, self.temperature).mean()
            directions = nn.functional.normalize(z.detach(), dim=1)
            nearest = (directions @ directions.T).fill_diagonal_(-2).argmax(1)
        found = (labels[nearest] == labels).float().mean()
        return self.class_weight * same, {"same_class": same, "same_class_accuracy": found}
