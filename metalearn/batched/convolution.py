"""A convolution whose weight all tasks share, in blocks of images that stay in the cache; differentiable once."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from metalearn.batched.kernels import Pair, Place, inside, places

BLOCK = 1 << 19  # numbers of the windows of a block, 2 MB in float32


class Convolution(Function):
    """Maps (n, h, w, c) and a weight (kh * kw * c, o) to (n, oh, ow, o).

    The windows of a few images at a time are copied into one buffer and multiplied there, going back as going forth:
    windows of all images are several times the maps and would not only leave the cache but need fresh memory.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, place: Place) -> Tensor:
        """See the class."""
        ctx.save_for_backward(maps, weight)
        ctx.place = place
        blocks = Blocks(maps, place, len(weight))
        out = maps.new_empty(len(maps), *blocks.size, weight.shape[1])
        for block, windows in blocks:
            torch.mm(windows, weight, out=out[block].view(len(windows), -1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients to maps and weight, where they are needed."""
        maps, weight = ctx.saved_tensors
        blocks, gradient = Blocks(maps, ctx.place, len(weight)), gradient.contiguous()
        to_maps = torch.zeros_like(maps) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for block, windows in blocks:
            rows = gradient[block].view(len(windows), -1)
            if to_weight is not None:
                to_weight.addmm_(windows.T, rows)
            if to_maps is not None:
                torch.mm(rows, weight.T, out=windows)
                blocks.add(windows, to_maps[block])
        return to_maps, to_weight, None


class Blocks:
    """Blocks of images and the rows of their windows, all in the same memory; ``size``: windows down and across."""

    def __init__(self, maps: Tensor, place: Place, width: int):
        (self.kernel, self.stride, self.padding), self.maps = place, maps
        self.size: Pair = places(maps.shape[1:3], *place)
        self.each = max(1, min(len(maps), BLOCK // (self.size[0] * self.size[1] * width)))
        (_, h, w, c), (ph, pw) = maps.shape, self.padding
        self.padded = maps.new_zeros(self.each, h + 2 * ph, w + 2 * pw, c)
        self.rows = maps.new_empty(self.each, *self.size, *self.kernel, c)

    def __iter__(self) -> Any:
        """Which images, and their windows (images * oh * ow, kh * kw * c)."""
        h, w = self.maps.shape[1:3]
        (ph, pw), (image, row, column, one) = self.padding, self.padded.stride()
        steps = (image, row * self.stride[0], column * self.stride[1], row, column, one)
        for first in range(0, len(self.maps), self.each):
            block = slice(first, min(first + self.each, len(self.maps)))
            count = block.stop - first
            self.padded[:count, ph : ph + h, pw : pw + w] = self.maps[block]
            rows = self.rows[:count]
            rows.copy_(self.padded.as_strided(rows.shape, steps))
            yield block, rows.view(count * self.size[0] * self.size[1], -1)

    def add(self, windows: Tensor, maps: Tensor) -> None:
        """Add windows to where they were taken from."""
        rows = windows.view(len(maps), *self.size, *self.kernel, maps.shape[-1])
        for i in range(self.kernel[0]):
            down, to_rows = inside(i, maps.shape[1], self.size[0], self.stride[0], self.padding[0])
            for j in range(self.kernel[1]):
                across, to = inside(j, maps.shape[2], self.size[1], self.stride[1], self.padding[1])
                maps[:, to_rows, to] += rows[:, down, across, i, j]
