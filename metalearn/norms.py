"""Whose statistics the batch norms of a network use while it adapts, for all tasks at once."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalearn.batched.run import Norms
from metalearn.inner import answers, for_all
from metalearn.learners.base import evaluating

BatchNorm = Literal["running", "support", "query_batch"]


def frozen(seen: Norms) -> Norms:
    """Norms with the statistics that a pass has collected."""
    assert seen.seen is not None
    return Norms({place: statistics for place, (_, statistics, _) in enumerate(seen.seen, 1)}, by_place=True)


def running_norms(extractor: nn.Module, images: Float[Tensor, "b n *shape"] | None) -> Norms:
    """Norms with the running statistics of an extractor; with images, each task's after the norms have seen its own.

    The extractor's buffers then have seen all tasks, one after the other: the same as if each task had passed in train
    mode before it was adapted to.
    """
    tracking = [part for part in batch_norms(extractor) if part.running_mean is not None]
    layers: dict[int, Any] = {id(part.running_mean): part for part in tracking}
    if images is None or not layers:
        return Norms({key: (part.running_mean[None], part.running_var[None]) for key, part in layers.items()})
    pass_ = Norms(seen=[])
    with torch.no_grad():
        answers(extractor, images, for_all(extractor.parameters()), pass_, once=True)
        after: dict[int, tuple[list[Tensor], list[Tensor]]] = {key: ([], []) for key in layers}
        for task in range(len(images)):
            for running_mean, (mean, variance), rows in pass_.seen or ():
                if running_mean is not None:
                    follow(layers[id(running_mean)], mean[task], variance[task] * rows / max(rows - 1, 1))
            for key, kept in after.items():
                kept[0].append(layers[key].running_mean.clone())
                kept[1].append(layers[key].running_var.clone())
    return Norms({key: (torch.stack(means), torch.stack(variances)) for key, (means, variances) in after.items()})


@torch.no_grad()
def update_running_statistics(extractor: nn.Module, images: Float[Tensor, "  n *shape"]) -> None:
    """Let the batch norms of an extractor see a batch; nothing else changes, and nothing else is in train mode."""
    layers = batch_norms(extractor)
    if layers:
        with evaluating(extractor):
            for layer in layers:
                layer.train()
            extractor(images)


def measure_running_statistics(extractor: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make the running statistics of an extractor the mean of what its batch norms see in these batches."""
    layers = batch_norms(extractor)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    for images in batches:
        update_running_statistics(extractor, images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def follow(part: Any, mean: Tensor, variance: Tensor) -> None:
    """Let running statistics follow those of a batch, as torch's batch norm does in train mode."""
    part.num_batches_tracked += 1
    share = 1 / part.num_batches_tracked.to(mean) if part.momentum is None else part.momentum
    part.running_mean.lerp_(mean, share)
    part.running_var.lerp_(variance, share)


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers of a module."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]
