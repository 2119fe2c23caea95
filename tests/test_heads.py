"""Matching Networks, SimpleShot, R2D2, Baseline heads and fine-tuning against numpy and plain torch loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn.errors import UserError
from metalearn.learners import (
    R2D2,
    Baseline,
    BaselinePlusPlus,
    FeatureLearner,
    FineTune,
    MatchingNetworks,
    Prototypical,
    Ridge,
    SimpleShot,
    make_learner,
)

WAYS, SHOTS, DIM = 5, 3, 8
HEADS = ["matching", "simpleshot", "r2d2", "svm", "baseline", "baseline++"]


def episodes(b=3, shots=SHOTS, q=11, d=DIM, seed=0, offset=0.3):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(b, WAYS, 1, d, generator=g, dtype=torch.float64)
    support = centres + torch.randn(b, WAYS, shots, d, generator=g, dtype=torch.float64) + offset
    return support, 1.5 * torch.randn(b, q, d, generator=g, dtype=torch.float64) + offset


def ready(kind, extractor=None, **options):
    """A learner that can be used: with training features where it needs them."""
    learner = make_learner(kind, extractor, **options)
    if getattr(learner, "needs_base", False):
        learner.fit_base(torch.linspace(-1, 1, 7 * DIM, dtype=torch.float64).reshape(7, DIM))
    return learner


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_matching_networks_by_hand(scale):
    support, query = episodes()
    logits = MatchingNetworks(scale=scale).classify(support, query)
    for s, q, mine in zip(support.numpy(), query.numpy(), logits, strict=True):
        attention = np.exp(scale * unit(q) @ unit(s.reshape(-1, DIM)).T)
        attention /= attention.sum(1, keepdims=True)
        by_class = attention.reshape(len(q), WAYS, SHOTS).sum(-1)
        np.testing.assert_allclose(mine.exp().numpy(), by_class, rtol=1e-12)


def test_matching_networks_trains_on_its_own_likelihood():
    learner = MatchingNetworks(nn.Linear(DIM, 4).double())
    support, query = episodes(b=1)
    labels, truth = torch.arange(WAYS).repeat_interleave(SHOTS), torch.arange(11) % WAYS
    loss, right = learner.meta_loss(support.flatten(0, 2), labels, query[0], truth)
    with torch.no_grad():
        p = learner.adapt(support.flatten(0, 2), labels)(query[0]).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(11).double())
    torch.testing.assert_close(loss, -p[range(11), truth].log().mean())
    assert right == int((p.argmax(1) == truth).sum())
    loss.backward()
    assert learner.extractor.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("transform", ["none", "l2n", "cl2n"])
def test_simpleshot_by_hand(transform):
    support, query = episodes()
    base = torch.randn(40, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.3
    learner = SimpleShot(transform=transform)
    learner.fit_base(base)
    centre = base.numpy().mean(0) if transform == "cl2n" else 0.0
    scaled = (lambda x: x) if transform == "none" else unit
    for s, q, mine in zip(support.numpy(), query.numpy(), learner.classify(support, query), strict=True):
        means = scaled(s - centre).mean(1)
        distances = ((scaled(q - centre)[:, None] - means) ** 2).sum(-1)
        np.testing.assert_allclose(mine.numpy(), -distances, rtol=1e-10)
    assert learner.needs_base == (transform == "cl2n")


def test_simpleshot_without_a_transform_is_prototypical():
    support, query = episodes()
    torch.testing.assert_close(SimpleShot(transform="none").classify(support, query),
                               Prototypical().classify(support, query))  # fmt: skip
    torch.testing.assert_close(SimpleShot(transform="l2n").classify(support, query),
                               Prototypical(normalise=True).classify(support, query))  # fmt: skip


def test_what_simpleshot_refuses():
    support, query = episodes()
    learner = SimpleShot()
    with pytest.raises(UserError, match=r"needs the mean of the training classes' features: call fit_base.*or choose"):
        learner.classify(support, query)
    learner.fit_base(torch.zeros(3, DIM + 1))
    with pytest.raises(UserError, match="was given training features with 9 numbers an image, now features with 8"):
        learner.classify(support, query)
    with pytest.raises(UserError, match="simpleshot cannot be meta-trained: .* meta-train 'prototypical'"):
        learner.meta_loss(*[torch.zeros(1, 2), torch.zeros(1).long()] * 2)
    with pytest.raises(UserError, match="transform: unknown value 'cln'; did you mean 'cl2n'"):
        make_learner("simpleshot", transform="cln")


def test_r2d2_is_ridge_without_an_intercept_whose_numbers_are_learned():
    support, query = episodes(shots=1)
    learner = R2D2(penalty=2.0, scale=3.0).double()
    torch.testing.assert_close(learner.classify(support, query),
                               Ridge(penalty=2.0, scale=3.0, intercept=False).classify(support, query))  # fmt: skip
    with torch.no_grad():
        for parameter, value in zip((learner.log_penalty, learner.log_scale, learner.bias), (0.5, -0.2, 0.7),
                                    strict=True):  # fmt: skip
            parameter.fill_(value)
    moved = Ridge(penalty=2.0 * np.exp(0.5), scale=3.0 * np.exp(-0.2), intercept=False).classify(support, query) + 0.7
    torch.testing.assert_close(learner.classify(support, query), moved)
    loss = F.cross_entropy(learner.classify(support, query).flatten(0, 1), torch.arange(33) % WAYS)
    loss.backward()
    assert learner.log_penalty.grad.abs() > 0 and learner.log_scale.grad.abs() > 0
    assert learner.bias.grad.abs() < 1e-12  # a softmax does not see it


def sgd(head, x, y, steps, lr, decay):
    """What the authors' code does, on the whole support set at every step."""
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, dampening=0.9, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(head(x), y).backward()
        optimizer.step()
    return head


