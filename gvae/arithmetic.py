"""How a run computes: precision of products, layout of convolutions, compilation. Each is undone at the run's end."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gvae.errors import ModelError

Precision = Literal["auto", "float32", "tf32", "bfloat16"]
"""auto: bfloat16 on CUDA, float32 on a CPU, where bfloat16 is several times slower without units for it."""

MemoryFormat = Literal["channels_last", "contiguous"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return bfloat16 autocast where asked for; ``auto`` is bfloat16 on CUDA and float32 on a CPU."""
    enabled = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def widened(tensor: Tensor) -> Tensor:
    """Return floats as float32 at least: what comes out of autocast is widened, float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def float32_products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Say how exact float32 products and convolutions are, and set torch's global switches back at the end.

    On CUDA all but ``float32`` lets what is left in float32 use TensorFloat32 (10 bits of mantissa, not 23), which
    torch by itself does for convolutions only. ``float32`` means all 23 bits, in convolutions too. Raises ModelError
    for ``tf32`` on a device that has none.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ModelError(
            f"training.precision: given 'tf32' on device {device.type!r}, which has no such products; "
            "allowed here: auto, bfloat16, float32"
        )
    tf32 = device.type == "cuda" and precision != "float32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def memory_layout(network: nn.Module, chosen: MemoryFormat) -> Iterator[None]:
    """Lay the weights of convolutions out as asked, and with them what flows through; contiguous again at the end.

    Results differ in the last bits. On a CPU a step in channels_last took 0.65 to 0.99 of the time of a contiguous one,
    but for `release64`, where two tries disagree (0.88 and 1.29; docs/lab-notes.md). Not measured on CUDA.
    """
    if chosen == "channels_last":
        network.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        network.to(memory_format=torch.contiguous_format)


@contextmanager
def compiled(networks: list[nn.Module], wanted: bool, device: torch.device) -> Iterator[None]:
    """Let torch.compile make the networks' forward passes of training; in eval mode they run as they are.

    Raises ModelError where there is no compiler for it.
    """
    if wanted:
        require_compiler(device)
        for network in networks:
            vars(network)["forward"] = _while_training(network)
    try:
        yield
    finally:
        for network in networks:
            vars(network).pop("forward", None)


def require_compiler(device: torch.device) -> None:
    """Raise ModelError when torch.compile would find no compiler: of C++ for a CPU, of C for what starts a GPU's."""
    variable, *names = ("CXX", "g++", "clang++", "cl") if device.type == "cpu" else ("CC", "gcc", "clang", "cl")
    if not any(shutil.which(name) for name in (os.environ.get(variable, ""), *names)):
        raise ModelError(
            f"training.compile: given true, but there is no compiler (looked for {variable}, {', '.join(names)}); "
            "install one, or leave training.compile out"
        )


def _while_training(network: nn.Module) -> Any:
    plain, fast = network.forward, torch.compile(network.forward)

    def forward(inputs: Tensor) -> Tensor:
        return fast(inputs) if network.training else plain(inputs)

    return forward
