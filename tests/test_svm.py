"""The support vector machine against scikit-learn, a quadratic program and learn2learn's SVClassifier."""

import cvxpy
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.svm import LinearSVC
from torch import nn

from metalearn.errors import UserError
from metalearn.learners import SVM, make_learner
from metalearn.learners.batches import one_hot
from metalearn.learners.dual_svm import DualSVM, project, solve, solve_on_face
from metalearn.learners.svm import MetaOptNet


def episodes(b=3, ways=5, shots=3, q=20, d=8, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(b, ways, 1, d, generator=g, dtype=torch.float64)
    support = centres + spread * torch.randn(b, ways, shots, d, generator=g, dtype=torch.float64)
    return support, 1.5 * torch.randn(b, q, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("ways,shots,d", [(5, 1, 64), (5, 5, 8), (20, 1, 16)])
@pytest.mark.parametrize("C", [0.1, 1.0])
def test_it_is_scikit_learns_on_augmented_features(ways, shots, d, C):
    support, query = episodes(ways=ways, shots=shots, d=d)
    logits = SVM(C=C, tolerance=1e-9).classify(support, query)
    y = np.arange(ways).repeat(shots)
    for s, q, mine in zip(support, query, logits, strict=True):
        x = np.concatenate([s.flatten(0, 1).numpy(), np.eye(ways * shots)], 1)
        model = LinearSVC(multi_class="crammer_singer", C=C, fit_intercept=False, tol=1e-10, max_iter=200_000)
        theirs = q.numpy() @ model.fit(x, y).coef_[:, :d].T
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-5)
        assert (mine.argmax(1).numpy() == theirs.argmax(1)).all()


@pytest.mark.parametrize("ways,shots,d", [(5, 1, 64), (4, 5, 6)])
def test_its_dual_is_the_solution_of_the_quadratic_program(ways, shots, d):
    support, _ = episodes(b=2, ways=ways, shots=shots, d=d)
    x = support.flatten(1, 2)
    y = one_hot(ways, shots, x)
    dual, converged = solve(x @ x.mT, y, 0.3, 1e-9, 20_000)
    assert converged.all()
    for one, mine in zip(x.numpy(), dual, strict=True):
        a = cvxpy.Variable((ways * shots, ways))
        energy = (cvxpy.sum_squares(one.T @ a) + cvxpy.sum_squares(a)) / 2
        program = cvxpy.Problem(cvxpy.Minimize(energy - cvxpy.sum(cvxpy.multiply(y.numpy(), a))),
                                [a <= 0.3 * y.numpy(), cvxpy.sum(a, axis=1) == 0])  # fmt: skip
        program.solve(solver=cvxpy.CLARABEL)
        np.testing.assert_allclose(mine.numpy(), a.value, atol=1e-6)


@pytest.fixture
def l2l_in_float64(l2l):
    """Its constants are of the default type, and in float32 its solver can stop 1e-3 short."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield l2l
    torch.set_default_dtype(before)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("ways,shots", [(5, 1), (5, 4)])
def test_it_is_learn2learns_classifier(l2l_in_float64, ways, shots, normalise):
    support, query = episodes(ways=ways, shots=shots, d=16)
    labels = torch.arange(ways).repeat_interleave(shots)
    logits = SVM(normalise=normalise, tolerance=1e-8).classify(support, query)
    for s, q, mine in zip(support, query, logits, strict=True):
        theirs = l2l_in_float64.nn.SVClassifier(s.flatten(0, 1), labels, normalize=normalise, max_iters=100)
        torch.testing.assert_close(mine, theirs(q), rtol=0, atol=1e-6)


def test_its_gradient_is_learn2learns(l2l_in_float64):
    support, query = episodes(b=1, d=16)
    labels, weights = torch.arange(5).repeat_interleave(3), torch.linspace(-1, 1, 100).reshape(20, 5)
    mine = support.clone().requires_grad_()
    (SVM(tolerance=1e-10).classify(mine, query)[0] * weights).sum().backward()
    other = support[0].flatten(0, 1).requires_grad_()
    theirs = l2l_in_float64.nn.SVClassifier(other, labels, max_iters=100)
    (theirs(query[0]) * weights).sum().backward()
    torch.testing.assert_close(mine.grad.flatten(0, 2), other.grad, rtol=0, atol=1e-5)


def meta_trainable():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6))
    return MetaOptNet(body, scale=3.0, tolerance=1e-10).double()


def meta_task():
    support, query = episodes(b=1, ways=4, shots=3, q=12)
    labels = torch.arange(4).repeat_interleave(3)
    return support[0].flatten(0, 1), labels, query[0], torch.arange(12) % 4


def test_metaoptnets_meta_gradient_is_that_through_learn2learns_classifier(l2l_in_float64):
    """Of the extractor and of the scale, through qpth."""
    learner, (support, labels, query, truth) = meta_trainable(), meta_task()
    parameters = [p for p in learner.parameters() if p.requires_grad]
    loss, correct = learner.meta_loss(support, labels, query, truth)
    mine = torch.autograd.grad(loss, parameters)
    body, theirs = learner.extractor, l2l_in_float64.nn.SVClassifier(max_iters=100)
    theirs.fit_(body(support), labels)
    logits = 3 * learner.log_scale.exp() * theirs(body(query))
    expected = F.cross_entropy(logits, truth)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    assert correct == int((logits.argmax(1) == truth).sum())
    for one, other in zip(mine, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert one.abs().max() > 1e-2


def test_metaoptnets_meta_gradient_is_that_of_finite_differences():
    learner, task = meta_trainable(), meta_task()
    inputs = tuple(p for p in learner.parameters() if p.requires_grad)
    assert len(inputs) == 5  # two layers and the scale
    assert torch.autograd.gradcheck(lambda *_: learner.meta_loss(*task)[0], inputs, atol=1e-6)


def test_gradcheck_of_the_dual_where_some_are_at_the_bound():
    support, _ = episodes(b=2, ways=3, shots=2, d=4, spread=2.0)
    x = support.flatten(1, 2)
    y = one_hot(3, 2, x)
    dual, _ = solve(x @ x.mT, y, 0.2, 1e-13, 20_000)
    bound = (0.2 * y - dual) == 0
    assert bound.any() and not bound.all()

    def solved(x):
        return DualSVM.apply(x @ x.mT, y, 0.2, 1e-13, 20_000)[0]

    assert torch.autograd.gradcheck(solved, x.requires_grad_(), atol=1e-6)


def test_convergence_is_what_it_says():
    """However loose the tolerance, A is no further from the optimum."""
    support, _ = episodes(b=6, ways=5, shots=4, d=16)
    x = support.flatten(1, 2)
    y = one_hot(5, 4, x)
    best, _ = solve(x @ x.mT, y, 0.5, 1e-12, 50_000)
    for tolerance in (1e-1, 1e-2, 1e-4):
        found, converged = solve(x @ x.mT, y, 0.5, tolerance, 50_000)
        assert converged.all()
        assert ((found - best).square().sum((1, 2)).sqrt() <= tolerance * 0.5 * 20**0.5).all()
        assert ((found <= 0.5 * y + 1e-12) & (found.sum(-1, keepdim=True).abs() < 1e-12)).all()


def test_projection_is_the_nearest_point():
    g = torch.Generator().manual_seed(1)
    y = one_hot(4, 2, torch.zeros(1, dtype=torch.float64))
    a = torch.randn(3, 8, 4, generator=g, dtype=torch.float64)
    found = project(a, y, 0.3)
    for one, mine in zip(a.numpy(), found, strict=True):
        p = cvxpy.Variable((8, 4))
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(p - one)),
                      [p <= 0.3 * y.numpy(), cvxpy.sum(p, axis=1) == 0]).solve(solver=cvxpy.CLARABEL)  # fmt: skip
        np.testing.assert_allclose(mine.numpy(), p.value, atol=1e-6)


def test_no_direction_is_free_where_all_is_at_the_bound():
    kernel, free = torch.eye(4).double()[None], torch.zeros(1, 4, 2, dtype=torch.bool)
    assert (solve_on_face(kernel, free, torch.ones(1, 4, 2).double()) == 0).all()


def test_learned_scale_and_what_it_refuses():
    support, query = episodes()
    learner = SVM(learnable=True, scale=2.0)
    learner.classify(support, query).square().sum().backward()
    assert learner.log_scale.grad.abs() > 0 and not SVM().log_scale.requires_grad
    torch.testing.assert_close(learner.classify(support, query), 2 * SVM().classify(support, query))
    with pytest.raises(UserError, match="svm did not converge on 3 of 3 episodes in 1 iterations .*set normalise"):
        SVM(max_iterations=1).classify(support, query)
    with pytest.raises(UserError, match="svm: C=-1.0 is not a positive number"):
        SVM(C=-1.0)
    with pytest.raises(UserError, match="'metaoptnet': unknown key 'learnable'; allowed: C, max_iterations, normalise"):
        make_learner("metaoptnet", learnable=False)