@pytest.mark.parametrize("steps,lr,decay", [(100, 0.01, 0.001), (7, 0.3, 0.0), (60, 0.1, 0.05)])
@pytest.mark.parametrize("shots,d", [(1, 64), (3, 8)])
def test_baseline_is_a_plain_loop(shots, d, steps, lr, decay):
    support, query = episodes(shots=shots, d=d)
    y = torch.arange(WAYS).repeat_interleave(shots)
    logits = Baseline(steps=steps, learning_rate=lr, weight_decay=decay).classify(support, query)
    for s, q, mine in zip(support, query, logits, strict=True):
        head = nn.Linear(d, WAYS).double()
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        theirs = sgd(head, s.flatten(0, 1), y, steps, lr, decay)(q)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


class Cosine(nn.Module):
    def __init__(self, weight, scale):
        super().__init__()
        self.weight, self.scale = nn.Parameter(weight), scale

    def forward(self, x):
        return self.scale * F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


@pytest.mark.parametrize("steps,lr,decay,scale", [(100, 0.01, 0.001, 2.0), (40, 0.2, 0.05, 10.0)])
@pytest.mark.parametrize("shots,d", [(1, 64), (3, 8)])
def test_baseline_plus_plus_is_a_plain_loop(shots, d, steps, lr, decay, scale):
    support, query = episodes(shots=shots, d=d)
    y = torch.arange(WAYS).repeat_interleave(shots)
    learner = BaselinePlusPlus(steps=steps, learning_rate=lr, weight_decay=decay, scale=scale)
    for s, q, mine in zip(support, query, learner.classify(support, query), strict=True):
        head = Cosine(F.normalize(s, dim=-1).mean(1), scale)
        theirs = sgd(head, s.flatten(0, 1), y, steps, lr, decay)(q)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_what_the_baselines_refuse():
    with pytest.raises(UserError, match="learner baseline: steps=0 is not a positive number"):
        Baseline(steps=0)
    with pytest.raises(UserError, match=r"learner baseline\+\+: learning_rate=-1.0 is not a positive number"):
        BaselinePlusPlus(learning_rate=-1.0)
    with pytest.raises(UserError, match="baseline: weight_decay=-0.1 is neither zero nor a positive number"):
        Baseline(weight_decay=-0.1)
    with pytest.raises(UserError, match="Baseline cannot be meta-trained: its solver passes no gradient"):
        Baseline(nn.Linear(2, 2)).meta_loss(*[torch.zeros(1, 2), torch.zeros(1).long()] * 2)
    for kind in ("matching", "baseline++", "r2d2"):
        with pytest.raises(UserError, match=r"scale=0.0 is not a positive number"):
            make_learner(kind, scale=0.0)


