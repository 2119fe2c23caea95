"""Episodes a second on cached features: ours, other libraries' loops, one scikit-learn fit an episode, in one run.

Run: python benchmarks/frozen_eval.py [rounds]

easyfsl is not needed for anything else, so give it a folder of its own; without it its line is left out:
pip install --no-deps --target FOLDER easyfsl==1.5.0 tqdm "pandas<3" pytz python-dateutil tzdata six
PYTHONPATH=FOLDER python benchmarks/frozen_eval.py

13,180 images of 659 classes (those of Omniglot's evaluation part), random features: a class's centre plus 1.5 times as
much noise. Ours is the whole of ``evaluate_features``, which draws the episodes and checks the features too: 10,000
episodes, or as many as the line says for heads that take longer. The bar of the prototypes is against the libraries'
loops as they are used, which draw their own episodes (easyfsl: TaskSampler, DataLoader, evaluate_on_one_task;
learn2learn: a Taskset and PrototypicalClassifier). Their classifiers alone stand beside that, and so does one
scikit-learn fit an episode: these are given the indices of FEW of our episodes, drawn ahead, and what is timed is to
gather the features of an episode, to fit, to predict and to count; what they predict is compared with ours, image by
image. Everything takes its turn in every round; a ratio is of one round: its median, and from the least to the most.
scikit-learn has one thread here; all others have two where there are two. Freed memory is kept for all, as it is in
`metalearn` commands (metalearn/memory.py).
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import metalearn  # noqa: F401  (before torch: it says how torch's threads wait)

# isort: split
import peers
import torch
from measuring import interleaved
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits
from torch import Tensor

from metalearn.evaluate import evaluate_features
from metalearn.learn2learn_loop import clone_module  # noqa: F401  (imports learn2learn without gym's banner)
from metalearn.learners import FeatureLearner, make_learner
from metalearn.learners.distance import DistanceLearner
from metalearn.memory import keep_freed_memory
from tasks.episodes import EpisodeIndices, EpisodeSampler

FEW = 60  # episodes of the others in a round
CLASSES, EACH, QUERIES = 659, 20, 15
Peer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Support features (n, d), their labels and query features (q, d) -> the classes that it predicts."""


Loop = Callable[[Tensor, np.ndarray, tuple[int, int, int]], Callable[[], object]]
"""Features, labels and (ways, shots, queries) -> a function that answers one episode of its own."""


class Line(NamedTuple):
    """A comparison: a learner, at how many features and ways and shots, with whom, and what it has to reach.

    The bar is against the loops, or where there is none against the peers.
    """

    learner: str
    dim: int
    ways: int
    shots: int
    episodes: int
    peers: dict[str, Peer]
    bar: float | None
    loops: dict[str, Loop]


def loop_of_learn2learn(features: Tensor, labels: np.ndarray, setting: tuple[int, int, int]) -> Callable[[], object]:
    """Taskset, split by shots, PrototypicalClassifier, accuracy: what its examples do."""
    from learn2learn.nn import PrototypicalClassifier

    ways, shots, queries = setting
    sample = peers.learn2learn(peers.InMemory(features.numpy(), labels))(setting)
    of_support = torch.arange(ways * (shots + queries)) % (shots + queries) < shots

    def answer() -> object:
        data, truth = sample()
        model = PrototypicalClassifier(data[of_support], truth[of_support])
        return (model(data[~of_support]).argmax(1) == truth[~of_support]).float().mean()

    return answer


def loop_of_easyfsl(features: Tensor, labels: np.ndarray, setting: tuple[int, int, int]) -> Callable[[], object]:
    """TaskSampler in a DataLoader without workers, PrototypicalNetworks, evaluate_on_one_task."""
    from easyfsl.methods import PrototypicalNetworks
    from easyfsl.utils import evaluate_on_one_task

    sample, model = peers.easyfsl(peers.InMemory(features.numpy(), labels), 0)(setting), PrototypicalNetworks().eval()

    def answer() -> object:
        with torch.no_grad():
            return evaluate_on_one_task(model, *sample()[:4])

    return answer


