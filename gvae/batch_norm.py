"""Batch norm over the whole batch when each process has a share of it, on any device."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvae.arithmetic import widened
from gvae.share import Share


@contextmanager
def shared_statistics(networks: Iterable[nn.Module], share: Share) -> Iterator[None]:
    """Let the batch norms of networks that see a share of the batch train by the statistics of all of it.

    Modules, their weights and their running statistics stay what they are; in eval mode, and where one process has the
    whole batch, so does what they compute. (torch's SyncBatchNorm does not run on a CPU.)
    """
    layers = [layer for network in networks for layer in network.modules() if isinstance(layer, _BatchNorm)]
    layers = layers if share.processes > 1 else []
    for layer in layers:
        vars(layer)["forward"] = _while_training(layer, share)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def normalised(layer: _BatchNorm, maps: Float[Tensor, "m c ..."], share: Share) -> Float[Tensor, "m c ..."]:
    """Return what ``layer`` in training makes of this process's rows, and update its running statistics.

    Ioffe & Szegedy 2015, algorithm 1, mean and variance over the images of all processes: the variance as the mean
    square of what the mean leaves, which cancels nothing. Statistics are float32 at least.
    """
    over = [0, *range(2, maps.dim())]
    shape = (1, -1, *[1] * (maps.dim() - 2))
    values = widened(maps)
    mean = share.mean(values.mean(over))
    centred = values - mean.view(shape)
    variance = share.mean(centred.square().mean(over))
    _remember(layer, mean, variance, share.processes * maps.numel() // maps.shape[1])
    scale = (variance + layer.eps).rsqrt()
    if layer.affine:
        scale = scale * layer.weight
    result = centred * scale.view(shape)
    if layer.affine:
        result = result + layer.bias.view(shape)
    return result.to(maps.dtype)


@torch.no_grad()
def _remember(layer: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as torch does: towards the mean and the variance without bias."""
    if layer.num_batches_tracked is None or layer.running_mean is None or layer.running_var is None:
        return
    layer.num_batches_tracked.add_(1)
    weight = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), weight)
    layer.running_var.lerp_((variance * (count / (count - 1))).to(layer.running_var.dtype), weight)


def _while_training(layer: _BatchNorm, share: Share) -> Callable[[Tensor], Tensor]:
    plain = layer.forward

    def forward(maps: Tensor) -> Tensor:
        return normalised(layer, maps, share) if layer.training else plain(maps)

    return forward
