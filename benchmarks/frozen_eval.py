"""Episodes a second on cached features: ours, other libraries' loops, one scikit-learn fit an episode, in one run.

Run: python benchmarks/frozen_eval.py [rounds]      (5 rounds take about 5 minutes)

easyfsl is not needed for anything else, so give it a folder of its own; without it its line is left out:
pip install --no-deps --target FOLDER easyfsl==1.5.0 tqdm "pandas<3" pytz python-dateutil tzdata six
PYTHONPATH=FOLDER python benchmarks/frozen_eval.py

13,180 images of 659 classes (those of Omniglot's evaluation part), random features: a class's centre plus 1.5 times as
much noise. Ours is the whole of ``evaluate_features``, which draws the episodes and checks the features too: 10,000
episodes, or as many as the line says for heads that take longer. The others are given the episodes' indices, drawn
ahead; what is timed of theirs is to gather the features of an episode, to fit, to predict and to count, for FEW of the
same episodes. Everything takes its turn in every round; a ratio is of one round: its median, and from the least to the
most. The classes that both predict are compared image by image on those FEW episodes.
scikit-learn has one thread here; all others have two where there are two.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import metalearn  # noqa: F401  (before torch: it says how torch's threads wait)

# isort: split
import torch
from measuring import interleaved
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits
from torch import Tensor

from metalearn.evaluate import evaluate_features
from metalearn.gradient import clone_module  # noqa: F401  (imports learn2learn without gym's banner)
from metalearn.learners import FeatureLearner, make_learner
from tasks.episodes import EpisodeIndices, EpisodeSampler

FEW = 60  # episodes of the others in a round
CLASSES, EACH, QUERIES = 659, 20, 15
Peer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Support features (n, d), their labels and query features (q, d) -> the classes that it predicts."""


class Line(NamedTuple):
    """A comparison: a learner with its options, at how many features and ways and shots, and what it has to reach."""

    learner: str
    options: dict[str, object]
    dim: int
    ways: int
    shots: int
    episodes: int
    peers: dict[str, Peer]
    bar: float | None


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
LOGISTIC = {"scikit-learn": scikit_learn(lambda: LogisticRegression(C=1.0, tol=1e-6, max_iter=1000))}
SVC = {
    "scikit-learn": scikit_learn(
        lambda: LinearSVC(multi_class="crammer_singer", C=0.1, fit_intercept=False, tol=1e-6, max_iter=100_000), True
    ),
    "learn2learn": svm_of_learn2learn,
}


def lines() -> list[Line]:
    """Return what is compared; easyfsl where it is installed."""
    prototypes = {"learn2learn": prototypes_of_learn2learn}
    try:
        prototypes["easyfsl"] = prototypes_of_easyfsl()
    except ImportError as error:
        print(f"easyfsl is missing: {error}; see the head of this file")
    found = [Line("prototypical", {}, dim, 5, 1, 10_000, prototypes, bar) for dim, bar in ((64, 80), (1600, 20))]
    for ways, shots in ((5, 1), (5, 5), (20, 1)):
        found.append(Line("ridge", {}, 64, ways, shots, 10_000, RIDGE, 25))
        found.append(Line("logistic", {}, 64, ways, shots, 4000, LOGISTIC, 15))
        found.append(Line("svm", {}, 64, ways, shots, 2000, SVC, None))
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
    learner, drawn = make_learner(line.learner, **line.options), sampler[0:FEW]
    assert isinstance(learner, FeatureLearner)
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: evaluate_features(features, labels, learner, sampler, line.episodes)
    }
    for name, peer in line.peers.items():
        works[name] = lambda peer=peer: limited(features, drawn, peer)
    interleaved(works, 1)
    seconds = interleaved(works, rounds)
    support, query = features[torch.from_numpy(drawn.support)], features[torch.from_numpy(drawn.query)]
    mine = learner.classify(support, query.flatten(1, 2)).argmax(-1)
    ours = line.episodes / seconds["ours"]
    print(f"\n{line.learner}, {line.ways}w{line.shots}s {QUERIES} queries, {line.dim} features", end=": ")
    print(f"{np.median(ours):,.0f} episodes/s ({ours.min():,.0f} to {ours.max():,.0f}), {line.episodes:,} a round")
    for name, peer in line.peers.items():
        theirs = FEW / seconds[name]
        ratio = ours / theirs
        differ = int((limited(features, drawn, peer) != mine).sum())
        verdict = "" if line.bar is None else f"  bar {line.bar:g} {'PASS' if np.median(ratio) >= line.bar else 'FAIL'}"
        print(
            f"  {name:13} {np.median(theirs):8,.0f} episodes/s ({theirs.min():,.0f} to {theirs.max():,.0f}); "
            f"ours / this {np.median(ratio):6.1f} ({ratio.min():.1f} to {ratio.max():.1f}){verdict}; "
            f"{differ} of {mine.numel():,} predictions differ"
        )


def limited(features: Tensor, drawn: EpisodeIndices, peer: Peer) -> Tensor:
    """Predictions of a peer, with one thread for numpy's and scikit-learn's products."""
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predictions(features, drawn, peer)


def main(rounds: int) -> None:
    """Print everything."""
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load[0]:.1f} {load[1]:.1f} {load[2]:.1f}, "
          f"torch {torch.__version__}; median of {rounds} rounds (least to most)")  # fmt: skip
    for line in lines():
        compare(line, rounds)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
