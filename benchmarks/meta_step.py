"""Seconds of a meta-training step, learn2learn's loop beside ours, turn by turn in one run: ratios of the same round.

Run: python benchmarks/meta_step.py [--rounds 7] [--threads 2] [--only maml,anil,...] [--malloc | --apart]

A step: the meta-losses of a meta-batch and their gradient, without the optimiser. learn2learn's loop as its examples
have it: clone, adapt, query loss and backward of one task after the other; for ANIL the features of a task's support
set and queries in one pass, as in its anil_fc100.py; for ProtoNet its example's Convnet (proto_miniimagenet.py), here
for one channel, and PrototypicalClassifier. Ours: `Learner.meta_losses` in the chunks of `metalearn.meta_step`.
Networks: learn2learn's OmniglotCNN (64 channels, 28x28, 5 ways, 1 shot), batch norm on each batch of a task; ProtoNet:
conv4, 60 ways, 1 shot, 5 queries, in train mode. "of peak": floating point operations of learn2learn's step, counted by
torch, over those of a product of two large matrices in float32 in the same time, measured in the same round.
Both sides run in one process, so alike in how threads wait (metalearn/__init__.py); --malloc: malloc keeps freed memory
for both, as it does in `metalearn train` (metalearn/memory.py). --apart: each side in a process of its own, in turn, as
its users run it: theirs with threads and malloc as torch leaves them, ours as `metalearn train` sets them.
The machine's load is printed.
"""

import argparse
import os
from collections.abc import Callable

import metalearn  # before torch: it says how its threads wait

# isort: split
import metalearn.learn2learn_loop  # noqa: F401  (before learn2learn: it hushes gym)

# isort: split
import learn2learn
import numpy as np
import torch
import torch.nn.functional as F
from measuring import UNTOLD, Worker, interleaved, serve
from pretrain import peak
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gvae.trunks.few_shot import Conv4Encoder
from metalearn.learners import Learner, make_learner
from metalearn.memory import keep_freed_memory
from metalearn.meta_step import in_memory

WAYS, LR = 5, 0.4
Task = tuple[Tensor, Tensor, Tensor, Tensor]


