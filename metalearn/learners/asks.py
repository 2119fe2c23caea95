"""What a learner may ask for beyond the episode it is given."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from metalearn.learners.base import Learner


@runtime_checkable
class AsksForBase(Protocol):
    """A learner that can be given the features of the training classes; with ``needs_base`` it cannot do without."""

    needs_base: bool

    def fit_base(self, features: Float[Tensor, "n d"]) -> None:
        """Take what it needs of the features of all training images; never of tested ones."""


def asks_for_base(learner: Learner) -> bool:
    """Whether a learner must be given the features of the training classes before it is tested."""
    return isinstance(learner, AsksForBase) and learner.needs_base


def give_base(learner: Learner, features: Float[Tensor, "n d"] | None) -> None:
    """Give the features of the training classes to a learner that asks for them; nothing to any other."""
    if isinstance(learner, AsksForBase) and learner.needs_base:
        assert features is not None  # extracted, as this learner asks for them
        learner.fit_base(features)
