"""Gradient-based learners on learn2learn: MAML and ANIL. The only module that imports learn2learn."""

import contextlib
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalearn.errors import UserError
from metalearn.learners.base import Classifier, Learner, class_counts, count_correct, evaluating, require_positive

with contextlib.suppress(ImportError):  # learn2learn imports gym, which prints these; nothing else is hushed
    import gym_notices.notices

    gym_notices.notices.notices.clear()
from learn2learn.algorithms.maml import maml_update
from learn2learn.utils import clone_module

BatchNorm = Literal["running", "query_batch"]


class MAML(Learner):
    """Model-agnostic meta-learning: a few gradient steps on the support set, from an initialisation learned for that.

    Finn et al. 2017, algorithm 2: ``theta' = theta - inner_lr * gradient of the support loss``, ``adapt_steps`` times
    (in ``adapt``: ``eval_adapt_steps``, by default as many); ``meta_loss`` is the query loss at theta', differentiated
    through the steps, or with their gradients as constants when ``first_order``. The network is an extractor (anything
    with ``feature_dim``) and a linear head for ``ways`` classes, its first weights drawn by ``seed`` as torch draws
    them. A parameter that does not require a gradient stays as it is.

    ``batch_norm``: ``running`` normalises with the extractor's running statistics, which ``adapt`` never changes and
    ``meta_loss`` updates by a pass of the network before adaptation, when in train mode; gradients do not see these
    statistics, so a learning rate of 0.01 or many inner steps can make the loss run away. ``query_batch``, that of
    Finn et al., normalises every batch by itself: queries then see each other, and ``transductive`` is true if there
    is a batch norm.

    Raises UserError for an extractor without ``feature_dim``, for another number of classes than ``ways``, and when
    a parameter gets no gradient in the inner loop or one that is not finite.
    """

    reference = "Finn, Abbeel & Levine 2017, Model-Agnostic Meta-Learning, ICML, arXiv 1703.03400"
    meta_trained = True

    def __init__(
        self,
        extractor: nn.Module | None,
        *,
        ways: int = 5,
        inner_lr: float = 0.1,
        adapt_steps: int = 5,
        eval_adapt_steps: int | None = None,
        first_order: bool = False,
        batch_norm: BatchNorm = "running",
        seed: int = 0,
    ):
        super().__init__()
        name, feature_dim = type(self).__name__.lower(), getattr(extractor, "feature_dim", None)
        if extractor is None or not isinstance(feature_dim, int):
            raise UserError(f"learner {name} needs an extractor, a module with an integer feature_dim")
        at_test = adapt_steps if eval_adapt_steps is None else eval_adapt_steps
        require_positive(name, ways=ways, inner_lr=inner_lr, adapt_steps=adapt_steps, eval_adapt_steps=at_test)
        self.extractor, self.head = extractor, linear_head(feature_dim, ways, seed)
        self.ways, self.inner_lr, self.first_order, self.batch_norm = ways, inner_lr, first_order, batch_norm
        self.adapt_steps, self.eval_adapt_steps = adapt_steps, at_test
        self.transductive = batch_norm == "query_batch" and bool(batch_norms(extractor))

    def adapt(self, images: Float[Tensor, "n *shape"], labels: Int[Tensor, "n"]) -> Classifier:
        """See ``Learner.adapt``: ``eval_adapt_steps`` steps. Its logits carry no gradient."""
        with torch.enable_grad():
            adapted = self.adapted(images, labels, self.eval_adapt_steps, second_order=False)

        def classifier(query_images: Tensor) -> Tensor:
            with torch.no_grad():
                return adapted(query_images)

        return classifier

    def meta_loss(
        self,
        support_images: Float[Tensor, "n *shape"],
        support_labels: Int[Tensor, "n"],
        query_images: Float[Tensor, "q *shape"],
        query_labels: Int[Tensor, "q"],
    ) -> tuple[Float[Tensor, ""], int]:
        """Cross-entropy of the queries after ``adapt_steps`` steps, and how many were right."""
        if self.training and self.batch_norm == "running":
            update_running_statistics(self.extractor, torch.cat([support_images, query_images]))
        adapted = self.adapted(support_images, support_labels, self.adapt_steps, second_order=not self.first_order)
        logits = adapted(query_images)
        return F.cross_entropy(logits, query_labels), count_correct(logits, query_labels)

    def adapted(
        self, images: Float[Tensor, "n *shape"], labels: Int[Tensor, "n"], steps: int, *, second_order: bool
    ) -> Classifier:
        """A clone of the whole network, moved by the inner loop."""
        self.check_ways(labels)
        network = independent_clone(nn.Sequential(self.extractor, self.head), self.batch_norm)
        for _ in range(steps):
            inner_step(network, F.cross_entropy(network(images), labels), self.inner_lr, second_order)
        return network

    def check_ways(self, labels: Int[Tensor, "n"]) -> None:
        """Raise UserError unless the support set has as many classes as the head, equally many images of each."""
        found = len(class_counts(labels))
        if found != self.ways:
            name = type(self).__name__.lower()
            raise UserError(f"learner {name} has a head for ways={self.ways}, the episode has {found} classes")