@pytest.mark.parametrize("kind", HEADS)
def test_adapt_is_classify_and_a_batch_is_its_episodes(kind):
    support, query = episodes()
    learner = ready(kind)
    assert isinstance(learner, FeatureLearner)
    together = learner.classify(support, query)
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)
    for s, q, logits in zip(support, query, together, strict=True):
        torch.testing.assert_close(learner.classify(s[None], q[None])[0], logits, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(learner.adapt(s.flatten(0, 1), labels)(q), logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["prototypical", "nearest_neighbour", *HEADS[:4], "ridge"])
def test_gradients_of_the_features(kind):
    support, query = episodes(b=2, shots=2, q=3, d=4)
    learner = make_learner(kind).double()
    if kind == "simpleshot":
        learner.fit_base(torch.linspace(-1, 1, 28, dtype=torch.float64).reshape(7, 4))
    if kind == "svm":
        learner.tolerance = 1e-12
    assert learner.differentiable
    assert torch.autograd.gradcheck(learner.classify, (support.requires_grad_(), query.requires_grad_()), atol=1e-6)


class Network(nn.Module):
    """A small extractor with batch norm and dropout."""

    feature_dim = 6

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(DIM, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout())
        self.double().eval()

    def forward(self, images):
        return self.net(images)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_finetune_is_a_plain_loop_on_a_copy(name):
    support, query = (x[0] for x in episodes(b=1))
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)
    learner = FineTune(Network(), optimizer=name, steps=5, learning_rate=0.02, head_learning_rate=0.05).train()
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    with torch.no_grad():
        logits = learner.adapt(support.flatten(0, 1), labels)(query)
    body, head = Network(), nn.Linear(6, WAYS).double()
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    kind = torch.optim.Adam if name == "adam" else torch.optim.SGD
    optimizers = kind(body.parameters(), lr=0.02), kind(head.parameters(), lr=0.05)
    for _ in range(5):
        body.zero_grad(), head.zero_grad()
        F.cross_entropy(head(body(support.flatten(0, 1))), labels).backward()
        [optimizer.step() for optimizer in optimizers]
    torch.testing.assert_close(logits, head(body(query)).detach(), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(body.net[0].weight, learner.extractor.net[0].weight)
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters()) and learner.extractor.net[3].training


def test_what_finetune_refuses():
    support, labels = torch.zeros(4, DIM).double(), torch.tensor([0, 0, 1, 1])
    with pytest.raises(UserError, match="finetune needs an extractor: it trains a copy of it, not features"):
        FineTune().adapt(support, labels)
    with pytest.raises(UserError, match="finetune cannot be meta-trained: .*'maml' is the same with"):
        FineTune(Network()).meta_loss(*[torch.zeros(1, 2), torch.zeros(1).long()] * 2)
    with pytest.raises(UserError, match="optimizer: unknown value 'adan'; did you mean 'adam'"):
        make_learner("finetune", optimizer="adan")
    with pytest.raises(UserError, match="learner finetune: steps=-1 is not a positive number"):
        make_learner("finetune", steps=-1)
    support[0] = float("inf")
    with pytest.raises(UserError, match="support loss is nan at step 0; lower learning_rate or head_learning_rate"):
        FineTune(Network()).adapt(support, labels)