class Omniglot(nn.Module):
    """learn2learn's OmniglotCNN without its classifier."""

    feature_dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.features = learn2learn.vision.models.OmniglotCNN(WAYS).features

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 64)."""
        return self.features(images)


class Convnet(nn.Module):
    """The network of learn2learn's prototypical example: conv, batch norm, ReLU, pooling, in this order."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (1, 64, 64, 64):
            layers += [nn.Conv2d(before, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 64)."""
        return self.layers(images).flatten(1)


def images(tasks: int, ways: int, queries: int) -> Task:
    """Support sets of one shot, their labels, queries and their labels."""
    g = torch.Generator().manual_seed(0)
    support, query = (torch.rand(tasks, ways * each, 1, 28, 28, generator=g) for each in (1, queries))
    return support, torch.arange(ways), query, torch.arange(ways).repeat_interleave(queries)


def theirs(kind: str, network: nn.Sequential, steps: int, batch: Task) -> Callable[[], float]:
    """learn2learn's loop over the tasks."""
    algorithms, (body, head) = learn2learn.algorithms, network
    if kind == "meta_sgd":
        learner = algorithms.MetaSGD(network, lr=LR)
    elif kind == "meta_curvature":
        learner = algorithms.GBML(network, transform=learn2learn.optim.MetaCurvatureTransform, lr=LR)
    else:
        learner = algorithms.MAML(head if kind == "anil" else network, lr=LR)
    support, labels, query, truth = batch

    def step() -> float:
        network.zero_grad()
        total = 0.0
        for inputs, queries in zip(support, query, strict=True):
            clone = learner.clone()
            if kind == "anil":
                inputs, queries = body(torch.cat([inputs, queries])).split([len(inputs), len(queries)])
            for _ in range(steps):
                clone.adapt(F.cross_entropy(clone(inputs), labels))
            loss = F.cross_entropy(clone(queries), truth)
            loss.backward()
            total += loss.item()
        return total

    return step


def their_prototypes(network: nn.Module, batch: Task) -> Callable[[], float]:
    """The step of learn2learn's prototypical example, on one task."""
    support, labels, query, truth = (one[0] if one.dim() > 1 else one for one in batch)

    def step() -> float:
        network.zero_grad()
        features = network(torch.cat([support, query]))
        classifier = learn2learn.nn.PrototypicalClassifier(features[: len(support)], labels)
        loss = F.cross_entropy(classifier(features[len(support) :]), truth)
        loss.backward()
        return loss.item()

    return step


def ours(learner: Learner, batch: Task) -> Callable[[], float]:
    """Meta-losses and their gradient, in the chunks in which meta-training takes them."""
    support, labels, query, truth = batch
    at_once = in_memory(learner, support[0], query[0]) or len(support)

    def step() -> float:
        learner.zero_grad()
        total = 0.0
        for some, queries in zip(support.split(at_once), query.split(at_once), strict=True):
            losses, _ = learner.meta_losses(some, labels, queries, truth)
            losses.sum().backward()
            total += float(losses.detach().sum())
        return total

    return step


def both(kind: str, tasks: int, steps: int, queries: int) -> dict[str, Callable[[], object]]:
    """A step of learn2learn's loop and one of ours, on the same network and tasks."""
    if kind == "protonet":
        batch = images(tasks, 60, queries)
        learner = make_learner("prototypical", Conv4Encoder((1, 28, 28))).train()
        return {"theirs": their_prototypes(Convnet().train(), batch), "ours": ours(learner, batch)}
    batch = images(tasks, WAYS, queries)
    options = {"ways": WAYS, "inner_lr": LR, "adapt_steps": steps, "batch_norm": "query_batch"}
    learner = make_learner(kind, Omniglot(), engine="batched", **options).train()
    return {"theirs": theirs(kind, learner.network, steps, batch), "ours": ours(learner, batch)}


def compare(kind: str, tasks: int, steps: int, queries: int, rounds: int) -> None:
    """Both sides in this process."""
    works = both(kind, tasks, steps, queries)
    with FlopCounterMode(display=False) as counter:
        works["theirs"]()
    works["ours"]()
    flops, speeds = counter.get_total_flops(), []
    seconds = interleaved({**works, "peak": lambda: speeds.append(peak(1024))}, rounds)
    shares = {name: f"{np.median(flops / seconds[name] / np.array(speeds)):4.0%} of peak " for name in works}
    tell(kind, tasks, steps, queries, seconds, shares)


def compare_apart(case: tuple[str, int, int, int], workers: dict[str, Worker], rounds: int) -> None:
    """Each side in its process."""
    found = [[worker.seconds(" ".join(map(str, case))) for worker in workers.values()] for _ in range(rounds)]
    tell(*case, dict(zip(workers, np.array(found).T, strict=True)), dict.fromkeys(workers, ""))


def tell(
    kind: str, tasks: int, steps: int, queries: int, seconds: dict[str, np.ndarray], shares: dict[str, str]
) -> None:
    """Print medians and the ratio of the same round."""
    ratios = seconds["theirs"] / seconds["ours"]
    ways = 60 if kind == "protonet" else WAYS
    sides = "".join(f"{name} {np.median(seconds[name]) * 1e3:6.0f} ms {share}  " for name, share in shares.items())
    print(
        f"{kind:14} tasks {tasks:2}  steps {steps}  {ways} ways 1 shot {queries:2} queries   {sides}"
        f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


CASES = {
    "maml": [(tasks, steps, 1) for tasks in (16, 32) for steps in (1, 5)],
    "anil": [(16, 5, queries) for queries in (1, 5, 15)],
    "meta_sgd": [(16, 1, 1), (16, 5, 1)],
    "meta_curvature": [(16, 5, 1)],
    "protonet": [(1, 0, 5)],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--malloc", action="store_true")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--work", choices=["theirs", "ours"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.malloc or given.work == "ours":
        keep_freed_memory()
    torch.manual_seed(0)
    if given.work:
        return serve(lambda line: both(line.split()[0], *map(int, line.split()[1:]))[given.work])
    print(f"torch {torch.__version__}, {given.threads} threads, median (least to most) of {given.rounds} rounds")
    cases = [(kind, *case) for kind in given.only.split(",") for case in CASES[kind]]
    if not given.apart:
        for case in cases:
            compare(*case, given.rounds)
        return None
    waiting = {"theirs": UNTOLD, "ours": {}}
    threads = ("--threads", str(given.threads))
    workers = {side: Worker(__file__, "--work", side, *threads, waiting=how) for side, how in waiting.items()}
    for case in cases:
        compare_apart(case, workers, given.rounds)
    for worker in workers.values():
        worker.close()
    return None


if __name__ == "__main__":
    main()
