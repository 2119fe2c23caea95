"""The table of what a network may do with `Tasks`: layers with the tasks' own weights, and functions of one image."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn.batched.kernels import Pair, Place, places
from metalearn.batched.run import Layer, Rows
from metalearn.batched.values import NoRule, Tasks, name_of

Rule = Callable[..., Any]


def convolution(
    func: Any, x: Tasks, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tasks:  # fmt: skip
    """F.conv2d of maps: windows, then one product a task."""
    if pair(dilation) != (1, 1) or groups != 1 or isinstance(padding, str) or x.dim() != 4:
        raise NoRule(f"no rule for a convolution with dilation {dilation}, groups {groups}, padding {padding!r}")
    kernel: Pair = (weight.shape[2], weight.shape[3])
    shape = (x.shape[0], weight.shape[0], *places(x.shape[2:], kernel, pair(stride), pair(padding)))

    place: Place = (kernel, pair(stride), pair(padding))

    rows = None if x.kept is None else x.kept.get(place)
    if rows is None:
        rows = Rows(x.run.tasks, maps=x.plain.permute(0, 2, 3, 1).contiguous(), place=place)
    if x.kept is not None:
        x.kept[place] = rows
    return product(x, rows, shape, weight, bias)


def linear(func: Any, x: Tasks, weight: Tensor, bias: Any = None) -> Tasks:
    """F.linear of features."""
    if x.dim() != 2:
        raise NoRule(f"no rule for a linear layer on {x.dim()} dimensions")
    return product(x, Rows(x.run.tasks, x.plain), (x.shape[0], weight.shape[0]), weight, bias)


def product(x: Tasks, rows: Rows, shape: tuple[int, ...], weight: Tensor, bias: Any) -> Tasks:
    """The product of rows and a weight, not computed yet."""
    for parameter in (weight, bias):
        if parameter is not None:
            x.run.weight(parameter)
    layer = Layer(x.run, shape, rows, weight, bias)
    return Tasks(shape, x.run, layer.value, layer)


def batch_norm(
    func: Any, x: Tasks, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tasks:  # fmt: skip
    """F.batch_norm: the run knows whose statistics."""
    return x.run.norm(x, running_mean, weight, bias, eps)


def relu(func: Any, x: Tasks, inplace: bool = False) -> Tasks:
    """ReLU."""
    return x.relu()


def pointwise(func: Any, x: Tasks, *args: Any, **kwargs: Any) -> Tasks:
    """A function of one image whose other arguments are no tensors."""
    if any(isinstance(one, Tensor) for one in (*args, *kwargs.values())):
        raise NoRule(f"no rule for {name_of(func)} with a second tensor")
    if kwargs.get("inplace"):
        kwargs["inplace"] = False
    out = func(x.plain, *args, **kwargs)
    if not isinstance(out, Tensor) or out.shape[0] != x.shape[0]:
        raise NoRule(f"no rule for {name_of(func)} that mixes images")
    return Tasks(tuple(out.shape), x.run, out)


def arithmetic(func: Any, a: Any, b: Any, **kwargs: Any) -> Tasks:
    """Two values of the same tasks, or one and a constant: a number, or a buffer without an axis of images."""
    x = a if isinstance(a, Tasks) else b

    def plain(one: Any) -> Any:
        if isinstance(one, Tasks):
            if one.run is not x.run or one.dim() != x.dim() or one.shape[0] != x.shape[0]:
                raise NoRule(f"no rule for {name_of(func)} of values of other shapes")
            return one.plain
        each = isinstance(one, Tensor) and (one.dim() > x.dim() or (one.dim() == x.dim() and len(one) != 1))
        if isinstance(one, Tensor) and (one.requires_grad or each):
            raise NoRule(f"no rule for {name_of(func)} with a parameter or a tensor of all images")
        return one

    out = func(plain(a), plain(b), **kwargs)
    return Tasks(tuple(out.shape), x.run, out)


def dropout(func: Any, x: Tasks, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tasks:
    """Nothing: networks are in eval mode in the inner loop."""
    if training:
        raise NoRule("no rule for dropout in train mode")
    return x


def reshape(func: Any, x: Tasks, *shape: Any) -> Tasks:
    """Tensor.view and reshape of every image alone: the first axis stays."""
    sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list | torch.Size) else shape)
    each = x.shape.numel() // max(x.shape[0], 1)
    rest = torch.Size([s for s in sizes[1:] if s != -1]).numel()
    if len(sizes) < 2 or sizes[0] not in (-1, x.shape[0]) or (sizes[0] == -1 and rest != each):
        raise NoRule(f"no rule for a view of {tuple(x.shape)} as {sizes}")
    sizes[0] = x.shape[0]
    out = x.plain.reshape(sizes)
    return x if out.shape == x.shape else Tasks(tuple(out.shape), x.run, out)


def flatten(func: Any, x: Tasks, start_dim: int = 0, end_dim: int = -1) -> Tasks:
    """Flatten axes of every image."""
    if start_dim % x.dim() == 0 and end_dim % x.dim() > 0:
        raise NoRule("no rule for flattening all images together")
    return pointwise(torch.flatten, x, start_dim, end_dim)


def mean(func: Any, x: Tasks, dim: Any = None, keepdim: bool = False) -> Tasks:
    """The mean over axes of every image."""
    axes = () if dim is None else tuple(axis % x.dim() for axis in (dim if isinstance(dim, tuple | list) else (dim,)))
    if not axes or 0 in axes:
        raise NoRule("no rule for a mean over images")
    out = x.plain.mean(axes, keepdim)
    return Tasks(tuple(out.shape), x.run, out)


def item(func: Any, x: Tasks, index: Any) -> Tasks:
    """``x[:, ...]``: some of every image."""
    if not (isinstance(index, tuple) and index and index[0] == slice(None)):
        raise NoRule(f"no rule for x[{index}]")
    out = x.plain[index]
    return Tasks(tuple(out.shape), x.run, out)


def about(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What torch knows of the shape and type without the value."""
    return func(*args, **kwargs)


