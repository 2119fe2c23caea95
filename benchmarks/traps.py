"""Two slow ways of torch on a CPU, each beside the fast one, in one run: bfloat16 products, and bytes to [0, 1].

Run: python benchmarks/traps.py [rounds]

Ratios above 1 say how many times slower the first way is. Both depend on the processor: with AMX or AVX512-BF16
bfloat16 may well be the faster one. See docs/learn2learn-notes.md.
"""

import sys
from collections.abc import Callable

import torch
from data import best

SIZES = 64, 256, 512
IMAGES = (256, 1, 28, 28), (2000, 1, 28, 28), (256, 3, 84, 84)


def product(size: int, dtype: torch.dtype) -> Callable[[], object]:
    """A product of two square matrices of a type."""
    a, b = (torch.rand(size, size).to(dtype) for _ in range(2))
    return lambda: a @ b


def divided(images: torch.Tensor, out: torch.Tensor) -> Callable[[], object]:
    """Bytes to [0, 1] by a division into the output."""
    return lambda: torch.div(images, 255, out=out)


def copied(images: torch.Tensor, out: torch.Tensor) -> Callable[[], object]:
    """Bytes to [0, 1] by a copy and a multiplication."""
    return lambda: out.copy_(images).mul_(1 / 255)


def row(name: str, slow: Callable[[], object], fast: Callable[[], object], rounds: int) -> None:
    """Time both in turn, one round each, so that a busy moment of the machine meets both; the first round warms up."""
    slow(), fast()
    seconds = [(best(slow, 1), best(fast, 1)) for _ in range(rounds)]
    first, second = (min(column) * 1000 for column in zip(*seconds, strict=True))
    print(f"{name:58} {first:9.3f} {second:9.3f} {first / second:7.2f}")


def main(rounds: int) -> None:
    """Print both ways' least milliseconds and their ratio."""
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    known = {name: value for name, value in capable.items() if name in ("amx_bf16", "avx512_bf16")}
    torch.set_num_threads(1)  # two would measure how busy the machine is
    print(f"torch {torch.__version__}, 1 thread, {known or 'capabilities unknown'}, best of {rounds} rounds")
    print(f"{'':58} {'slow ms':>9} {'fast ms':>9} {'ratio':>7}")
    for size in SIZES:
        name = f"product {size}x{size}, bfloat16 / float32"
        row(name, product(size, torch.bfloat16), product(size, torch.float32), rounds)
    for shape in IMAGES:
        images, out = torch.randint(0, 256, shape, dtype=torch.uint8), torch.empty(shape)
        name = f"{shape} uint8, torch.div / copy and multiply"
        row(name, divided(images, out), copied(images, out), rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
