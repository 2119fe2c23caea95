"""What every few-shot learner is: adapt to a labelled support set, then classify queries."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from metalearn.errors import UserError

Classifier = Callable[[Tensor], Tensor]
"""Query images (q, c, h, w), or features (q, d) -> logits (q, ways)."""


Reads = Literal["images", "features", "instances"]


class EpisodeError(UserError):
    """What is wrong with one episode of a batch: its number there is ``episode``."""

    def __init__(self, message: str, episode: int):
        super().__init__(message)
        self.episode = episode


class Learner(nn.Module):
    """A few-shot learner.

    ``adapt`` takes the support set of one episode and returns a classifier; it leaves the learner as it
    was, parameters and buffers alike, and is deterministic. ``reference`` cites the method.
    ``transductive`` says whether the answer to one query depends on the other queries. ``meta_trained``
    says whether the method only makes sense after ``metalearn.train.meta_train``. ``reads``: what of an extractor it is
    tested on, its features, or what it pools over sets (``instances``), or images, which it gives it itself.
    ``by_running`` says whether ``meta_losses`` in train mode lets running statistics follow the images of an episode,
    then normalises by them.
    """

    reference: ClassVar[str]
    transductive: bool = False
    meta_trained: ClassVar[bool] = False
    reads: ClassVar[Reads] = "images"
    by_running: bool = False

    def adapt(self, images: Float[Tensor, "  n *shape"], labels: Int[Tensor, " n"]) -> Classifier:
        """Learn from support images and their labels 0..ways-1 (any order, equally many of each class).

        Raises UserError for labels that are not that.
        """
        raise NotImplementedError

    def require_meta_trainable(self) -> None:
        """Raise UserError when the learner cannot be meta-trained: what can be told before any work."""

    def meta_loss(
        self,
        support_images: Float[Tensor, "  n *shape"],
        support_labels: Int[Tensor, " n"],
        query_images: Float[Tensor, "  q *shape"],
        query_labels: Int[Tensor, " q"],
    ) -> tuple[Float[Tensor, ""], int]:
        """Loss of one training episode, differentiable in the learner's parameters, and how many queries
        were right.

        Raises UserError when the learner cannot be meta-trained.
        """
        self.require_meta_trainable()
        raise UserError(f"learner {type(self).__name__} cannot be meta-trained: it only evaluates given features")

    def meta_losses(
        self,
        support_images: Float[Tensor, "b n *shape"],
        support_labels: Int[Tensor, " n"],
        query_images: Float[Tensor, "b q *shape"],
        query_labels: Int[Tensor, " q"],
    ) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """The loss of each of b training episodes with the same labels, and how many queries of each were right.

        Here ``meta_loss`` of one after the other, for learners that can do better. Where something is wrong with an
        episode its loss may be NaN; ``meta_loss`` of it alone must then raise what is wrong. Raises EpisodeError.
        """
        found = []
        for episode, (support, query) in enumerate(zip(support_images, query_images, strict=True)):
            try:
                found.append(self.meta_loss(support, support_labels, query, query_labels))
            except UserError as error:
                raise EpisodeError(str(error), episode) from error
        losses, correct = zip(*found, strict=True)
        return torch.stack(losses), torch.tensor(correct, device=query_labels.device)

    def trace(
        self, images: Float[Tensor, "  n *shape"], labels: Int[Tensor, " n"], query: Float[Tensor, "  q *shape"]
    ) -> list[tuple[Float[Tensor, "n ways"], Float[Tensor, "q ways"]]]:
        """Logits of a support set and of queries before the first step of ``adapt`` and after each, without gradients.

        Nothing where ``adapt`` takes no steps, or tells nothing about them. Leaves the learner as it was.
        """
        return []

    def tables(self) -> dict[str, Tensor]:
        """What it has learned about learning, by name: inner learning rates, say. Detached."""
        return {}

    def tasks_at_once(self, pixels: int, device: torch.device) -> int | None:
        """How many episodes of so many pixels (images x height x width) ``meta_losses`` is given at once, None for all.

        One, where ``meta_losses`` takes one after the other: more would only take memory.
        """
        return 1


class FeatureLearner(Learner):
    """A closed-form or metric head on features of an extractor.

    A family implements ``classify`` alone, for a whole batch of episodes at once; ``adapt`` and
    ``meta_loss`` are written here on top of it. Without an extractor, images are their own features,
    flattened. ``differentiable`` says whether ``classify`` passes gradients to the features; ``iterative``, whether it
    iterates, and so wants many episodes in each operation; ``needs_base``, whether it must be given the features of the
    training classes by ``fit_base`` before it is tested.
    """

    reads: ClassVar[Reads] = "features"
    differentiable: ClassVar[bool] = True
    iterative: ClassVar[bool] = False
    needs_base: bool = False

    def __init__(self, extractor: nn.Module | None = None):
        super().__init__()
        self.extractor = extractor

    def classify(
        self, support: Float[Tensor, "b ways shots d"], query: Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q ways"]:
        """Logits of each query in each of b episodes; ``support[:, w]`` describes class w of an episode."""
        raise NotImplementedError

    def fit_base(self, features: Float[Tensor, "n d"]) -> None:
        """Take what it needs of the features of all training images; never of tested ones. Here nothing."""

    def extract(self, images: Float[Tensor, "  n *shape"]) -> Float[Tensor, "n d"]:
        """Features of images, in whichever mode (train or eval) the extractor is."""
        return images.flatten(1) if self.extractor is None else self.extractor(images)

    def adapt(self, images: Float[Tensor, "  n *shape"], labels: Int[Tensor, " n"]) -> Classifier:
        """See ``Learner.adapt``. The extractor works in eval mode, so its batch-norm statistics stay."""
        with evaluating(self):
            support = by_class(self.extract(images), labels)[None]

        def classifier(query_images: Tensor) -> Tensor:
            with evaluating(self):
                return self.classify(support, self.extract(query_images)[None])[0]

        return classifier

    def require_meta_trainable(self) -> None:
        """Raise UserError without an extractor, or when the head passes no gradient to the features."""
        if self.extractor is None or not self.differentiable:
            why = "it has no extractor" if self.extractor is None else "its solver passes no gradient to the features"
            raise UserError(f"learner {type(self).__name__} cannot be meta-trained: {why}")

    def meta_loss(
        self,
        support_images: Float[Tensor, "  n *shape"],
        support_labels: Int[Tensor, " n"],
        query_images: Float[Tensor, "  q *shape"],
        query_labels: Int[Tensor, " q"],
    ) -> tuple[Float[Tensor, ""], int]:
        """Cross-entropy of the queries (Snell et al. 2017, eq. 2). Support and queries pass the extractor
        together.

        Raises UserError as ``require_meta_trainable``.
        """
        self.require_meta_trainable()
        features = self.extract(torch.cat([support_images, query_images]))
        support = by_class(features[: len(support_images)], support_labels)
        logits = self.classify(support[None], features[None, len(support_images) :])[0]
        return F.cross_entropy(logits, query_labels), count_correct(logits, query_labels)


def by_class(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Float[Tensor, "ways shots d"]:
    """Sort the support set by label and split it by class, keeping the order within a class.

    Raises UserError unless labels are 0..ways-1 with equally many of each.
    """
    counts = class_counts(labels)
    order = torch.argsort(labels, stable=True)
    return features[order].unflatten(0, (len(counts), counts[0]))


def class_counts(labels: Int[Tensor, " n"]) -> list[int]:
    """How many support images each class has: ``[shots] * ways``.

    Raises UserError unless labels are 0..ways-1 with equally many of each.
    """
    counts = torch.bincount(labels).tolist() if len(labels) and int(labels.min()) >= 0 else []
    if not counts or len(set(counts)) > 1:
        found = dict(zip(*(x.tolist() for x in torch.unique(labels, return_counts=True)), strict=True))
        raise UserError(
            f"support labels (label: count) are {found}; allowed are labels 0..ways-1 with the same number "
            "of images each: number the classes of an episode from 0 and sample equally many shots of each"
        )
    return counts


def count_correct(logits: Float[Tensor, "*b q ways"], labels: Int[Tensor, "*b q"]) -> int:
    """How many queries have their largest logit at the right class."""
    return int((logits.argmax(-1) == labels).sum())


def require_positive(learner: str, **options: float | int) -> None:
    """Raise UserError for an option that is not a finite number above zero."""
    for name, value in options.items():
        if not 0 < value < float("inf"):
            raise UserError(f"learner {learner}: {name}={value!r} is not a positive number")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule has its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def linear_head(feature_dim: int, ways: int, seed: int) -> nn.Linear:
    """A linear layer with torch's own initialisation, uniform within 1 / sqrt(feature_dim), drawn from ``seed``."""
    head = nn.utils.skip_init(nn.Linear, feature_dim, ways)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(-(feature_dim**-0.5), feature_dim**-0.5, generator=generator)
    return head
