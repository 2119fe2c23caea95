"""Inner loops of one task after the other, by learn2learn: the reference. The only module that imports learn2learn."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from metalearn.errors import UserError
from metalearn.inner import Rates, Update, moving_parameters, require_used, task_loss
from metalearn.norms import BatchNorm, batch_norms
from metalearn.transforms import KroneckerFactors, MetaCurvatureFactors

with contextlib.suppress(ImportError):  # learn2learn imports gym, which prints these; nothing else is hushed
    import gym_notices.notices

    gym_notices.notices.notices.clear()
from learn2learn.algorithms.maml import maml_update
from learn2learn.nn import KroneckerLinear
from learn2learn.optim.transforms import KroneckerTransform, MetaCurvatureTransform
from learn2learn.utils import clone_module

Watch = Callable[[nn.Module], None]


def adapted_network(
    network: nn.Module,
    images: Float[Tensor, "  n *shape"],
    labels: Int[Tensor, " n"],
    *,
    steps: int,
    rates: Rates,
    batch_norm: BatchNorm,
    second_order: bool,
    batches: Sequence[Tensor] | None = None,
    watch: Watch = lambda now: None,
) -> nn.Module:
    """A clone of a network, moved by inner steps on a support set; in eval mode but for ``query_batch`` norms.

    ``batches``: the images that each step sees, by default all. ``watch`` is given the clone before the first step and
    after each.
    """
    clone = independent_clone(network, batch_norm)
    watch(clone)
    for rows in batches if batches is not None else [slice(None)] * steps:
        inner_step(clone, task_loss(clone(images[rows]), labels[rows]), rates, second_order)
        watch(clone)
    if batch_norm == "support":
        freeze_statistics(clone, images)
    return clone


def adapted_head(
    body: nn.Module,
    head: nn.Module,
    images: Float[Tensor, "  n *shape"],
    labels: Int[Tensor, " n"],
    *,
    steps: int,
    rates: Rates,
    batch_norm: BatchNorm,
    second_order: bool,
    watch: Watch = lambda now: None,
) -> nn.Module:
    """The same of a network whose head alone takes the steps."""
    body, head = independent_clone(body, batch_norm), independent_clone(head, batch_norm)
    network = nn.Sequential(body, head)
    features = body(images)
    if batch_norm == "support":
        body.eval()
    watch(network)
    for _ in range(steps):
        inner_step(head, task_loss(head(features), labels), rates, second_order)
        watch(network)
    return network


def inner_step(network: nn.Module, loss: Float[Tensor, ""], rates: Rates, second_order: bool) -> None:
    """Move a clone's parameters one gradient step, differentiably when ``second_order``.

    Raises UserError naming the parameters without a gradient or with one that is not finite; learn2learn's own
    ``MAML.adapt`` prints a hint there and dies of an unassigned variable, or goes on with NaN.
    """
    moving = moving_parameters(network)
    found = torch.autograd.grad(loss, list(moving.values()), create_graph=second_order, allow_unused=True)
    require_used(moving, found)
    gradients = dict(zip(moving, found, strict=True))
    broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    if broken:
        raise UserError(
            f"the inner gradient of {', '.join(broken)} is not finite (support loss {loss.item():g}): "
            "lower inner_lr or the number of steps, or check the images"
        )
    if isinstance(rates, Mapping):
        gradients, lr = {name: update(rates[name], gradient) for name, gradient in gradients.items()}, 1.0
    else:
        lr = rates
    maml_update(network, lr, [gradients.get(name) for name, _ in network.named_parameters()])


def update(rate: Tensor | Update, gradient: Tensor) -> Tensor:
    """A gradient as it is subtracted. For factors that are learned, learn2learn's own transform computes it."""
    if isinstance(rate, Tensor):
        return rate * gradient
    if isinstance(rate, MetaCurvatureFactors | KroneckerFactors):
        theirs = LEARN2LEARNS[type(rate)](gradient)
        factors = dict(zip(dict(theirs.named_parameters()), rate.parameters(), strict=True))
        return rate.lr * functional_call(theirs, factors, (gradient,))
    return rate(gradient[None])[0]


LEARN2LEARNS: Mapping[type, Any] = {
    MetaCurvatureFactors: MetaCurvatureTransform,
    KroneckerFactors: KroneckerTransform(KroneckerLinear),
}
"""What makes learn2learn's transform for a parameter, by the factors that it gets."""


def independent_clone(module: nn.Module, batch_norm: BatchNorm) -> nn.Module:
    """Clone a module (parameters differentiably) that shares no buffer with it, in eval mode.

    learn2learn's clone shares the buffers, so adapting it changes the batch-norm statistics of the original.
    With ``query_batch`` and ``support`` its batch norms use the statistics of each batch and keep none; with
    ``support``, in eval mode, those of the batch before.
    """
    clone = clone_module(module)
    for part in clone.modules():
        part._buffers = {name: None if b is None else b.clone() for name, b in part._buffers.items()}
    clone.eval()
    for part in batch_norms(clone):
        if batch_norm != "running":
            part.train()
            part.track_running_stats = False
        if batch_norm == "support":
            part.__dict__["forward"] = SupportNorm(part)
    return clone


def freeze_statistics(clone: nn.Module, images: Float[Tensor, "  n *shape"]) -> None:
    """Let the norms of a clone made for ``support`` take the statistics of a support set, and keep them."""
    clone(images)
    clone.eval()


class SupportNorm:
    """A batch norm's ``forward``: in eval mode it uses the statistics of the batch that it saw last in train mode.

    Gradients pass through the statistics.
    """

    def __init__(self, part: nn.Module):
        self.part: Any = part
        self.seen: tuple[Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """(n, c, ...), normalised a channel."""
        if self.part.training:
            variance, mean = torch.var_mean(images, [0, *range(2, images.dim())], correction=0)
            self.seen = mean, variance
        assert self.seen is not None  # the support set comes first
        mean, variance = self.seen
        scale = (variance + self.part.eps).rsqrt()
        if self.part.affine:
            scale = scale * self.part.weight
        shift = -mean * scale + (self.part.bias if self.part.affine else 0)
        rest = (1,) * (images.dim() - 2)
        return images * scale.view(-1, *rest) + shift.view(-1, *rest)
