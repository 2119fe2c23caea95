"""One step of meta-training: the losses of a batch of episodes, in chunks that memory holds, and an optimiser step."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gvae.augment import Augment
from gvae.seeds import seeded
from gvae.share import ALONE, Share
from metalearn.auxiliary import Auxiliary
from metalearn.errors import UserError
from metalearn.learners.base import EpisodeError, Learner
from metalearn.meta_batch import Episode, add_gradients, in_order, placed, tasks_of


def augmented(
    episodes: Iterator[Episode], augment: Augment, seed: int, numbers: Iterable[int]
) -> Iterator[Episode]:
    """Episodes with these numbers, every image augmented on its own, by the seed and the episode's number."""
    for number, (support, labels, query, truth) in zip(numbers, episodes, strict=True):
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
    share: Share = ALONE,
) -> dict[str, float]:
    """One optimiser step on the next ``meta_batch`` episodes; return mean loss and accuracy, and the gradient's norm.

    ``tasks_at_once``: how many episodes are in memory together, by default what ``learner.tasks_at_once`` says.
    ``auxiliary`` adds its loss, and its terms to what is returned. ``share``: of several processes each is given its
    own episodes alone (`tasks_of`), and all take the step, and are told what one process would be, of all of them.
    Raises UserError, before the step, on a loss or gradient that is not finite and when memory does not suffice.
    """
    optimizer.zero_grad()
    where = f"meta-training stopped at iteration {iteration}"
    tasks = tasks_of(meta_batch, share)[share.rank]
    batch = list(islice(episodes, len(tasks)))
    own_losses, own_correct = own_tasks(learner, batch, tasks, meta_batch, tasks_at_once, where, share)
    losses, correct = (placed(own, tasks, meta_batch) for own in (own_losses, own_correct))
    terms: dict[str, Tensor] = {}
    if auxiliary:
        loss, terms = auxiliary.loss(iteration)
        (loss / share.processes).backward()
        terms = {"auxiliary": loss.detach(), **terms}
    terms = {name: value / share.processes for name, value in terms.items()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    add_gradients(trained, [losses, correct, *terms.values()], share)
    require_finite_losses(learner, losses, batch, meta_batch, where, share)
    weighted = terms.pop("auxiliary", None)
    if weighted is not None and not weighted.isfinite():
        raise UserError(
            f"{where}: the auxiliary loss is {weighted.item()}; lower learning_rate or auxiliary.weight"
        )
    norms = gradient_norms(learner, where)
    optimizer.step()
    if auxiliary:
        terms |= auxiliary.finish()
    accuracy = correct.sum() / (meta_batch * len(batch[0][3]))
    told = {"loss": losses.mean(), "accuracy": accuracy, "gradient_norm": norms.norm()}
    return {name: float(value) for name, value in {**told, **terms}.items()}


def in_memory(learner: Learner, support: Tensor, query: Tensor) -> int | None:
    """How many tasks of such images, (n, c, height, width), a learner takes at once; None for all."""
    return learner.tasks_at_once((len(support) + len(query)) * support.shape[2:].numel(), support.device)


def own_tasks(
    learner: Learner, batch: Sequence[Episode], tasks: range, meta_batch: int, tasks_at_once: int | None, where: str,
    share: Share,
) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:  # fmt: skip
    """Losses of this process's tasks and how many queries were right, chunk by chunk; adds their mean's gradient.

    The mean is that of the whole meta-batch. Raises UserError, naming the task by its number there.
    """
    support, labels, query, truth = batch[0]
    at_once = min(tasks_at_once or in_memory(learner, support, query) or len(batch), len(batch))
    chunks = [batch[first : first + at_once] for first in range(0, len(batch), at_once)]

    def stacked(chunk: Sequence[Episode]) -> list[Tensor]:
        return [torch.stack([episode[place] for episode in chunk]) for place in (0, 2)]

    found = []
    with enough_memory(where, at_once), in_order(learner, batch, share):
        for first, chunk in zip(tasks[::at_once], chunks, strict=True):
            supports, queries = stacked(chunk)
            try:
                losses, correct = learner.meta_losses(supports, labels, queries, truth)
            except EpisodeError as error:
                raise UserError(f"{where}, task {first + error.episode}: {error}") from error
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            (losses.sum() / meta_batch).backward()
            found.append((losses.detach(), correct))
    losses, correct = (torch.cat(each) for each in zip(*found, strict=True))
    return losses, correct


def require_finite_losses(
    learner: Learner, losses: Float[Tensor, " n"], batch: Sequence[Episode], meta_batch: int, where: str, share: Share
) -> None:
    """Raise UserError naming the first task whose loss is not finite; the process that has it knows more."""
    for task, loss in enumerate(losses.tolist()):
        if not math.isfinite(loss):
            said = f"the loss is {loss}; lower learning_rate, or inner_lr where there is one"
            blocks = tasks_of(meta_batch, share)
            owner = next(rank for rank, tasks in enumerate(blocks) if task in tasks)
            if owner == share.rank:
                try:
                    learner.meta_loss(*batch[task - blocks[owner].start])
                except UserError as error:
                    said = str(error)
            raise UserError(f"{where}, task {task}: {share.tell(said, owner)}")


def gradient_norms(learner: Learner, where: str) -> Float[Tensor, " p"]:
    """The norm of each gradient of a learner. Raises UserError naming the first that is not finite."""
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    norms = torch.stack([gradient.norm() for gradient in gradients.values()])
    for name, norm in zip(gradients, norms.tolist(), strict=True):
        if not math.isfinite(norm):
            raise UserError(f"{where}: the gradient of {name} is not finite")
    return norms


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
def reproducible(seed: int, iteration: int, device: str | torch.device, rank: int = 0) -> Iterator[None]:
    """Inside, random numbers (dropout's, say) depend on (seed, iteration, rank) alone; the global state survives.

    ``rank``: of this process, so that its tasks do not get the same numbers as those of another.
    """
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        number = (seed * 1_000_003 + iteration + (rank << 48)) % 2**63
        torch.default_generator.manual_seed(number)
        if cuda:
            torch.cuda.manual_seed(number)
        yield
