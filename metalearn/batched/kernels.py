"""The products, windows and norms of a network whose weights differ from task to task; differentiable twice.

Maps lie channels last, (images, height, width, channels), so that the rows of a convolution are copied in long runs and
one batched matrix product serves all tasks; a task's norm is over the rows of its matrix.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]
Place = tuple[Pair, Pair, Pair]
"""Kernel, stride and padding."""


class Windows(Function):
    """What a convolution sees at each place: maps (n, h, w, c) to (n, oh, ow, kh * kw * c). Linear.

    Of one channel they lie in memory place by place in the window, which copies them in long runs.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        """Copy the windows, with zeros outside of the maps."""
        ctx.given = (tuple(maps.shape), kernel, stride, padding)
        (n, _, _, c), (height, width) = maps.shape, places(maps.shape[1:3], kernel, stride, padding)
        if any(padding):
            maps = torch.constant_pad_nd(maps, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        if c == 1:
            rows = maps.new_empty((kernel[0] * kernel[1], n, height, width))
            for at, each in enumerate(rows):
                i, j = divmod(at, kernel[1])
                each.copy_(maps[:, i :: stride[0], j :: stride[1], 0][:, :height, :width])
            return rows.permute(1, 2, 3, 0)
        image, row, column, one = maps.stride()
        steps = (image, row * stride[0], column * stride[1], row, column, one)
        return maps.as_strided((n, height, width, *kernel, c), steps).reshape(n, height, width, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Put the windows together again."""
        return Overlaps.apply(gradient, *ctx.given), None, None, None


class Overlaps(Function):
    """The adjoint of `Windows`: every window is added to where it was taken from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        """Return maps of ``shape``."""
        ctx.given = (kernel, stride, padding)
        rows = rows.unflatten(-1, (*kernel, shape[-1]))
        maps = rows.new_zeros(shape)
        for i in range(kernel[0]):
            source_rows, target_rows = inside(i, shape[1], rows.shape[1], stride[0], padding[0])
            for j in range(kernel[1]):
                source, target = inside(j, shape[2], rows.shape[2], stride[1], padding[1])
                maps[:, target_rows, target] += rows[:, source_rows, source, i, j]
        return maps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Take the windows."""
        return Windows.apply(gradient.contiguous(), *ctx.given), None, None, None, None


def places(size: Any, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Height and width of what a convolution makes of maps of a size."""
    height, width = (
        (s + 2 * p - k) // step + 1 for s, k, step, p in zip(size, kernel, stride, padding, strict=True)
    )
    return height, width


def inside(offset: int, size: int, count: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Which of ``count`` windows have their element number ``offset`` inside of ``size``, and where it lies."""
    first = max(0, -((offset - padding) // stride))
    last = min(count - 1, (size - 1 + padding - offset) // stride)
    start = offset - padding + stride * first
    return slice(first, last + 1), slice(start, start + stride * (last - first) + 1, stride)


def product(rows: Float[Tensor, "b m k"], weight: Float[Tensor, "*b k o"]) -> Float[Tensor, "b m o"]:
    """Rows of every task times its weight, or the weight of all where it has no axis of tasks."""
    if weight.dim() == 3:
        return Product.apply(rows, weight)
    return (rows.flatten(0, 1) @ weight).view(*rows.shape[:2], -1)


class Product(Function):
    """A batched matrix product; autograd's own makes transposed gradients in the second derivative, which is slower."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        """(b, m, k) times (b, k, o)."""
        ctx.save_for_backward(rows, weight)
        return torch.bmm(rows, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """See `ProductGradient`."""
        return ProductGradient.apply(gradient, *ctx.saved_tensors, *ctx.needs_input_grad)


class ProductGradient(Function):
    """Gradients of `Product` to rows and weight, where they are needed; differentiable once more."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, rows: Tensor, weight: Tensor, to_rows: bool, to_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """``gradient weight'`` and ``rows' gradient``."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, rows, weight)
        return (
            torch.bmm(gradient, weight.mT) if to_rows else None,
            torch.bmm(rows.mT, gradient) if to_weight else None,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> tuple[Tensor | None, ...]:
        """Derivatives of ``<u, to rows> + <v, to weight>``."""
        gradient, rows, weight = ctx.saved_tensors
        to_gradient = to_rows = to_weight = None
        if u is not None:
            to_gradient = torch.bmm(u, weight)
            to_weight = torch.bmm(u.mT, gradient) if ctx.needs_input_grad[2] else None
        if v is not None:
            to_gradient = torch.bmm(rows, v) if to_gradient is None else to_gradient.baddbmm_(rows, v)
            to_rows = torch.bmm(gradient, v.mT) if ctx.needs_input_grad[1] else None
        return to_gradient, to_rows, to_weight, None, None


class Norm(Function):
    """Batch norm over the rows of each task, then perhaps ReLU: (b, m, o), scale and shift (b, o).

    Ioffe & Szegedy 2015, algorithm 1. `NormGradient` is differentiable once more, through the statistics. Large tensors
    are passed over as seldom as may be: of normed rows ``centred * deviation`` only the first is computed.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, shift: Tensor, eps: float, relu: bool) -> Tensor:
        """``(rows - mean) / sqrt(var + eps) * scale + shift``, cut at zero where ``relu``."""
        centred = rows - rows.mean(1, keepdim=True)
        deviation = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
        out = torch.addcmul(shift[:, None], centred, scale[:, None] * deviation)
        if relu:
            out.relu_()
        ctx.save_for_backward(rows, scale, centred, deviation, *([out] if relu else []))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """See `NormGradient`."""
        rows, scale, centred, deviation, *out = ctx.saved_tensors
        positive = out[0].detach() if out else None
        return *NormGradient.apply(gradient, rows, scale, centred, deviation, positive), None, None


class NormGradient(Function):
    """Gradients of `Norm` to its rows, scale and shift, differentiable to the gradient it is given, rows and scale."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        rows: Tensor,
        scale: Tensor,
        centred: Tensor,
        deviation: Tensor,
        positive: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """With d the gradient behind ReLU: ``gain (d - mean d - normed mean(d normed))``, and sums of d normed, d."""
        count = rows.shape[1]
        d = _cut(gradient, positive)
        mean, along = d.mean(1, keepdim=True), (d * centred).mean(1, keepdim=True) * deviation
        gain = scale[:, None] * deviation
        to_rows = torch.addcmul(-gain * mean, d, gain).addcmul_(centred, -gain * along * deviation)
        kept = [d, scale, centred, deviation, mean, along]
        ctx.save_for_backward(*kept, *([] if positive is None else [positive]))
        return to_rows, along[:, 0] * count, mean[:, 0] * count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor | None, ...]:
        """Derivatives of ``<u, to rows> + <v, to scale> + <w, to shift>``, by hand."""
        d, scale, centred, deviation, mean, along, *positive = ctx.saved_tensors
        count = d.shape[1]
        gain = scale[:, None] * deviation
        u_mean, u_along, u_d = (x.mean(1, keepdim=True) for x in (u, u * centred, u * d))
        u_along = u_along * deviation
        left = u_d - u_mean * mean - u_along * along
        v, w = v[:, None], w[:, None]
        k = v - gain * u_along
        to_gradient = torch.addcmul(w - gain * u_mean, u, gain).addcmul_(centred, k * deviation)
        h_mean = k * mean - gain * along * u_mean
        h_along = k * along - gain * along * u_along
        to_rows = torch.addcmul(-h_mean * deviation, u, -gain * along * deviation).addcmul_(d, k * deviation)
        to_rows.addcmul_(centred, -(deviation**2) * (h_along + gain * left))
        to_scale = (left * deviation * count)[:, 0]
        return _cut(to_gradient, positive[0] if positive else None), to_rows, to_scale, None, None, None


def _cut(gradient: Tensor, positive: Tensor | None) -> Tensor:
    """The gradient behind ReLU: zero where its output was."""
    return gradient if positive is None else torch.ops.aten.threshold_backward(gradient, positive, 0)