def prototypes_of_learn2learn(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """PrototypicalClassifier, made for each episode."""
    from learn2learn.nn import PrototypicalClassifier

    return PrototypicalClassifier(support, labels)(query).argmax(1)


def svm_of_learn2learn(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """SVClassifier (qpth), made for each episode, with iterations enough to converge."""
    from learn2learn.nn import SVClassifier

    return SVClassifier(support, labels, max_iters=50)(query).argmax(1)


def prototypes_of_easyfsl() -> Peer:
    """PrototypicalNetworks without a backbone. Raises ImportError."""
    from easyfsl.methods import PrototypicalNetworks

    model = PrototypicalNetworks()

    def predict(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        model.process_support_set(support, labels)
        return model(query).argmax(1)

    return predict


def scikit_learn(make: Callable[[], object], augmented: bool = False) -> Peer:
    """Fit an estimator on each support set; ``augmented``: the identity beside the features, zeros for queries."""

    def predict(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        x, q = support.numpy().astype(np.float64), query.numpy().astype(np.float64)
        if augmented:
            x, q = np.hstack([x, np.eye(len(x))]), np.hstack([q, np.zeros((len(q), len(x)))])
        return torch.from_numpy(make().fit(x, labels.numpy()).predict(q))

    return predict


RIDGE = {"scikit-learn": scikit_learn(lambda: RidgeClassifier(alpha=1.0))}
LOGISTIC = {  # ours is converged: what it predicts is that of a fit that is, too
    "scikit-learn": scikit_learn(lambda: LogisticRegression(C=1.0)),
    "its tol=1e-6": scikit_learn(lambda: LogisticRegression(C=1.0, tol=1e-6, max_iter=1000)),
}
SVC = {
    "scikit-learn": scikit_learn(
        lambda: LinearSVC(multi_class="crammer_singer", C=0.1, fit_intercept=False, tol=1e-6, max_iter=100_000), True
    ),
    "learn2learn": svm_of_learn2learn,
}


def lines() -> list[Line]:
    """Return what is compared; easyfsl where it is installed."""
    prototypes, loops = {"learn2learn": prototypes_of_learn2learn}, {"learn2learn's loop": loop_of_learn2learn}
    try:
        prototypes["easyfsl"], loops["easyfsl's loop"] = prototypes_of_easyfsl(), loop_of_easyfsl
    except ImportError as error:
        print(f"easyfsl is missing: {error}; see the head of this file")
    found = [Line("prototypical", dim, 5, 1, 10_000, prototypes, bar, loops) for dim, bar in ((64, 80), (1600, 20))]
    for ways, shots in ((5, 1), (5, 5), (20, 1)):
        found.append(Line("ridge", 64, ways, shots, 10_000, RIDGE, 25, {}))
        found.append(Line("logistic", 64, ways, shots, 4000, LOGISTIC, 15, {}))
        found.append(Line("svm", 64, ways, shots, 2000, SVC, None, {}))
    return found


def features_of(dim: int) -> Tensor:
    """Features of every image, sorted by class."""
    generator = torch.Generator().manual_seed(dim)
    centres = torch.randn(CLASSES, 1, dim, generator=generator)
    return (centres + 1.5 * torch.randn(CLASSES, EACH, dim, generator=generator)).flatten(0, 1)


def predictions(features: Tensor, drawn: EpisodeIndices, peer: Peer) -> Tensor:
    """Classes that a peer predicts, (episodes, ways * queries); the loop that is timed."""
    ways, queries = drawn.query.shape[1:]
    labels = torch.arange(ways).repeat_interleave(drawn.support.shape[2])
    truth, said = torch.arange(ways).repeat_interleave(queries), []
    for support, query in zip(drawn.support, drawn.query, strict=True):
        indices = torch.from_numpy(support.reshape(-1)), torch.from_numpy(query.reshape(-1))
        said.append(peer(features[indices[0]], labels, features[indices[1]]))
        (said[-1] == truth).sum().item()
    return torch.stack(said)


def compare(line: Line, rounds: int) -> None:
    """Print one comparison."""
    features, labels = features_of(line.dim), np.arange(CLASSES * EACH) // EACH
    sampler = EpisodeSampler(labels, ways=line.ways, shots=line.shots, queries=QUERIES, seed=0)
    learner, drawn = make_learner(line.learner), sampler[0:FEW]
    assert isinstance(learner, FeatureLearner)
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: evaluate_features(features, labels, learner, sampler, line.episodes)
    }
    for name, loop in line.loops.items():
        answer = loop(features, labels, (line.ways, line.shots, QUERIES))
        works[name] = lambda answer=answer: [answer() for _ in range(FEW)]
    for name, peer in line.peers.items():
        works[name] = lambda peer=peer: limited(features, drawn, peer)
    interleaved(works, 1)
    seconds = interleaved(works, rounds)
    mine = ranked(learner, features, drawn)
    ours = line.episodes / seconds["ours"]
    print(f"\n{line.learner}, {line.ways}w{line.shots}s {QUERIES} queries, {line.dim} features", end=": ")
    print(f"{np.median(ours):,.0f} episodes/s ({ours.min():,.0f} to {ours.max():,.0f}), {line.episodes:,} a round")
    for name in [*line.loops, *line.peers]:
        theirs = FEW / seconds[name]
        ratio, said = ours / theirs, ""
        if line.bar is not None and (name in line.loops or not line.loops):
            said = f"; bar {line.bar:g} {'PASS' if np.median(ratio) >= line.bar else 'FAIL'}"
        if name in line.peers:
            differ = int((limited(features, drawn, line.peers[name]) != mine).sum())
            said += f"; {differ} of {mine.numel():,} predictions differ"
        print(
            f"  {name:18} {np.median(theirs):7,.0f} episodes/s ({theirs.min():,.0f} to {theirs.max():,.0f}); "
            f"ours / this {np.median(ratio):6.1f} ({ratio.min():.1f} to {ratio.max():.1f}){said}"
        )


def ranked(learner: FeatureLearner, features: Tensor, drawn: EpisodeIndices) -> Tensor:
    """Our classes, by what ``evaluate_features`` calls."""
    answer = learner.classify
    if isinstance(learner, DistanceLearner):
        features, answer = learner.prepare(features), learner.rank
    query = features[torch.from_numpy(drawn.query)].flatten(1, 2)
    return answer(features[torch.from_numpy(drawn.support)], query).argmax(-1)


def limited(features: Tensor, drawn: EpisodeIndices, peer: Peer) -> Tensor:
    """Predictions of a peer, with one thread for numpy's and scikit-learn's products."""
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predictions(features, drawn, peer)


def main(rounds: int) -> None:
    """Print everything."""
    keep_freed_memory()
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load[0]:.1f} {load[1]:.1f} {load[2]:.1f}, "
          f"torch {torch.__version__}; median of {rounds} rounds (least to most)")  # fmt: skip
    for line in lines():
        compare(line, rounds)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
