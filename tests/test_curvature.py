"""Learned maps of gradients: against dense Kronecker products, from the identity on, kept, and what they refuse."""

import pytest
import torch
from test_inner import Smooth, batch, found, off, scattered
from torch import nn

from metalearn.batched.run import stored
from metalearn.errors import UserError
from metalearn.learners import make_learner
from metalearn.transforms import KroneckerFactors, MetaCurvatureFactors

WAYS = 3
SHAPES = [(5,), (4, 3), (4, 3, 2, 5)]


def dense(transform, shape):
    """The map of a flattened gradient, as a matrix: a Kronecker product over the axes of the parameter."""
    out, into, places = shape[0], (*shape, 1)[1], torch.Size(shape[2:]).numel()
    eye = [torch.eye(size, dtype=torch.float64) for size in (out, into, places)]
    if isinstance(transform, KroneckerFactors):
        left, right = (factor.T @ factor for factor in (transform.left, transform.right))
        return torch.kron(eye[0], torch.kron(left, right)) if len(shape) == 4 else torch.kron(left, right)
    if len(shape) == 1:
        return torch.diag(transform.mc)
    last = transform.mc_f if len(shape) == 4 else eye[2]
    return torch.kron(transform.mc_in, torch.kron(transform.mc_out.T.contiguous(), last))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [MetaCurvatureFactors, KroneckerFactors])
def test_a_transform_is_a_kronecker_product(kind, shape):
    g = torch.Generator().manual_seed(0)
    transform = kind("w", torch.zeros(shape, dtype=torch.float64), lr=0.3)
    gradients = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    laid_out = torch.stack([stored(one) for one in gradients])
    torch.testing.assert_close(transform(laid_out), 0.3 * laid_out)
    with torch.no_grad():
        for factor in transform.parameters():
            factor.copy_(torch.randn(factor.shape, generator=g, dtype=torch.float64))
    expected = [0.3 * (dense(transform, shape) @ one.flatten()).view(shape) for one in gradients]
    torch.testing.assert_close(transform(laid_out), torch.stack([stored(one) for one in expected]))


@pytest.mark.parametrize("kind", ["meta_curvature", "kfo"])
def test_it_begins_as_maml_and_learns_by_finite_differences(kind):
    tasks, options = batch(size=8), {"ways": WAYS, "adapt_steps": 2}
    learner, maml = (make_learner(one, Smooth(), **options).double().eval() for one in (kind, "maml"))
    (losses, gradients, _), (expected, theirs, _) = found(learner, tasks), found(maml, tasks)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-12)
    assert off(gradients[: len(theirs)], theirs) < 1e-12
    learned = dict(zip(dict(learner.named_parameters()), gradients, strict=True))
    assert all(gradient.any() for name, gradient in learned.items() if name.startswith("learned."))
    inputs = tuple(scattered(learner).parameters())
    assert torch.autograd.gradcheck(lambda *_: learner.meta_losses(*tasks)[0], inputs, fast_mode=True)


@pytest.mark.parametrize("kind", ["meta_curvature", "kfo"])
def test_factors_are_weights_of_the_learner(kind):
    learner, other = scattered(make_learner(kind, Smooth(), ways=WAYS)), make_learner(kind, Smooth(), ways=WAYS)
    other.load_state_dict(learner.state_dict())
    support, labels, query, _ = (value[0] if value.dim() > 1 else value for value in batch(size=8, dtype=torch.float32))
    said, again = (one.adapt(support, labels)(query) for one in (learner, other))
    assert torch.equal(said, again)
    assert not torch.allclose(said, make_learner(kind, Smooth(), ways=WAYS).adapt(support, labels)(query))


class Strange(nn.Module):
    """A parameter of three dimensions."""

    feature_dim = 2

    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(1, 2, 3)


@pytest.mark.parametrize("kind", ["meta_curvature", "kfo"])
def test_what_it_refuses(kind):
    with pytest.raises(UserError, match=r"no transform for the gradients of 0\.net\.weight, of shape \(2, 1, 3\): al"):
        make_learner(kind, Strange())
    with pytest.raises(UserError, match=f"{kind} needs an extractor, a module with an integer feature_dim"):
        make_learner(kind)
    with pytest.raises(UserError, match=f"{kind}: inner_lr=0.0 is not a positive number"):
        make_learner(kind, Smooth(), inner_lr=0.0)
