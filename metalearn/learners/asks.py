"""What a learner may ask for beyond the episode it is given."""

from jaxtyping import Float
from torch import Tensor

from metalearn.learners.base import FeatureLearner, Learner


def asks_for_base(learner: Learner) -> bool:
    """Whether a learner must be given the features of the training classes before it is tested."""
    return isinstance(learner, FeatureLearner) and learner.needs_base


def give_base(learner: Learner, features: Float[Tensor, "n d"] | None) -> None:
    """Give the features of the training classes to a learner that asks for them; nothing to any other."""
    if asks_for_base(learner):
        assert isinstance(learner, FeatureLearner) and features is not None  # extracted, as this learner asks for them
        learner.fit_base(features)
