"""One pass of a network over the images of all tasks: whose weights, whose statistics, and layers not computed yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn.batched.kernels import Norm, Place, Windows, product
from metalearn.batched.values import NoRule, Tasks

Statistics = tuple[Tensor, Tensor]
"""Mean and biased variance of each channel, (b, o)."""


@dataclass
class Norms:
    """Whose statistics a pass normalises with: each task's own, unless there are ``given`` ones.

    Those are looked up by the id of the running mean, or, where ``by_place``, by how many norms came before in the
    pass. ``seen``, where it is a list, collects the statistics of every norm with its running mean and rows a task.
    """

    given: Mapping[int, Statistics] = field(default_factory=dict)
    by_place: bool = False
    seen: list[tuple[Any, Statistics, int]] | None = None


@dataclass
class Run:
    """A pass over ``tasks`` tasks. ``weights``: id of a parameter to what it is worth, for all or each (`stored`)."""

    tasks: int
    dtype: torch.dtype
    device: torch.device
    weights: Mapping[int, Tensor]
    norms: Norms
    once: bool = False
    place: int = 0

    def weight(self, parameter: Tensor) -> Tensor:
        """The value of a parameter in this pass. NoRule for any other tensor."""
        if id(parameter) not in self.weights:
            raise NoRule("no rule for a layer whose weight is computed from parameters")
        return self.weights[id(parameter)]

    def vector(self, parameter: Tensor) -> Tensor:
        """The same for a number a channel: (b, o)."""
        value = self.weight(parameter)
        return value if value.dim() == 2 else value.expand(self.tasks, -1)

    def statistics(self, running_mean: Any) -> Statistics | None:
        """Those that the next norm was given."""
        self.place += 1
        return self.norms.given.get(self.place if self.norms.by_place else id(running_mean))

    def norm(self, x: Tasks, running_mean: Any, weight: Any, bias: Any, eps: float) -> Tasks:
        """Batch norm of a value, not computed yet."""
        layer = x.source if x.source is not None and not x.computed else Layer.of(x)
        statistics = self.statistics(running_mean)
        scale = self.vector(weight) if weight is not None else layer.ones()
        shift = self.vector(bias) if bias is not None else torch.zeros_like(scale)
        if statistics is None and self.norms.seen is None and not layer.first:
            return Tasks(tuple(x.shape), self, lambda relu: layer.normed(scale, shift, eps, relu))
        statistics = statistics or layer.statistics()
        if self.norms.seen is not None:
            self.norms.seen.append((running_mean, statistics, layer.count))
        mean, variance = statistics
        scale = scale * (variance + eps).rsqrt()
        return Tasks(tuple(x.shape), self, lambda relu: layer.scaled(scale, shift - mean * scale, relu))


class Rows:
    """What a layer multiplies, (b, m, k); of the first layer kept for all passes over the same images."""

    def __init__(self, tasks: int, values: Any = None, maps: Tensor | None = None, place: Place | None = None):
        self.tasks, self.values, self.maps, self.place = tasks, values, maps, place

    @property
    def constant(self) -> bool:
        """Whether no gradient goes to them."""
        return not any(one is not None and one.requires_grad for one in (self.values, self.maps))

    @property
    def width(self) -> int:
        """Numbers in a row."""
        if self.maps is None or self.place is None:
            return self.values.shape[-1]
        return self.place[0][0] * self.place[0][1] * self.maps.shape[-1]

    @cached_property
    def matrix(self) -> Tensor:
        """The rows of each task, (b, m, k)."""
        if self.maps is None or self.place is None:
            return self.values.reshape(self.tasks, -1, self.values.shape[-1])
        return Windows.apply(self.maps, *self.place).view(self.tasks, -1, self.width)

    def times(self, weight: Tensor, once: bool) -> Tensor:
        """The rows times a weight, (b, m, o); ``once``: to be differentiated once only."""
        if once and weight.dim() == 2 and self.maps is not None and self.place is not None:
            kernel, stride, padding = self.place
            shared = weight.T.unflatten(1, (*kernel, -1)).permute(0, 3, 1, 2)
            maps = F.conv2d(self.maps.permute(0, 3, 1, 2), shared, stride=stride, padding=padding)
            return maps.permute(0, 2, 3, 1).reshape(self.tasks, -1, weight.shape[-1])
        return product(self.matrix, weight)

    @cached_property
    def extended(self) -> Tensor:
        """The rows with a column of ones, for a bias; column after column in memory."""
        columns = self.matrix.mT
        return torch.cat([columns, torch.ones_like(columns[:, :1])], 1).mT

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (b, 1, k) and covariance (b, k, k) of each task's rows."""
        mean = self.matrix.mean(1, keepdim=True)
        centred = self.matrix - mean
        return mean, centred.mT @ centred / centred.shape[1]


