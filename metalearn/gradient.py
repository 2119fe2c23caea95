"""Adapting by gradient steps: MAML, FOMAML with ``first_order``; and what its relatives share with it."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metalearn import inner, traces
from metalearn.batched.run import Norms, Rows
from metalearn.batched.values import NoRule
from metalearn.errors import UserError
from metalearn.inner import Rates, Weights
from metalearn.learners.base import Classifier, Learner, class_counts, count_correct, linear_head, require_positive
from metalearn.norms import BatchNorm, batch_norms, frozen, running_norms, update_running_statistics

Engine = Literal["auto", "batched", "learn2learn"]
Moved = tuple[Weights, Norms, Float[Tensor, " b"]]
"""Weights of every task, the norms its queries see, and what is finite if its inner gradients were."""
Trail = list[Weights] | None


class MAML(Learner):
    """Model-agnostic meta-learning: a few gradient steps on the support set, from an initialisation learned for that.

    Finn et al. 2017, algorithm 2: ``theta' = theta - inner_lr * gradient of the support loss``, ``adapt_steps`` times
    (in ``adapt``: ``eval_adapt_steps``, by default as many); the meta-loss is the query loss at theta', differentiated
    through the steps, or with their gradients as constants when ``first_order`` (FOMAML). The network is an extractor
    (anything with ``feature_dim``) and a linear head for ``ways`` classes, its first weights drawn by ``seed`` as torch
    draws them. A parameter that does not require a gradient stays as it is.

    ``batch_norm``: ``running`` normalises with the extractor's running statistics, which ``adapt`` never changes and
    the meta-loss updates by a pass of the network before adaptation, when in train mode; gradients do not see these
    statistics, so a learning rate of 0.01 or many inner steps can make the loss run away. ``support`` normalises the
    support set by itself and the queries by the support set's statistics, through which gradients pass.
    ``query_batch``, that of Finn et al., normalises every batch by itself: queries then see each other, and
    ``transductive`` is true if there is a batch norm.

    ``engine``: ``batched`` runs the inner loops of many tasks at once, ``learn2learn`` one by one; gradients are equal.
    ``auto`` is ``batched``, faster on the whole (benchmarks/meta_step.py), where there is a rule for all that the
    network does (metalearn/batched/rules.py), else ``learn2learn``, and ``unbatched`` then says why.

    Raises UserError for an extractor without ``feature_dim``, for another number of classes than ``ways``, for
    ``batched`` without rules, and when a parameter gets no gradient in the inner loop or one that is not finite.
    """

    reference = "Finn, Abbeel & Levine 2017, Model-Agnostic Meta-Learning, ICML, arXiv 1703.03400"
    meta_trained = True
    name: ClassVar[str] = "maml"
    pixels_at_once: ClassVar[int] = 160 * 28 * 28

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
        engine: Engine = "auto",
        seed: int = 0,
    ):
        super().__init__()
        feature_dim = getattr(extractor, "feature_dim", None)
        if extractor is None or not isinstance(feature_dim, int):
            raise UserError(f"learner {self.name} needs an extractor, a module with an integer feature_dim")
        at_test = adapt_steps if eval_adapt_steps is None else eval_adapt_steps
        require_positive(self.name, ways=ways, inner_lr=inner_lr, adapt_steps=adapt_steps, eval_adapt_steps=at_test)
        self.extractor, self.head = extractor, linear_head(feature_dim, ways, seed)
        self.ways, self.inner_lr, self.first_order, self.batch_norm = ways, inner_lr, first_order, batch_norm
        self.adapt_steps, self.eval_adapt_steps, self.engine = adapt_steps, at_test, engine
        self.by_running = batch_norm == "running"
        self.transductive = batch_norm == "query_batch" and bool(batch_norms(extractor))
        self.unbatched = "engine is learn2learn" if engine == "learn2learn" else ""
        self.learned = self.make_learned()

    @property
    def network(self) -> nn.Sequential:
        """Extractor and head."""
        return nn.Sequential(self.extractor, self.head)

    def make_learned(self) -> Any:
        """What is learned about inner steps besides the weights: a module with an item for each parameter; or None."""
        return None

    @property
    def rates(self) -> Rates:
        """Inner learning rate; or what is learned instead, by the names of parameters in ``network``."""
        if self.learned is None:
            return self.inner_lr
        return dict(zip(dict(self.network.named_parameters()), self.learned, strict=True))

    def adapt(self, images: Float[Tensor, "  n *shape"], labels: Int[Tensor, " n"]) -> Classifier:
        """See ``Learner.adapt``: ``eval_adapt_steps`` steps. Its logits carry no gradient."""
        self.check_ways(labels)
        with torch.enable_grad():
            adapted = self.adapted(images, labels)

        def classifier(query_images: Tensor) -> Tensor:
            with torch.no_grad():
                return adapted(query_images)

        return classifier

    def adapted(self, images: Float[Tensor, "  n *shape"], labels: Int[Tensor, " n"]) -> Classifier:
        """The network after ``eval_adapt_steps`` steps on a support set."""
        steps = self.eval_adapt_steps
        if not self.unbatched:
            try:
                weights, norms, checks = self.moved(images[None], labels, self.norms(None), steps, False)
            except NoRule as reason:
                self.leave_batched(reason)
            else:
                if checks.isfinite().all():
                    return lambda query: inner.answers(self.network, query[None], weights, norms)[0]
        return self.looped(images, labels, steps, second_order=False)  # where gradients are not finite, it says which

    def meta_losses(
        self,
        support_images: Float[Tensor, "b n *shape"],
        support_labels: Int[Tensor, " n"],
        query_images: Float[Tensor, "b q *shape"],
        query_labels: Int[Tensor, " q"],
    ) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """See ``Learner.meta_losses``. The loss of a task is NaN where an inner gradient is not finite."""
        self.check_ways(support_labels)
        if not self.unbatched:
            try:
                return self.batched_losses(support_images, support_labels, query_images, query_labels)
            except NoRule as reason:
                self.leave_batched(reason)
        return super().meta_losses(support_images, support_labels, query_images, query_labels)

    def meta_loss(
        self,
        support_images: Float[Tensor, "  n *shape"],
        support_labels: Int[Tensor, " n"],
        query_images: Float[Tensor, "  q *shape"],
        query_labels: Int[Tensor, " q"],
    ) -> tuple[Float[Tensor, ""], int]:
        """Cross-entropy of the queries after ``adapt_steps`` steps, and how many were right."""
        if not self.unbatched:
            losses, correct = self.meta_losses(support_images[None], support_labels, query_images[None], query_labels)
            if losses.isfinite().all():
                return losses[0], int(correct[0])
        self.check_ways(support_labels)
        if self.training and self.by_running:
            update_running_statistics(self.extractor, torch.cat([support_images, query_images]))
        adapted = self.looped(support_images, support_labels, self.adapt_steps, not self.first_order)
        logits = adapted(query_images)
        pairs = zip(self.network.parameters(), adapted.parameters(), strict=True)
        moved = [(theta, phi[None]) for theta, phi in pairs if theta.requires_grad]
        losses = self.outer_losses(inner.task_loss(logits, query_labels)[None], moved)
        return losses[0], count_correct(logits, query_labels)

    def outer_losses(self, losses: Float[Tensor, " b"], moved: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, " b"]:
        """What the outer step differentiates: here the query losses.

        ``moved``: each parameter that the inner loop moves, and its values in the tasks, (b, ...).
        """
        return losses

    def batched_losses(
        self, support: Tensor, labels: Tensor, query: Tensor, truth: Tensor
    ) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """``meta_losses`` of all tasks at once. Raises NoRule for a network without rules."""
        norms = self.norms(torch.cat([support, query], 1) if self.training else None)
        weights, norms, checks = self.moved(support, labels, norms, self.adapt_steps, not self.first_order)
        logits = inner.answers(self.network, query, weights, norms, once=True)
        losses = inner.task_losses(logits, truth).where(checks.isfinite(), torch.nan)
        moved = [(inner.stored(p), weights[id(p)]) for p in self.network.parameters() if p.requires_grad]
        return self.outer_losses(losses, moved), (logits.argmax(-1) == truth).sum(-1)

    def norms(self, images: Tensor | None) -> Norms:
        """What norms go by; running statistics see the images (b, n + q, ...) first, where there are any."""
        return running_norms(self.extractor, images) if self.batch_norm == "running" else Norms()

    def norms_with(self, weights: Weights, images: Tensor, norms: Norms, kept: Any = None) -> Norms:
        """What norms go by once the tasks have these weights; ``norms`` unless they are the support sets'."""
        if self.batch_norm != "support":
            return norms
        seen = Norms(seen=[])
        inner.answers(self.network, images, weights, seen, kept)
        return frozen(seen)

    def moved(
        self, images: Tensor, labels: Tensor, norms: Norms, steps: int, second_order: bool, trail: Trail = None
    ) -> Moved:
        """All tasks after so many steps on their support sets (b, n, ...). ``trail``: see ``inner.inner_loop``."""
        kept: dict[object, Rows] = {}
        moving, weights = inner.start(self.network, len(images))
        losses = self.support_losses(images, labels, norms, kept, steps)
        weights, checks = inner.inner_loop(
            losses, weights, moving, steps=steps, rates=self.rates, second_order=second_order, trail=trail
        )
        return weights, self.norms_with(weights, images, norms, kept), checks

    def support_losses(
        self, images: Tensor, labels: Tensor, norms: Norms, kept: Any, steps: int
    ) -> Callable[[Weights], Float[Tensor, " b"]]:
        """Gives each of ``steps`` inner steps, in turn, the tasks' losses with the weights that it starts from."""
        return lambda now: inner.task_losses(inner.answers(self.network, images, now, norms, kept), labels)

    def looped(self, images: Tensor, labels: Tensor, steps: int, second_order: bool, **more: Any) -> Any:
        """One task by learn2learn: a network. ``more``: see ``learn2learn_loop.adapted_network``."""
        options = {"rates": self.rates, "batch_norm": self.batch_norm, "second_order": second_order, **more}
        return loop().adapted_network(self.network, images, labels, steps=steps, **options)

    def trace(self, images: Tensor, labels: Tensor, query: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See ``Learner.trace``: of ``eval_adapt_steps`` steps."""
        self.check_ways(labels)
        return traces.trace(self, images, labels, query)

    def leave_batched(self, reason: NoRule) -> None:
        """Take learn2learn's loop from now on. Raises UserError where engine is ``batched``."""
        if self.engine == "batched":
            what = f"learner {self.name}: engine batched has {reason}, which this extractor does"
            raise UserError(f"{what}; give engine: auto or learn2learn, which take such extractors too") from None
        self.unbatched = str(reason)

    def tasks_at_once(self, pixels: int, device: torch.device) -> int | None:
        """On a CPU, where more would leave the cache, tasks of ``pixels_at_once`` together; elsewhere all."""
        if self.unbatched:
            return super().tasks_at_once(pixels, device)
        return max(1, self.pixels_at_once // pixels) if device.type == "cpu" else None

    def check_ways(self, labels: Int[Tensor, " n"]) -> None:
        """Raise UserError unless the support set has as many classes as the head, equally many images of each."""
        found = len(class_counts(labels))
        if found != self.ways:
            raise UserError(f"learner {self.name} has a head for ways={self.ways}, the episode has {found} classes")


def loop() -> Any:
    """The module of learn2learn's loop, imported only when it is used: that takes seconds."""
    import metalearn.learn2learn_loop

    return metalearn.learn2learn_loop
