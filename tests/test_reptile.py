"""Reptile against a plain loop with torch's own optimisers on copies of the network, one task after the other."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn.errors import UserError
from metalearn.learners import make_learner
from metalearn.meta_step import meta_step

WAYS, SHOTS, TASKS = 3, 3, 4
OPTIMISERS = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr),
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr, betas=(0.0, 0.999)),
}


class Body(nn.Module):
    """A convolution without a bias, which batch norm would leave to Adam as rounding; batch norm; a linear layer."""

    feature_dim = 5

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.Tanh()]
            layers += [nn.Flatten(), nn.Linear(36, 5)]
        self.net = nn.Sequential(*layers)

    def forward(self, images):
        return self.net(images)


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    support, query = (torch.rand(TASKS, n, 1, 6, 6, generator=g, dtype=torch.float64) for n in (WAYS * SHOTS, 6))
    return support, torch.arange(WAYS).repeat_interleave(SHOTS), query, torch.arange(6) % WAYS


def build(**options):
    settings = {"inner_lr": 0.03, "adapt_steps": 7, "inner_batch": 4, "ways": WAYS, **options}
    return make_learner("reptile", Body(), **settings).double()


def trained(learner, images, labels, steps):
    """A copy of its network after training on a task by torch's optimiser: eval mode, so running statistics."""
    network = copy.deepcopy(learner.network).eval()
    optimiser = OPTIMISERS[learner.inner_optimizer](network.parameters(), learner.inner_lr)
    for rows in learner.batches(labels, steps):
        optimiser.zero_grad()
        F.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimiser.step()
    return network


@pytest.mark.parametrize("engine", ["batched", "learn2learn"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("inner_batch", [4, None])
def test_gradient_is_theta_minus_phi_of_a_plain_loop(engine, optimizer, inner_batch):
    """Losses are the queries' at phi; the gradient of their sum is the sum of theta - phi."""
    learner = build(engine=engine, inner_optimizer=optimizer, inner_batch=inner_batch).eval()
    support, labels, query, truth = batch()
    losses, correct = learner.meta_losses(support, labels, query, truth)
    found = torch.autograd.grad(losses.sum(), list(learner.parameters()))
    networks = [trained(learner, images, labels, 7) for images in support]
    said = [network(images) for network, images in zip(networks, query, strict=True)]
    expected = torch.stack([F.cross_entropy(logits, truth) for logits in said])
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-9)
    assert correct.tolist() == [int((logits.argmax(1) == truth).sum()) for logits in said]
    phis = zip(*(network.parameters() for network in networks), strict=True)
    for gradient, theta, phi in zip(found, learner.parameters(), phis, strict=True):
        torch.testing.assert_close(gradient, sum(theta - one for one in phi), rtol=0, atol=1e-9)
        assert gradient.abs().max() > 1e-3


def test_a_step_of_plain_sgd_is_algorithm_1():
    """``theta + epsilon mean(phi - theta)`` by the training loop's own step."""
    learner = build().eval()
    support, labels, query, truth = batch()
    networks = [trained(learner, images, labels, 7) for images in support]
    before = [p.detach().clone() for p in learner.parameters()]
    episodes = iter([(one, labels, other, truth) for one, other in zip(support, query, strict=True)])
    meta_step(learner, torch.optim.SGD(learner.parameters(), lr=0.25), episodes, 0, TASKS, tasks_at_once=2)
    phis = zip(*(network.parameters() for network in networks), strict=True)
    for after, theta, phi in zip(learner.parameters(), before, phis, strict=True):
        torch.testing.assert_close(after, theta + 0.25 * sum(one - theta for one in phi) / TASKS, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["running", "support", "query_batch"])
def test_both_engines_are_one_learner(mode):
    """Losses, gradients, running statistics in train mode, what an adapted learner says, and each step of it."""
    one, other = (build(engine=engine, batch_norm=mode).train() for engine in ("batched", "learn2learn"))
    tasks = batch()
    found = []
    for learner in (one, other):
        losses, _ = learner.meta_losses(*tasks)
        found.append([losses, *torch.autograd.grad(losses.sum(), list(learner.parameters())), *learner.buffers()])
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        found[-1].append(learner.adapt(tasks[0][0], tasks[1])(tasks[2][0]))
        found[-1] += [value for step in learner.trace(tasks[0][0], tasks[1], tasks[2][0]) for value in step]
        assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert len(found[0]) == len(found[1]) > 100
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    assert one.transductive == (mode == "query_batch")


def test_batches_go_through_the_support_set():
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)
    batches = torch.stack(build().batches(labels, 9)).flatten()
    assert batches.shape == (36,) and (batches.view(4, 9).sort(1).values == torch.arange(9)).all()
    assert torch.equal(torch.stack(build().batches(labels, 9)).flatten(), batches)
    assert not torch.equal(torch.stack(build(seed=1).batches(labels, 9)).flatten(), batches)
    for size in (None, 9, 20):
        assert all((rows.sort().values == torch.arange(9)).all() for rows in build(inner_batch=size).batches(labels, 3))


def test_frozen_parameters_stay_and_what_it_refuses():
    learner = build().eval()
    learner.extractor.requires_grad_(False)
    losses, _ = learner.meta_losses(*batch())
    losses.sum().backward()
    assert all(p.grad is None for p in learner.extractor.parameters())
    expected = sum(learner.head.bias - trained_bias for trained_bias in biases(learner))
    torch.testing.assert_close(learner.head.bias.grad, expected, rtol=0, atol=1e-9)
    with pytest.raises(UserError, match="reptile: inner_batch=0 is not a positive number"):
        build(inner_batch=0)
    with pytest.raises(UserError, match="reptile needs an extractor, a module with an integer feature_dim"):
        make_learner("reptile")
    with pytest.raises(UserError, match=r"'reptile': inner_optimizer: unknown value 'rmsprop'; allowed: adam, sgd"):
        build(inner_optimizer="rmsprop")
    with pytest.raises(UserError, match="'reptile': unknown key 'first_order'; allowed: adapt_steps"):
        build(first_order=True)


def biases(learner):
    support, labels, _, _ = batch()
    return [trained(learner, images, labels, 7)[1].bias.detach() for images in support]