def pair(value: Any) -> Pair:
    """Both of a size that may be given once."""
    first, second = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return first, second


_SHAPE = (
    "shape", "ndim", "dtype", "device", "layout", "is_sparse", "requires_grad", "is_cuda", "is_mkldnn", "is_quantized",
)  # fmt: skip
_METHODS = ("size", "dim", "numel", "__len__", "is_floating_point", "is_complex", "nelement", "ndimension", "stride")
_POINTWISE = (
    F.leaky_relu, F.elu, F.gelu, F.silu, F.softplus, F.hardtanh, F.relu6, F.tanh, F.sigmoid, torch.tanh, torch.sigmoid,
    torch.exp, torch.abs, torch.square, torch.sqrt, Tensor.tanh, Tensor.sigmoid, Tensor.exp, Tensor.abs, Tensor.square,
    Tensor.sqrt, Tensor.clamp, torch.clamp, Tensor.pow, Tensor.__pow__, Tensor.__neg__, Tensor.neg, torch.neg,
    torch.max_pool2d, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, Tensor.contiguous,
)  # fmt: skip
_ARITHMETIC = (
    torch.add, torch.sub, torch.mul, torch.div, Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.__add__,
    Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__, Tensor.__mul__, Tensor.__rmul__, Tensor.__truediv__,
    Tensor.__rtruediv__,
)  # fmt: skip

RULES: dict[Any, Rule] = {
    **{getattr(Tensor, name).__get__: about for name in _SHAPE},
    **{getattr(Tensor, name): about for name in _METHODS},
    **dict.fromkeys(_POINTWISE, pointwise),
    **dict.fromkeys(_ARITHMETIC, arithmetic),
    torch.conv2d: convolution,
    F.linear: linear,
    F.batch_norm: batch_norm,
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), relu),
    F.dropout: dropout,
    **dict.fromkeys((Tensor.view, Tensor.reshape, torch.reshape), reshape),
    **dict.fromkeys((Tensor.flatten, torch.flatten), flatten),
    **dict.fromkeys((Tensor.mean, torch.mean), mean),
    Tensor.__getitem__: item,
}
