"""What can be excited and inhibited: a class among several, yes or no, or numbers. How each is fitted and denied."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from gvae import losses


class Target(NamedTuple):
    """How answers (n, k) are judged against the truth; every function gives a scalar.

    ``loss``: what a head or an adversary makes small. ``denial``: what the encoder makes small so that an adversary's
    answer says nothing. ``score``: how good an answer is, named ``measure``.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    denial: Callable[[Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    measure: str


def accuracy(logits: Float[Tensor, "n k"], truth: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Share of images whose greatest logit is the truth."""
    return (logits.argmax(1) == truth).float().mean()


def to_uniform(logits: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean cross-entropy from uniform, nats; least, log k, where every class is as likely."""
    return losses.cross_entropy_to_uniform(logits).mean()


def two_classes(logit: Float[Tensor, "n 1"]) -> Float[Tensor, "n 2"]:
    """Logits of no and yes: their softmax is the sigmoid of the one logit, as in the release's heads."""
    return torch.cat([torch.zeros_like(logit), logit], 1)


def mean_square(answer: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean square of an answer about standardised numbers: 0 where it is always their mean, which says nothing."""
    return answer.square().mean()


def _yes_or_no(logit: Shaped[Tensor, "n 1"], truth: Int[Tensor, " n"]) -> Tensor:
    return F.cross_entropy(two_classes(logit), truth)


CATEGORICAL = Target(F.cross_entropy, to_uniform, accuracy, "accuracy")
BINARY = Target(
    _yes_or_no, lambda logit: to_uniform(two_classes(logit)),
    lambda logit, truth: accuracy(two_classes(logit), truth), "accuracy",
)  # fmt: skip
CONTINUOUS = Target(F.mse_loss, mean_square, losses.variance_explained, "r2")
