"""The inner loops of a batch of tasks at once, and what they have in common with learn2learn's loop of one."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from metalearn.batched.run import Norms, Rows, forward, stored
from metalearn.errors import UserError
from metalearn.learners.base import evaluating

Update = Callable[[Tensor], Tensor]
"""From a parameter's gradients in b tasks, (b, ...), laid out as ``Weights``, to what is subtracted from it."""
Rates = float | Mapping[str, Tensor] | Mapping[str, Update]
"""The inner learning rate; or by every parameter's name one of its shape, or what its gradient becomes."""
Weights = dict[int, Tensor]
"""Id of a parameter -> its value for all tasks, or (b, ...) for each; laid out by ``metalearn.batched.run.stored``."""


def inner_loop(
    losses: Callable[[Weights], Float[Tensor, " b"]],
    weights: Weights,
    moving: Mapping[str, Tensor],
    *,
    steps: int,
    rates: Rates,
    second_order: bool,
    trail: list[Weights] | None = None,
) -> tuple[Weights, Float[Tensor, " b"]]:
    """Gradient steps of every task on its own support loss; ``losses``: those of the tasks with their weights.

    ``trail``, where it is a list, gets the weights before the first step and after each.
    Return the weights, and for each task a number that is finite if all of its inner gradients were; nothing is read
    back from the device. Raises UserError naming the parameters that the losses do not depend on.
    """

    def gradients(now: Weights) -> Sequence[Tensor]:
        loss = losses(now)
        values = [now[id(parameter)] for parameter in moving.values()]
        found = torch.autograd.grad(loss.sum(), values, create_graph=second_order, allow_unused=True)
        require_used(moving, found)
        return found

    return descent(gradients, weights, moving, steps=steps, rates=rates, trail=trail)


def descent(
    gradients: Callable[[Weights], Sequence[Tensor]],
    weights: Weights,
    moving: Mapping[str, Tensor],
    *,
    steps: int,
    rates: Rates,
    trail: list[Weights] | None = None,
) -> tuple[Weights, Float[Tensor, " b"]]:
    """`inner_loop` by what gives, with the tasks' weights, the gradients of ``moving``: (b, ...), in its order."""
    weights, checks = dict(weights), torch.zeros(())
    rate = {name: as_stored(rates[name]) if isinstance(rates, Mapping) else rates for name in moving}
    for _ in range(steps):
        if trail is not None:
            trail.append(dict(weights))
        found = gradients(weights)
        sums = [gradient.detach().flatten(1).sum(1) for gradient in found]
        checks = checks.to(sums[0]) + torch.stack(sums).sum(0)
        for (name, parameter), gradient in zip(moving.items(), found, strict=True):
            weights[id(parameter)] = stepped(weights[id(parameter)], gradient, rate[name])
    if trail is not None:
        trail.append(dict(weights))
    return weights, checks


def start(part: nn.Module, tasks: int) -> tuple[dict[str, Tensor], Weights]:
    """What the inner loop moves in a part of a network, and the weights of so many tasks before its first step."""
    moving = moving_parameters(part)
    return moving, for_all(p for p in part.parameters() if not p.requires_grad) | for_each(moving.values(), tasks)


def as_stored(rate: Tensor | Update) -> Tensor | Update:
    """A rate laid out as ``Weights``; what a gradient becomes takes such gradients as it is."""
    return stored(rate) if isinstance(rate, Tensor) else rate


def stepped(value: Tensor, gradient: Tensor, rate: float | Tensor | Update) -> Tensor:
    """``value - rate * gradient``, or less what the gradient becomes."""
    if isinstance(rate, Tensor):
        return torch.addcmul(value, rate, gradient, value=-1)
    if callable(rate):
        return value - rate(gradient)
    return value.sub(gradient, alpha=rate)


def answers(
    network: nn.Module,
    images: Float[Tensor, "b n *shape"],
    weights: Weights,
    norms: Norms,
    kept: dict[object, Rows] | None = None,
    once: bool = False,
) -> Float[Tensor, "b n out"]:
    """What a network makes of the images of each task with its weights; its own weights and buffers stay.

    ``kept`` and ``once``: see ``metalearn.batched.run.forward``. Raises NoRule where there is no rule for what it does.
    """
    with evaluating(network):
        return forward(network, images, weights, norms, kept, once)


def for_each(parameters: Iterable[Tensor], tasks: int) -> Weights:
    """The same value for each of so many tasks; every task has a gradient of its own."""
    return {id(p): stored(p).expand(tasks, *stored(p).shape) for p in parameters}


def for_all(parameters: Iterable[Tensor]) -> Weights:
    """One value for all tasks, with one gradient."""
    return {id(p): stored(p) for p in parameters}


def task_losses(logits: Float[Tensor, "b n ways"], labels: Int[Tensor, " n"]) -> Float[Tensor, " b"]:
    """Mean cross-entropy of each task; all tasks have the same labels."""
    each = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
    return each.unflatten(0, logits.shape[:2]).mean(1)


def task_loss(logits: Float[Tensor, "n ways"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """The same of one task."""
    return F.cross_entropy(logits, labels)


def moving_parameters(network: nn.Module) -> dict[str, Tensor]:
    """The parameters that the inner loop moves. Raises UserError when all are frozen."""
    moving: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not moving:
        raise UserError("the inner loop has nothing to adapt: every parameter is frozen (requires_grad=False)")
    return moving


def require_used(names: Iterable[str], gradients: Iterable[Tensor | None]) -> None:
    """Raise UserError naming the parameters without a gradient."""
    missing = [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
    if missing:
        raise UserError(
            f"the support loss does not depend on {', '.join(missing)}: the inner loop cannot adapt what the network "
            "does not use; freeze it (requires_grad_(False)) or leave it out of the extractor"
        )
