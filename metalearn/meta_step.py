"""One step of meta-training: the losses of a batch of episodes, in chunks that memory holds, and an optimiser step."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor

from gvae.augment import Augment
from gvae.seeds import seeded
from metalearn.auxiliary import Auxiliary
from metalearn.errors import UserError
from metalearn.evaluate import located
from metalearn.learners.base import EpisodeError, Learner

Episode = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support images and labels, query images and labels."""


def augmented(episodes: Iterator[Episode], augment: Augment, seed: int, first: int) -> Iterator[Episode]:
    """Episodes from number ``first`` on, every image augmented on its own, by the seed and the episode's number."""
    for number, (support, labels, query, truth) in enumerate(episodes, first):
        noise = seeded(support.device, seed, 4, number)
        yield augment(support, noise), labels, augment(query, noise), truth


def meta_step(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    episodes: Iterator[Episode],
    iteration: int,
    meta_batch: int,
    tasks_at_once: int | None = None,
    auxiliary: Auxiliary | None = None,
) -> dict[str, float]:
    """One optimiser step on the next ``meta_batch`` episodes; return mean loss and accuracy, and the gradient's norm.

    ``tasks_at_once``: how many episodes are in memory together, by default what ``learner.tasks_at_once`` says.
    ``auxiliary`` adds its loss, and its terms to what is returned.
    Raises UserError, before the step, on a loss or gradient that is not finite and when memory does not suffice.
    """
    optimizer.zero_grad()
    where = f"meta-training stopped at iteration {iteration}"
    batch, found = list(islice(episodes, meta_batch)), []
    support, labels, query, truth = batch[0]
    at_once = tasks_at_once or learner.tasks_at_once(len(support) + len(query), support.device) or meta_batch
    for first in range(0, meta_batch, at_once):
        chunk = batch[first : first + at_once]
        supports, queries = (torch.stack([episode[place] for episode in chunk]) for place in (0, 2))
        with enough_memory(where, len(chunk)):
            try:
                losses, correct = learner.meta_losses(supports, labels, queries, truth)
            except EpisodeError as error:
                raise UserError(f"{where}, task {first + error.episode}: {error}") from error
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            (losses.sum() / meta_batch).backward()
        found.append((losses.detach(), correct))
    losses, correct = (torch.cat(each) for each in zip(*found, strict=True))
    for task, loss in enumerate(losses.tolist()):
        if not math.isfinite(loss):
            with located(f"{where}, task {task}"):
                learner.meta_loss(*batch[task])  # says more where it can
                raise UserError(f"the loss is {loss}; lower learning_rate, or inner_lr where there is one")
    terms: dict[str, Tensor] = {}
    if auxiliary:
        loss, terms = auxiliary.loss(iteration)
        if not loss.isfinite():
            raise UserError(
                f"{where}: the auxiliary loss is {loss.item()}; lower learning_rate or auxiliary.weight"
            )
        loss.backward()
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    norms = torch.stack([gradient.norm() for gradient in gradients.values()])
    for name, norm in zip(gradients, norms.tolist(), strict=True):
        if not math.isfinite(norm):
            raise UserError(f"{where}: the gradient of {name} is not finite")
    optimizer.step()
    if auxiliary:
        terms |= auxiliary.finish()
    told = {"loss": losses.mean(), "accuracy": correct.sum() / (meta_batch * len(truth)), "gradient_norm": norms.norm()}
    return {name: float(value) for name, value in {**told, **terms}.items()}


@contextmanager
def enough_memory(where: str, tasks: int) -> Iterator[None]:
    """Say which setting to lower when memory does not suffice inside."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's error on a CPU has no class of its own
        words = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in words:
            raise
        lower = f"tasks_at_once (now {tasks})" if tasks > 1 else "queries, shots or adapt_steps (tasks_at_once is 1)"
        raise UserError(f"{where}: out of memory; lower {lower}: {words.splitlines()[0] if words else ''}") from error


@contextmanager
def reproducible(seed: int, iteration: int, device: str | torch.device) -> Iterator[None]:
    """Inside, random numbers (dropout's, say) depend on (seed, iteration) alone; the global state survives."""
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        number = (seed * 1_000_003 + iteration) % 2**63
        torch.default_generator.manual_seed(number)
        if cuda:
            torch.cuda.manual_seed(number)
        yield
