"""What an inner loop does, seen from inside: answers before the first step and after each; what is told of them."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvae.recorder import Recorder
from metalearn import inner
from metalearn.batched.values import NoRule
from metalearn.inner import Weights
from metalearn.learners.base import Learner, evaluating

Episode = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support images and labels, query images and labels."""
TRACED = 8
"""Episodes that are traced after each validation: its first."""


def trace(learner: Any, images: Tensor, labels: Tensor, query: Tensor) -> list[tuple[Tensor, Tensor]]:
    """``Learner.trace`` of MAML or one like it, by its engine."""
    if not learner.unbatched:
        try:
            return batched(learner, images, labels, query)
        except NoRule as reason:
            learner.leave_batched(reason)
    return looped(learner, images, labels, query)


def batched(learner: Any, images: Tensor, labels: Tensor, query: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The trace by the batched engine. Raises NoRule for a network without rules."""
    trail: list[Weights] = []
    with torch.enable_grad():
        norms = learner.norms(None)
        learner.moved(images[None], labels, norms, learner.eval_adapt_steps, False, trail)
    found = []
    with torch.no_grad():
        for moved in trail:
            weights = inner.for_all(learner.network.parameters()) | moved
            now = learner.norms_with(weights, images[None], norms)
            said = (inner.answers(learner.network, each[None], weights, now)[0] for each in (images, query))
            found.append((next(said), next(said)))
    return found


def looped(learner: Any, images: Tensor, labels: Tensor, query: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The same by learn2learn's loop."""
    found = []

    @torch.no_grad()
    def watch(now: nn.Module) -> None:
        support = now(images)
        if learner.batch_norm == "support":  # the norms have just seen the support set
            with evaluating(now):
                found.append((support, now(query)))
        else:
            found.append((support, now(query)))

    with torch.enable_grad():
        learner.looped(images, labels, learner.eval_adapt_steps, second_order=False, watch=watch)
    return found


def curves(learner: Learner, episodes: Iterable[Episode]) -> dict[str, float]:
    """Mean loss and accuracy of support sets and queries of some episodes, a number a step; read from the device once.

    ``inner/support_loss/0`` is that before the first step; likewise ``support_accuracy``, ``query_loss`` and
    ``query_accuracy``. Nothing for a learner without an inner loop.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for count, (support, labels, query, truth) in enumerate(episodes, 1):  # noqa: B007
        steps = learner.trace(support, labels, query)
        for step, logits in enumerate(steps):
            number = f"{step:0{len(str(len(steps) - 1))}d}"
            for part, said, right in zip(("support", "query"), logits, (labels, truth), strict=True):
                values = {"loss": F.cross_entropy(said, right), "accuracy": (said.argmax(-1) == right).float().mean()}
                for what, value in values.items():
                    name = f"inner/{part}_{what}/{number}"
                    sums[name] = sums[name] + value if name in sums else value
    return read(sums, count)


def show_inside(learner: Learner, episodes: Iterable[Episode], recorder: Recorder, step: int) -> None:
    """Tell the `curves` of some episodes, and of each of the learner's tables mean, least, most and a histogram."""
    tables = learner.tables()
    summary = {f"{name}/{what}": value for name, table in tables.items() for what, value in extremes(table).items()}
    told = {**curves(learner, episodes), **read(summary, 1)}
    if told:
        recorder.scalars(step, told)
    for name, table in tables.items():
        recorder.histogram(step, name, table.flatten())


def extremes(table: Tensor) -> dict[str, Tensor]:
    """Mean, least and most of a table."""
    return {"mean": table.mean(), "min": table.min(), "max": table.max()}


def read(values: dict[str, Tensor], shared: int) -> dict[str, float]:
    """Numbers on the device, divided by ``shared``, in one read."""
    if not values:
        return {}
    found = torch.stack([value.float() for value in values.values()]) / shared
    return dict(zip(values, found.tolist(), strict=True))