class ANIL(MAML):
    """Almost no inner loop: as ``MAML``, but only the head takes the inner steps; the extractor is meta-learned.

    Raghu et al. 2020, section 4. Options and errors are those of ``MAML``.
    """

    reference = "Raghu et al. 2020, Rapid Learning or Feature Reuse?, ICLR, arXiv 1909.09157"

    def adapted(
        self, images: Float[Tensor, "n *shape"], labels: Int[Tensor, "n"], steps: int, *, second_order: bool
    ) -> Classifier:
        """The extractor as it is, and a clone of the head, moved by the inner loop."""
        self.check_ways(labels)
        body, head = independent_clone(self.extractor, self.batch_norm), independent_clone(self.head, self.batch_norm)
        features = body(images)
        for _ in range(steps):
            inner_step(head, F.cross_entropy(head(features), labels), self.inner_lr, second_order)
        return nn.Sequential(body, head)


def inner_step(network: nn.Module, loss: Float[Tensor, ""], lr: float, second_order: bool) -> None:
    """Move a clone's parameters one gradient step, differentiably when ``second_order``.

    Raises UserError naming the parameters without a gradient or with one that is not finite; learn2learn's own
    ``MAML.adapt`` prints a hint there and dies of an unassigned variable, or goes on with NaN.
    """
    named = dict(network.named_parameters())
    moving = {name: p for name, p in named.items() if p.requires_grad}
    if not moving:
        raise UserError("the inner loop has nothing to adapt: every parameter is frozen (requires_grad=False)")
    found = torch.autograd.grad(loss, list(moving.values()), create_graph=second_order, allow_unused=True)
    gradients = dict(zip(moving, found, strict=True))
    missing = [name for name, gradient in gradients.items() if gradient is None]
    if missing:
        raise UserError(
            f"the support loss does not depend on {', '.join(missing)}: the inner loop cannot adapt what the network "
            "does not use; freeze it (requires_grad_(False)) or leave it out of the extractor"
        )
    broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    if broken:
        raise UserError(
            f"the inner gradient of {', '.join(broken)} is not finite (support loss {loss.item():g}): "
            "lower inner_lr or the number of steps, or check the images"
        )
    maml_update(network, lr, [gradients.get(name) for name in named])


def independent_clone(module: nn.Module, batch_norm: BatchNorm) -> nn.Module:
    """Clone a module (parameters differentiably) that shares no buffer with it, in eval mode.

    learn2learn's clone shares the buffers, so adapting it changes the batch-norm statistics of the original.
    With ``query_batch`` its batch norms use the statistics of each batch and keep none.
    """
    clone = clone_module(module)
    for part in clone.modules():
        part._buffers = {name: None if b is None else b.clone() for name, b in part._buffers.items()}
    clone.eval()
    if batch_norm == "query_batch":
        for part in batch_norms(clone):
            part.train()
            part.track_running_stats = False
    return clone


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers of a module."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


@torch.no_grad()
def update_running_statistics(extractor: nn.Module, images: Float[Tensor, "n *shape"]) -> None:
    """Let the batch norms of an extractor see a batch; nothing else changes, and nothing else is in train mode."""
    layers = batch_norms(extractor)
    if layers:
        with evaluating(extractor):
            for layer in layers:
                layer.train()
            extractor(images)


def linear_head(feature_dim: int, ways: int, seed: int) -> nn.Linear:
    """A linear layer with torch's own initialisation, uniform within 1 / sqrt(feature_dim), drawn from ``seed``."""
    head = nn.utils.skip_init(nn.Linear, feature_dim, ways)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.uniform_(-(feature_dim**-0.5), feature_dim**-0.5, generator=generator)
    return head