@dataclass
class Layer:
    """A product that is not computed yet, so that a norm and ReLU behind it can be computed with it.

    Without a ``weight`` it is its rows. ``shape``: of the value, (images, channels, ...).
    """

    run: Run
    shape: tuple[int, ...]
    rows: Rows
    weight: Tensor | None = None
    bias: Tensor | None = None

    @staticmethod
    def of(x: Tasks) -> "Layer":
        """A computed value as a layer."""
        plain = x.plain
        last = plain.permute(0, 2, 3, 1) if plain.dim() == 4 else plain
        return Layer(x.run, tuple(x.shape), Rows(x.run.tasks, last))

    @property
    def first(self) -> bool:
        """Whether it is a narrow layer on images: its statistics come from the images' own moments, without a pass.

        For rows x with mean and covariance C, a channel w has the mean ``mean . w`` and the variance ``w' C w``.
        """
        return self.weight is not None and self.rows.constant and self.rows.width <= self.shape[1]

    @property
    def count(self) -> int:
        """Values of a channel in a task."""
        return torch.Size(self.shape).numel() // (self.run.tasks * self.shape[1])

    def ones(self) -> Tensor:
        """A scale that changes nothing."""
        return torch.ones(self.run.tasks, self.shape[1], dtype=self.run.dtype, device=self.run.device)

    def value(self, relu: bool) -> Tensor:
        """The layer by itself."""
        bias = None if self.bias is None else self.run.vector(self.bias)[:, None]
        return self.shaped(self.product() if bias is None else self.product() + bias, relu)

    def product(self) -> Tensor:
        """The rows times the weight, (b, m, o)."""
        return self.rows.matrix if self.weight is None else self.rows.times(self.run.weight(self.weight), self.run.once)

    def normed(self, scale: Tensor, shift: Tensor, eps: float, relu: bool) -> Tensor:
        """Normalised by each task's own statistics, which take a bias away again: it gets zeros for a gradient."""
        if self.bias is not None:
            shift = shift + 0 * self.run.vector(self.bias)
        return self.shaped(Norm.apply(self.product(), scale, shift, eps, relu), False)

    def statistics(self) -> Statistics:
        """Mean and variance of each task's value, by autograd."""
        if self.first and self.weight is not None:
            (mean, covariance), weight = self.rows.moments, self.run.weight(self.weight)
            mean, variance = (mean @ weight)[:, 0], (weight * (covariance @ weight)).sum(1)
        else:
            variance, mean = torch.var_mean(self.product(), 1, correction=0)
        return mean if self.bias is None else mean + self.run.vector(self.bias), variance

    def scaled(self, scale: Tensor, shift: Tensor, relu: bool) -> Tensor:
        """``value * scale + shift``, a number a task and channel each."""
        if self.bias is not None:
            shift = shift + self.run.vector(self.bias) * scale
        if self.first and self.weight is not None:
            weight = torch.cat([self.run.weight(self.weight) * scale[:, None], shift[:, None]], 1)
            return self.shaped(product(self.rows.extended, weight), relu)
        return self.shaped(torch.addcmul(shift[:, None], self.product(), scale[:, None]), relu)

    def shaped(self, rows: Tensor, relu: bool) -> Tensor:
        """(b, m, o), made here, as the value's shape, channels last in memory."""
        if relu:
            rows = rows.relu() if self.weight is None else rows.relu_()
        if len(self.shape) == 2:
            return rows.reshape(self.shape)
        count, channels, height, width = self.shape
        return rows.reshape(count, height, width, channels).permute(0, 3, 1, 2)


def stored(parameter: Tensor) -> Tensor:
    """A parameter as products take it: (kh * kw * in, out) of a convolution, (in, out) of a linear layer."""
    if parameter.dim() == 4:
        return parameter.permute(2, 3, 1, 0).flatten(0, 2)
    return parameter.T if parameter.dim() == 2 else parameter


def forward(
    network: Any, images: Tensor, weights: Mapping[int, Tensor], norms: Norms, kept: Any = None, once: bool = False
) -> Tensor:
    """What a network in eval mode makes of the images (b, n, ...) of b tasks: (b, n, ...).

    ``kept``: a dict that is given again for the same images, so that what depends on them alone is computed once.
    ``once``: there will be no second derivative, which saves time and memory where tasks share a convolution.
    Raises NoRule for a network that does what the table has no rule for.
    """
    run = Run(len(images), images.dtype, images.device, weights, norms, once)
    flat = images.flatten(0, 1)
    x = Tasks(tuple(flat.shape), run, flat)
    x.kept = kept
    out = network(x)
    if not isinstance(out, Tasks) or len(out) != len(flat):
        raise NoRule("no rule for a network that does not return a value an image")
    return out.plain.unflatten(0, images.shape[:2])
