"""Reptile: a few steps of plain training on each task, and then a step of the weights towards where they led."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metalearn import inner
from metalearn.batched.run import Norms
from metalearn.gradient import MAML, Engine, Moved, Trail
from metalearn.inner import Rates, Weights
from metalearn.learners.base import require_positive
from metalearn.norms import BatchNorm


class Reptile(MAML):
    """Reptile: training on a task moves theta to phi, and theta - phi is the gradient of the outer step.

    Nichol et al. 2018, algorithm 1: ``theta <- theta + epsilon mean(phi - theta)``. As they propose in section 3,
    theta - phi is a gradient for an optimiser, here Adam, as for every learner (plain SGD of learning rate epsilon
    would be algorithm 1). What ``meta_losses`` returns has the value of the query loss at phi, so that what is reported
    means the same as for other learners, and the gradient theta - phi, in which queries have no part: they are held
    out.

    The inner steps are those of learn2learn's example: Adam with betas (0, 0.999) (``inner_optimizer``: or SGD) and
    learning rate ``inner_lr`` on ``inner_batch`` images of the support set, ``adapt_steps`` of them in training and
    ``eval_adapt_steps`` in ``adapt``. Batches go through the set in an order drawn by ``seed``, the same for every
    task, so that ``adapt`` has no chance in it (the example draws each batch anew); with None, and where there are no
    more, each step sees all images. Adam begins anew with each task (the example hands its moments on, so that a
    task's answers depend on the tasks before). Nichol et al. train with more shots than they test with: that is
    ``training.shots``. Head, batch norm, engines and errors are those of ``MAML``.
    """

    reference = "Nichol, Achiam & Schulman 2018, On First-Order Meta-Learning Algorithms, arXiv 1803.02999"
    name = "reptile"

    def __init__(
        self,
        extractor: nn.Module | None,
        *,
        ways: int = 5,
        inner_optimizer: Literal["adam", "sgd"] = "adam",
        inner_lr: float = 0.001,
        inner_batch: int | None = 10,
        adapt_steps: int = 8,
        eval_adapt_steps: int | None = 50,
        batch_norm: BatchNorm = "running",
        engine: Engine = "auto",
        seed: int = 0,
    ):
        super().__init__(
            extractor, ways=ways, inner_lr=inner_lr, adapt_steps=adapt_steps, eval_adapt_steps=eval_adapt_steps,
            first_order=True, batch_norm=batch_norm, engine=engine, seed=seed,
        )  # fmt: skip
        if inner_batch is not None:
            require_positive(self.name, inner_batch=inner_batch)
        self.inner_optimizer, self.inner_batch, self.seed = inner_optimizer, inner_batch, seed

    @property
    def rates(self) -> Rates:
        """Inner learning rate; or Adam for each parameter, at its beginning."""
        if self.inner_optimizer == "sgd":
            return self.inner_lr
        return {name: AdamStep(self.inner_lr) for name, _ in self.network.named_parameters()}

    def batches(self, labels: Int[Tensor, " n"], steps: int) -> list[Tensor]:
        """Which images of a support set each step sees."""
        images = len(labels)
        size = min(self.inner_batch or images, images)
        generator = torch.Generator().manual_seed(self.seed)
        passes = -(-steps * size // images)
        order = torch.cat([torch.randperm(images, generator=generator) for _ in range(passes)])
        return list(order[: steps * size].view(steps, size).to(labels.device))

    def support_losses(
        self, images: Tensor, labels: Tensor, norms: Norms, kept: Any, steps: int
    ) -> Callable[[Weights], Float[Tensor, " b"]]:
        """See ``MAML.support_losses``: of a batch of images each."""
        rest = iter(self.batches(labels, steps))

        def losses(now: Weights) -> Tensor:
            rows = next(rest)
            return inner.task_losses(inner.answers(self.network, images[:, rows], now, norms), labels[rows])

        return losses

    def moved(
        self, images: Tensor, labels: Tensor, norms: Norms, steps: int, second_order: bool, trail: Trail = None
    ) -> Moved:
        """See ``MAML.moved``: detached, for no gradient passes through the steps."""
        weights, norms, checks = super().moved(images, labels, norms, steps, second_order, trail)
        return {key: value.detach() for key, value in weights.items()}, norms, checks

    def looped(self, images: Tensor, labels: Tensor, steps: int, second_order: bool, **more: Any) -> Any:
        """See ``MAML.looped``."""
        return super().looped(images, labels, steps, False, batches=self.batches(labels, steps), **more)

    def outer_losses(self, losses: Float[Tensor, " b"], moved: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, " b"]:
        """By value the query losses, by gradient theta - phi: that of ``theta . (theta - phi)``, the second fixed."""
        pulls = [(theta * (theta - phi).detach()).reshape(len(phi), -1).sum(1) for theta, phi in moved]
        pull = torch.stack(pulls).sum(0)
        return losses.detach() + (pull - pull.detach())


class AdamStep:
    """Adam of one parameter with betas (0, 0.999) and epsilon 1e-8, as torch's: gradients to what is subtracted."""

    def __init__(self, lr: float):
        self.lr, self.steps = lr, 0
        self.square: Tensor | float = 0.0

    def __call__(self, gradient: Tensor) -> Tensor:
        """The next step's."""
        self.steps += 1
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        return self.lr * gradient / ((self.square / (1 - 0.999**self.steps)).sqrt() + 1e-8)
