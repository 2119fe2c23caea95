"""Closed-form learners against scikit-learn and learn2learn."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.linear_model import Ridge as SkRidge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import nn

from metalearn.errors import UserError
from metalearn.learners import Logistic, NearestNeighbour, Prototypical, Ridge, make_learner
from metalearn.learners.base import evaluating


def episodes(b=4, ways=5, shots=3, q=20, d=8, seed=0, dtype=torch.float64, offset=0.0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(b, ways, 1, d, generator=g, dtype=dtype)
    support = centres + torch.randn(b, ways, shots, d, generator=g, dtype=dtype) + offset
    query = torch.randn(b, q, d, generator=g, dtype=dtype) * 1.5 + offset
    return support, query


def sk_inputs(support, query):
    """One (X, y, Q) an episode."""
    ways, shots = support.shape[1:3]
    y = torch.arange(ways).repeat_interleave(shots).numpy()
    return [(s.flatten(0, 1).numpy(), y, q.numpy()) for s, q in zip(support, query, strict=True)]


@pytest.mark.parametrize("shots", [1, 5])
def test_prototypical_is_nearest_centroid(shots):
    support, query = episodes(shots=shots)
    said = Prototypical().classify(support, query).argmax(-1)
    for (x, y, q), mine in zip(sk_inputs(support, query), said, strict=True):
        assert (NearestCentroid().fit(x, y).predict(q) == mine.numpy()).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_prototypical_logits_equal_learn2learn(metric):
    from learn2learn.nn import PrototypicalClassifier

    support, query = episodes()
    mine = Prototypical(metric=metric).classify(support, query)
    labels = torch.arange(5).repeat_interleave(3)
    for s, q, logits in zip(support, query, mine, strict=True):
        theirs = PrototypicalClassifier(s.flatten(0, 1), labels, distance=metric)(q)
        torch.testing.assert_close(logits, theirs, rtol=1e-7, atol=1e-7)  # theirs adds 1e-8 to norms


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("shots", [1, 4])
def test_nearest_neighbour_is_kneighbours(metric, shots):
    support, query = episodes(shots=shots)
    said = NearestNeighbour(metric=metric).classify(support, query).argmax(-1)
    for (x, y, q), mine in zip(sk_inputs(support, query), said, strict=True):
        assert (KNeighborsClassifier(1, metric=metric).fit(x, y).predict(q) == mine.numpy()).all()


def test_one_shot_prototypes_are_nearest_neighbours():
    support, query = episodes(shots=1)
    torch.testing.assert_close(Prototypical().classify(support, query), NearestNeighbour().classify(support, query))


def test_distances_survive_a_large_offset_in_float32():
    support, query = episodes(shots=1)
    exact = Prototypical().classify(support, query)
    shifted = Prototypical().classify((support + 1000).float(), (query + 1000).float())
    torch.testing.assert_close(shifted.double(), exact, rtol=1e-3, atol=1e-2)


def test_normalise_forgets_lengths():
    support, query = episodes()
    stretch = 1 + torch.arange(20.0)[:, None].double()
    for kind in ("prototypical", "nearest_neighbour"):
        learner = make_learner(kind, normalise=True)
        torch.testing.assert_close(learner.classify(support, query), learner.classify(support * 3, query * stretch))


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("shots,d", [(1, 64), (5, 8)])
@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_is_sklearn(penalty, shots, d, intercept):
    support, query = episodes(shots=shots, d=d, offset=0.7)
    mine = Ridge(penalty=penalty, intercept=intercept).classify(support, query)
    for (x, y, q), logits in zip(sk_inputs(support, query), mine, strict=True):
        onehot = torch.eye(5, dtype=torch.float64).numpy()[y]
        theirs = SkRidge(alpha=penalty, fit_intercept=intercept).fit(x, onehot).predict(q)
        torch.testing.assert_close(logits, torch.from_numpy(theirs), rtol=1e-8, atol=1e-9)
        if intercept:  # without one, the classifier's targets -1, 1 are not an affine image of 0, 1
            classes = RidgeClassifier(alpha=penalty).fit(x, y).predict(q)
            assert (classes == logits.argmax(-1).numpy()).all()


def test_ridge_learns_penalty_and_scale():
    learner = Ridge(nn.Linear(8, 4).double(), learnable=True)
    support, query = episodes(b=1)
    labels = torch.arange(5).repeat_interleave(3)
    loss, _ = learner.meta_loss(support.flatten(0, 2), labels, query[0], torch.arange(20) % 5)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())
    assert not Ridge().log_penalty.requires_grad


@pytest.mark.parametrize("C", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("shots,d", [(1, 64), (5, 8)])
@pytest.mark.parametrize("intercept", [True, False])
def test_logistic_is_sklearn(C, shots, d, intercept):
    support, query = episodes(shots=shots, d=d, offset=0.7)
    mine = Logistic(C=C, intercept=intercept).classify(support, query)
    for (x, y, q), logits in zip(sk_inputs(support, query), mine, strict=True):
        model = LogisticRegression(C=C, fit_intercept=intercept, tol=1e-12, max_iter=20_000, solver="newton-cg")
        theirs = torch.from_numpy(model.fit(x, y).predict_proba(q))
        torch.testing.assert_close(logits.softmax(-1), theirs, rtol=1e-4, atol=1e-5)
        assert (logits.argmax(-1) == theirs.argmax(-1)).all()


def test_logistic_meets_its_own_optimality_condition():
    """At the optimum W = C X'(Y - P), and the intercept's gradient vanishes: seen from the logits alone."""
    support, _ = episodes(shots=5, offset=0.7)
    x = support.flatten(1, 2)
    learner = Logistic(C=10.0)
    y = torch.eye(5, dtype=torch.float64).repeat_interleave(5, 0)
    residual = y - learner.classify(support, x).softmax(-1)
    basis = torch.cat([torch.zeros(1, 8), torch.eye(8)]).double().expand(4, -1, -1)
    logits = learner.classify(support, basis)
    weights = logits[:, 1:] - logits[:, :1]
    torch.testing.assert_close(weights, 10.0 * x.mT @ residual, rtol=0, atol=1e-5)
    torch.testing.assert_close(residual.sum(1), torch.zeros(4, 5).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_logistic_converges_at_any_scale_and_on_constant_features(scale):
    support, query = episodes(ways=20, shots=5, b=2, d=64)
    assert Logistic().classify(support * scale, query * scale).isfinite().all()
    even = Logistic().classify(torch.ones(2, 5, 3, 8) * scale, torch.ones(2, 4, 8) * scale).softmax(-1)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 5))


def test_logistic_does_not_depend_on_its_batch():
    support, query = episodes(b=6, shots=2)
    support[3] *= 30  # converges at another time than the others
    together = Logistic().classify(support, query)
    alone = torch.cat([Logistic().classify(s[None], q[None]) for s, q in zip(support, query, strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_logistic_says_when_it_has_not_converged():
    support, query = episodes()
    with pytest.raises(UserError, match="did not converge on 4 of 4 episodes in 1 Newton steps.*max_iterations"):
        Logistic(C=100.0, max_iterations=1).classify(support, query)


def test_adapt_takes_any_order_and_refuses_uneven_classes():
    support, query = episodes(b=1)
    images, labels = support[0].flatten(0, 1), torch.arange(5).repeat_interleave(3)
    shuffle = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    learner = Prototypical()
    expected = learner.classify(support, query)[0]
    torch.testing.assert_close(learner.adapt(images[shuffle], labels[shuffle])(query[0]), expected)
    with pytest.raises(UserError, match=r"are \{0: 3, 1: 2\}.*same number of images"):
        learner.adapt(images[:5], labels[:5])
    for bad in ([-1, 0, 1], [1, 2, 3], [0, 2, 2]):
        with pytest.raises(UserError, match=r"allowed are labels 0\.\.ways-1"):
            learner.adapt(images[:3], torch.tensor(bad))


def test_evaluating_restores_each_mode():
    net = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout()).train()
    net[0].eval()
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, False, True]


def test_make_learner_names_what_is_wrong():
    assert isinstance(make_learner("metalearn.learners.ridge:Ridge", penalty=2.0), Ridge)
    with pytest.raises(UserError, match="unknown learner 'ridg'; did you mean 'ridge'.*package.module:Class"):
        make_learner("ridg")
    with pytest.raises(UserError, match="'ridge': unknown key 'penalti'; did you mean 'penalty'.*allowed: intercept, "):
        make_learner("ridge", penalti=1.0)
    with pytest.raises(UserError, match="cannot import 'nowhere': No module named"):
        make_learner("nowhere:Thing")
    with pytest.raises(UserError, match="'torch.nn:Linear' is not called, for it does not say that it makes"):
        make_learner("torch.nn:Linear")
    with pytest.raises(UserError, match="'prototypical': metric: unknown value 'euclid'; did you mean 'euclidean'"):
        make_learner("prototypical", metric="euclid")
    with pytest.raises(UserError, match=r"'ridge': intercept: given 'yes' \(text\)"):
        make_learner("ridge", intercept="yes")
    assert make_learner("ridge", penalty=2).penalty == 2.0
    with pytest.raises(UserError, match="ridge: penalty=-1.0 is not a positive number"):
        make_learner("ridge", penalty=-1.0)
    with pytest.raises(UserError, match="NearestNeighbour cannot be meta-trained: it has no extractor"):
        make_learner("nearest_neighbour").meta_loss(*[torch.zeros(1, 2), torch.zeros(1).long()] * 2)
