"""What share of a training is this process's, and what processes work out together. One process is the null object."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from gvae.errors import ModelError

Rows = TypeVar("Rows", bound=tuple[Tensor, ...])
Plain = TypeVar("Plain")


class Share:
    """The share of a process that trains alone: everything. Each method leaves what it is given as it is.

    Several processes (``Processes``) train one network on one batch of all, each on rows of its own, in equal parts,
    and do what one process would do. Let L_p be the loss that process p computes, and L = mean_p L_p. Then

    - a mean over the images of each process's own rows is, averaged over processes, the mean over the batch;
    - what every process computes alike, from parameters or from gathered rows, is its own average;
    - ``gather`` and ``mean`` pass back the gradient of sum_p L_p, for what a process gives to them is in every L_p.

    So the gradient of parameters on process q is that of sum_p L_p through what q computed with them, and the mean
    over q (``average``) is the gradient of L: with terms of both kinds, L is the loss of one process on the batch.
    """

    rank, processes = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is process 0, the one that writes and validates."""
        return self.rank == 0

    def check(self, batch_size: int, key: str = "training.batch_size") -> None:
        """Raise ModelError, naming the setting ``key``, unless a batch can be divided into equal shares."""

    def mine(self, whole: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
        """Return this process's rows of something that has a row for each image of the batch."""
        return whole

    def gather(self, own: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Return the rows of all processes, in order: those of the batch. Differentiable."""
        return own

    def mean(self, own: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the mean over processes. Differentiable."""
        return own

    def average(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, terms: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Average the gradients of parameters over processes, in place; return loss and terms averaged, detached."""
        return loss, terms

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor up over processes, in place."""

    def tell(self, value: Plain, source: int = 0) -> Plain:
        """Return the value that process ``source`` has, on every process, once it has come to this point."""
        return value

    @contextmanager
    def after_first(self) -> Iterator[None]:
        """Let process 0 do what is inside before the others do."""
        if not self.first:
            self.tell(None)
        yield
        if self.first:
            self.tell(None)


ALONE = Share()


def join(backend: str, **options: Any) -> None:
    """Join the processes that torchrun started; ``options`` as of ``torch.distributed.init_process_group``.

    Modules of torch that are imported after that keep the group for good, as a default argument. Its threads then
    outlive ``destroy_process_group``, and may end the process by SIGABRT when it is all but over (torch 2.14, seen on
    loaded machines; cf. pytorch issue 190489). So what keeps it is imported before.
    """
    import torch.distributed.nn  # noqa: F401

    dist.init_process_group(backend, **options)


class Processes(Share):
    """The share of one process among several: those of torch's default process group, which has been joined."""

    def __init__(self) -> None:
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()

    def check(self, batch_size: int, key: str = "training.batch_size") -> None:
        """Raise ModelError, naming the setting ``key``, unless a batch can be divided into equal shares."""
        if batch_size % self.processes:
            below = batch_size - batch_size % self.processes
            allowed = ", ".join(str(size) for size in (below, below + self.processes) if size)
            raise ModelError(
                f"{key}: given {batch_size}, the batch of all {self.processes} processes together; "
                f"allowed: a multiple of {self.processes}, such as {allowed}; or start another number of processes"
            )

    def mine(self, whole: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
        """Return this process's rows of something that has a row for each image of the batch."""
        return whole.chunk(self.processes)[self.rank]

    def gather(self, own: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Return the rows of all processes, in order: the sum of rows that are zero but on their own process."""
        before, after = self.rank * len(own), (self.processes - 1 - self.rank) * len(own)
        return _Sum.apply(F.pad(own, (0, 0, before, after)))

    def mean(self, own: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the mean over processes. Differentiable."""
        return _Sum.apply(own) / self.processes

    def average(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, terms: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Average the gradients of parameters over processes, in place; return loss and terms averaged, detached."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        numbers = torch.stack([value.detach().to(loss.dtype) for value in (loss, *terms.values())])
        self.add([*gradients, numbers])
        for total in (*gradients, numbers):
            total.div_(self.processes)
        loss, *rest = numbers.unbind()
        return loss, dict(zip(terms, rest, strict=True))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add each tensor up over processes, in place.

        One reduction of one flat vector, so that every process goes on with the same bits.
        """
        flat = _reduce(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def tell(self, value: Plain, source: int = 0) -> Plain:
        """Return the value that process ``source`` has, on every process, once it has come to this point."""
        told: list[Any] = [value]
        with _lost():
            dist.broadcast_object_list(told, src=source)
        return told[0]


class _Sum(torch.autograd.Function):
    """The sum over processes. What a process gives is in every process's sum: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _reduce(own.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _reduce(gradient.clone(memory_format=torch.contiguous_format))


def _reduce(tensor: Tensor) -> Tensor:
    """Sum a contiguous tensor over processes, in place."""
    with _lost():
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch's own kinds of it, and plain ones from gloo
        said = str(error).partition(". ")[0]
        raise ModelError(
            f"another process of this training has ended or cannot be reached ({said}); "
            "what it said itself is why. Resume the run"
        ) from error
