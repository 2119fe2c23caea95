"""A meta-batch that several processes share: whose task is whose, sums over all, running statistics in order of tasks.

DistributedDataParallel is of no use here: it hooks into one backward pass of one module, and meta-gradients come from
gradients of gradients. So each process has the gradient of its own tasks, and these are added up.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvae.share import Share
from metalearn.errors import UserError
from metalearn.learners.base import Learner
from metalearn.norms import batch_norms, update_running_statistics

Episode = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support images and labels, query images and labels."""


def tasks_of(meta_batch: int, share: Share) -> list[range]:
    """Which tasks each process has: a block each, the first ones with one more where it does not come out even.

    Raises UserError where a process would have none.
    """
    processes = share.processes
    if meta_batch < processes:
        raise UserError(
            f"training.meta_batch: given {meta_batch}, the tasks of all {processes} processes together; allowed: at "
            f"least {processes}; or start fewer processes"
        )
    each, more = divmod(meta_batch, processes)
    ends = [rank * each + min(rank, more) for rank in range(processes + 1)]
    return [range(*block) for block in zip(ends, ends[1:], strict=False)]


def placed(own: Shaped[Tensor, " m"], tasks: range, meta_batch: int) -> Shaped[Tensor, " n"]:
    """A number for each of this process's tasks as one for each task of the meta-batch, 0 for those of others."""
    return nn.functional.pad(own, (tasks.start, meta_batch - tasks.stop))


def add_gradients(parameters: Sequence[Tensor], numbers: Sequence[Tensor], share: Share) -> None:
    """Add gradients and other numbers up over processes, in place; what has no gradient in any of them gets none."""
    if share.processes == 1:
        return
    known = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    share.add([*(p.grad for p in parameters if p.grad is not None), known, *numbers])
    for parameter, processes in zip(parameters, known.tolist(), strict=True):
        if not processes:
            parameter.grad = None


@contextmanager
def in_order(learner: Learner, batch: Sequence[Episode], share: Share) -> Iterator[None]:
    """Let running statistics be what they are in one process, which has all tasks, one after the other.

    Inside, this process's tasks, the ``batch``, pass through the learner. Afterwards running statistics have followed
    all tasks, on every process. Where losses go by them (``by_running``) they follow the batch beforehand too, and
    inside they start where the processes before leave them: one pass more, without gradient. Raises UserError when
    another buffer changes inside.
    """
    if share.processes == 1:
        yield
        return
    running = Running(learner, share)
    if learner.by_running and learner.training:
        assert isinstance(learner.extractor, nn.Module)
        for support, _, query, _ in batch:
            update_running_statistics(learner.extractor, torch.cat([support, query]))
        pulls = running.pulls()
        running.set(pulls[: share.rank])
        yield
    else:
        yield
        pulls = running.pulls()
    running.set(pulls)
    running.require_no_other()


class Running:
    """The running statistics of all batch norms of a learner, and what the tasks of each process do to them.

    A batch of mean m takes a running mean r to ``r + w (m - r)``; many take it to ``r + W (t - r)``, where W depends on
    their number alone and t on the batches alone. So t and the number, of each process, are all there is to tell.
    """

    def __init__(self, learner: nn.Module, share: Share):
        self.share = share
        self.layers = [layer for layer in batch_norms(learner) if layer.running_mean is not None]
        mine = {id(buffer) for layer in self.layers for buffer in layer.buffers()}
        self.others = {
            name: (buffer, buffer._version) for name, buffer in learner.named_buffers() if id(buffer) not in mine
        }
        self.learner, self.before = learner, [read(layer) for layer in self.layers]

    def pulls(self) -> Float[Tensor, "processes d"]:
        """Of each process: the number of batches that each layer has seen, then all t."""
        counts, targets = [], []
        for layer, (count, was) in zip(self.layers, self.before, strict=True):
            now_count, now = read(layer)
            way = weight(layer, count, now_count - count)
            counts.append(now_count - count)
            targets.append(was + (now - was) / way if way else was)
        like = targets[0] if targets else torch.zeros(0, dtype=torch.float64)
        told = torch.cat([like.new_tensor(counts), *(target.flatten() for target in targets)])
        return self.share.gather(told[None]) if self.layers else told[None]

    def set(self, pulls: Float[Tensor, "processes d"]) -> None:
        """Let the statistics be what they were, pulled by these processes one after the other."""
        state = self.before
        for pull in pulls if self.layers else ():
            counts, targets = pull[: len(state)].tolist(), pull[len(state) :].split([s.numel() for _, s in state])
            state = [
                (count + int(more), was.lerp(target.view_as(was), weight(layer, count, int(more))))
                for layer, (count, was), more, target in zip(self.layers, state, counts, targets, strict=True)
            ]
        for layer, (count, statistics) in zip(self.layers, state, strict=True):
            write(layer, count, statistics)

    def require_no_other(self) -> None:
        """Raise UserError when a buffer that is no running statistic has changed: which process is right?"""
        now = dict(self.learner.named_buffers())
        for name, (buffer, version) in self.others.items():
            if now.get(name) is not buffer or buffer._version != version:
                raise UserError(
                    f"the buffer {name} changes while the learner trains, in each process by its own tasks; allowed "
                    "under torchrun: running statistics of batch norm; start it without torchrun"
                )


def read(layer: _BatchNorm) -> tuple[int, Float[Tensor, "2 c"]]:
    """How many batches a layer has seen, and its running mean and variance."""
    assert layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None
    return int(layer.num_batches_tracked), torch.stack([layer.running_mean, layer.running_var]).double()


def write(layer: _BatchNorm, count: int, statistics: Float[Tensor, "2 c"]) -> None:
    """The reverse."""
    assert layer.running_mean is not None and layer.running_var is not None and layer.num_batches_tracked is not None
    layer.num_batches_tracked.fill_(count)
    layer.running_mean.copy_(statistics[0]), layer.running_var.copy_(statistics[1])


def weight(layer: _BatchNorm, before: int, batches: int) -> float:
    """How far so many batches, after so many before, take a running statistic from what it was: 0 to 1."""
    if layer.momentum is None:
        return batches / max(before + batches, 1)
    return 1 - (1 - layer.momentum) ** batches
