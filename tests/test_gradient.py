"""MAML and ANIL against learn2learn's own wrapper and a meta-gradient derived by hand; and the learners' table."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gvae.vae import Posterior
from metalearn.anil import ANIL
from metalearn.errors import UserError
from metalearn.extractors import SetExtractor
from metalearn.gradient import MAML
from metalearn.learn2learn_loop import independent_clone, inner_step
from metalearn.learners import LEARNERS, Learner, make_learner, takes
from metalearn.learners.base import evaluating

WAYS, SHOTS, DIM = 3, 4, 6


class Body(SetExtractor):
    """A small extractor with batch norm; dtype float64; of a set it has a posterior about its mean."""

    def __init__(self, batch_norm=True, seed=0):
        super().__init__()
        self.image_shape, self.feature_dim, self.instance_dim = (1, 2, 3), 5, 5
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(DIM, 8), norm, nn.Tanh(), nn.Linear(8, 5))
        self.double()

    def forward(self, images):
        return self.net(images)

    def instances(self, images):
        return self(images)

    def summary(self, instances):
        mean = instances.mean(1)
        return Posterior(mean, mean.tanh())


def task(seed=0, queries=7):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAYS).repeat_interleave(SHOTS)
    support = torch.randn(WAYS * SHOTS, 1, 2, 3, generator=g, dtype=torch.float64)
    query = torch.randn(queries, 1, 2, 3, generator=g, dtype=torch.float64)
    return support, labels, query, torch.arange(queries) % WAYS


def build(kind, **options):
    return make_learner(kind, Body(), ways=WAYS, **options).double()


def gradients(loss, module):
    return dict(zip(dict(module.named_parameters()), torch.autograd.grad(loss, list(module.parameters())), strict=True))


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_outer_gradient_is_learn2learns(first_order):
    import learn2learn as l2l

    learner = build("maml", inner_lr=0.3, adapt_steps=3, first_order=first_order).eval()
    support, labels, query, truth = task()
    loss, correct = learner.meta_loss(support, labels, query, truth)
    network = nn.Sequential(learner.extractor, learner.head)
    theirs = l2l.algorithms.MAML(network, lr=0.3, first_order=first_order)
    clone = theirs.clone()
    for _ in range(3):
        clone.adapt(F.cross_entropy(clone(support), labels))
    expected = F.cross_entropy(clone(query), truth)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    assert correct == int((clone(query).argmax(1) == truth).sum())
    for mine, other in zip(gradients(loss, learner).values(), gradients(expected, network).values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True])
def test_anil_outer_gradient_is_that_of_a_plain_loop(first_order):
    learner = build("anil", inner_lr=0.3, adapt_steps=3, first_order=first_order).eval()
    support, labels, query, truth = task()
    loss, _ = learner.meta_loss(support, labels, query, truth)
    weight, bias = learner.head.weight, learner.head.bias
    for _ in range(3):
        inner = F.cross_entropy(learner.extractor(support) @ weight.T + bias, labels)
        step = torch.autograd.grad(inner, (weight, bias), create_graph=not first_order, retain_graph=True)
        weight, bias = weight - 0.3 * step[0], bias - 0.3 * step[1]
    expected = F.cross_entropy(learner.extractor(query) @ weight.T + bias, truth)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    mine, other = gradients(loss, learner), gradients(expected, learner)
    assert all(mine[name].abs().sum() > 0 for name in mine if name != "extractor.net.1.bias")
    for name in mine:
        torch.testing.assert_close(mine[name], other[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradient_by_hand_on_a_linear_model(first_order):
    """Squared loss of w.x: one step gives v = w - a X'(Xw - y); the gradient is (I - a X'X) Q'(Qv - t).

    First order leaves out the factor in front.
    """
    g = torch.Generator().manual_seed(0)
    x, y, q, t = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((5, 3), (5, 1), (4, 3), (4, 1)))
    model = nn.Linear(3, 1, bias=False).double()
    clone = independent_clone(model, "running")
    inner_step(clone, (clone(x) - y).square().sum() / 2, 0.1, second_order=not first_order)
    (mine,) = torch.autograd.grad((clone(q) - t).square().sum() / 2, model.weight)
    w = model.weight.detach().T
    moved = w - 0.1 * x.T @ (x @ w - y)
    factor = torch.eye(3, dtype=w.dtype) - (0 if first_order else 0.1) * x.T @ x
    torch.testing.assert_close(mine.T, factor @ q.T @ (q @ moved - t), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", sorted(LEARNERS))
def test_contract_of_every_learner(kind):
    """Adapting changes nothing, twice is the same, logits are (q, ways), and names of ways do not matter."""
    learner = build(kind) if takes(kind, "ways") else make_learner(kind, Body())
    if getattr(learner, "needs_base", False):
        learner.fit_base(torch.eye(5, dtype=torch.float64))
    assert isinstance(learner, Learner) and learner.reference and isinstance(learner.transductive, bool)
    assert isinstance(learner.meta_trained, bool) and not learner.transductive
    support, labels, query, _ = task()
    learner.train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    modes = [part.training for part in learner.modules()]
    with torch.no_grad():
        logits = learner.adapt(support, labels)(query)
        assert logits.shape == (len(query), WAYS) and not logits.requires_grad
        assert torch.equal(learner.adapt(support, labels)(query), logits)
        steps = learner.trace(support, labels, query)
        assert not steps or torch.equal(steps[-1][1], logits)
        assert all(table.isfinite().all() and not table.requires_grad for table in learner.tables().values())
        alone = torch.cat([learner.adapt(support, labels)(one[None]) for one in query])
        torch.testing.assert_close(alone, logits)
        assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
        assert all(p.grad is None for p in learner.parameters())
        assert [part.training for part in learner.modules()] == modes
        renamed = torch.tensor([2, 0, 1])  # class w is now called renamed[w]
        if hasattr(learner, "head"):  # a learned head tells ways apart: its rows are renamed too
            for parameter in learner.head.parameters():
                parameter[renamed] = parameter.clone()
        torch.testing.assert_close(learner.adapt(support, renamed[labels])(query)[:, renamed], logits)


@pytest.mark.parametrize("kind", ["maml", "anil"])
def test_query_batch_statistics_are_marked_and_leave_the_buffers(kind):
    learner = build(kind, batch_norm="query_batch")
    assert learner.transductive and not make_learner(kind, Body(False), batch_norm="query_batch").transductive
    support, labels, query, truth = task()
    before = {name: value.clone() for name, value in learner.named_buffers()}
    together, alone = learner.adapt(support, labels)(query), learner.adapt(support, labels)(query[:3])
    assert not torch.allclose(together[:3], alone)
    learner.train().meta_loss(support, labels, query, truth)
    assert all(torch.equal(value, before[name]) for name, value in learner.named_buffers())


def test_running_statistics_follow_training_but_not_adaptation():
    learner = build("maml").train()
    support, labels, query, truth = task()
    learner.meta_loss(support, labels, query, truth)
    reference = Body()
    reference.train()(torch.cat([support, query]))
    for name, value in reference.named_buffers():
        torch.testing.assert_close(dict(learner.extractor.named_buffers())[name], value)
    after = {name: value.clone() for name, value in learner.named_buffers()}
    learner.eval().meta_loss(support, labels, query, truth)
    assert all(torch.equal(value, after[name]) for name, value in learner.named_buffers())


def test_frozen_parts_stay_and_unused_or_broken_ones_are_named():
    support, labels, _, _ = task()
    frozen = build("maml")
    frozen.extractor.requires_grad_(False)
    assert frozen.adapt(support, labels)(support).isfinite().all()
    with evaluating(frozen):
        frozen.head.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to adapt: every parameter is frozen"):
        frozen.adapt(support, labels)
    unused = Body()
    unused.spare = nn.Parameter(torch.zeros(2))
    with pytest.raises(UserError, match=r"does not depend on 0\.spare: .*freeze it"):
        make_learner("maml", unused, ways=WAYS).double().adapt(support, labels)
    support[0] = float("inf")
    with pytest.raises(UserError, match=r"inner gradient of .* is not finite \(support loss nan\): lower inner_lr"):
        build("anil").adapt(support, labels)


def test_what_maml_refuses():
    support, labels, _, _ = task()
    with pytest.raises(UserError, match="maml has a head for ways=5, the episode has 3 classes"):
        make_learner("maml", Body()).double().adapt(support, labels)
    with pytest.raises(UserError, match="anil needs an extractor, a module with an integer feature_dim"):
        make_learner("anil")
    with pytest.raises(UserError, match="batch_norm: unknown value 'batch'"):
        make_learner("maml", Body(), batch_norm="batch")
    with pytest.raises(UserError, match=r"'maml': eval_adapt_steps: given 'few' \(text\)"):
        make_learner("maml", Body(), eval_adapt_steps="few")
    assert make_learner("maml", Body(), adapt_steps=3).eval_adapt_steps == 3
    with pytest.raises(UserError, match="maml: adapt_steps=0 is not a positive number"):
        make_learner("maml", Body(), adapt_steps=0)


def test_head_depends_on_its_seed_alone():
    state = torch.random.get_rng_state()
    one, same, other = MAML(Body()), ANIL(Body()), MAML(Body(), seed=1)
    assert torch.equal(one.head.weight, same.head.weight) and not torch.equal(one.head.weight, other.head.weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.head.weight.abs().max() <= 5**-0.5


def test_learn2learn_and_gyms_banner_stay_out():
    """Nothing on stderr when it is used, and not even imported when it is not."""
    code = "import sys, metalearn.learners as l; assert not {'gym', 'learn2learn'} & set(sys.modules); "
    code += "l.learner_class('anil'); assert 'learn2learn' not in sys.modules; "
    code += "import metalearn.learn2learn_loop; assert 'learn2learn' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
