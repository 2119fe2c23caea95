"""learn2learn 0.2.0's MAML and networks: shared statistics, lost errors, dead tensors: docs/learn2learn-notes.md."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from upstream import still_wrong

from metalearn.learn2learn_loop import independent_clone
from metalearn.learners import make_learner


class Body(nn.Module):
    """A small extractor with batch norm, float64; perhaps with a parameter that it does not use."""

    def __init__(self, spare: bool = False):
        super().__init__()
        self.image_shape, self.feature_dim = (1, 2, 3), 3
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.BatchNorm1d(3))
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).cos().reshape(parameter.shape) + number)
        if spare:
            self.spare = nn.Parameter(torch.zeros(1))
        self.double()

    def forward(self, images):
        return self.net(images)


def images(count: int, brightness: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return brightness + torch.randn(count, 1, 2, 3, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def test_adapting_a_clone_moves_the_statistics_of_the_base_model(l2l):
    """Ten tasks, adapted and thrown away, and the model that nobody trained answers otherwise."""
    body = Body()
    maml, probe = l2l.algorithms.MAML(body, lr=0.01), images(4)
    answer, weights = body.eval()(probe).detach(), [p.detach().clone() for p in body.parameters()]
    body.train()
    for _ in range(10):
        task = maml.clone()
        task.adapt(F.cross_entropy(task(images(6, brightness=3.0)), LABELS))
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), weights, strict=True))
    shared = body.net[2].num_batches_tracked == 10
    still_wrong(
        bool(shared) and (body.eval()(probe) - answer).abs().max() > 0.5, "MAML.clone has batch-norm buffers of its own"
    )


@pytest.mark.parametrize("batch_norm", ["running", "query_batch"])
def test_ours_leaves_them(batch_norm):
    """The clone, and ten adapted tasks; that no learner changes a buffer is in test_gradient's contract test."""
    body = Body()
    before = {name: value.clone() for name, value in body.named_buffers()}
    independent_clone(body.train(), batch_norm).train()(images(6))
    learner = make_learner("maml", body, ways=3, batch_norm=batch_norm).double().train()
    for _ in range(10):
        learner.adapt(images(6, brightness=3.0), LABELS)(images(4))
    assert all(torch.equal(value, before[name]) for name, value in body.named_buffers())


def test_a_failed_gradient_is_an_unassigned_variable(l2l, capsys):
    """The reason is printed, where a log may lose it, and what is raised says nothing of it."""
    task = l2l.algorithms.MAML(Body(spare=True), lr=0.1).clone()
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        torch.autograd.grad(task(images(6)).sum(), list(task.parameters()))
    with pytest.raises(Exception) as raised:
        task.adapt(task(images(6)).sum())
    printed = capsys.readouterr()
    assert "Maybe try with allow_nograd=True and/or allow_unused=True" in printed.out
    still_wrong(
        raised.type is UnboundLocalError and "gradients" in str(raised.value) and "not have been used" in printed.err,
        f"MAML.adapt raises {raised.type.__name__}: {raised.value}",
    )


def test_adapting_a_transform_in_first_order_ends_at_the_second_step(l2l, capsys):
    """The graph that both gradients of a step need is freed after the first of them; in second order it is not."""

    def adapted(first_order: bool) -> None:
        transform = l2l.optim.transforms.KroneckerTransform(l2l.nn.KroneckerLinear)
        options = {"lr": 0.1, "adapt_transform": True, "first_order": first_order}
        task = l2l.algorithms.GBML(nn.Linear(2, 3), transform, **options).clone()
        for _ in range(2):
            task.adapt(F.cross_entropy(task(torch.eye(2)), torch.tensor([0, 1])))

    adapted(first_order=False)
    with pytest.raises(Exception) as raised:
        adapted(first_order=True)
    printed = capsys.readouterr()
    still_wrong(
        raised.type is UnboundLocalError and "gradients" in str(raised.value) and "second time" in printed.err,
        f"GBML.adapt with adapt_transform and first_order raises {raised.type.__name__}: {raised.value}",
    )


def test_its_networks_let_the_queries_see_each_other(l2l):
    """Batch norm in training mode, as every example runs it: a query's answer depends on the other queries."""
    torch.manual_seed(0)
    task = l2l.algorithms.MAML(l2l.vision.models.OmniglotCNN(3, hidden_size=8), lr=0.1).clone()
    query = torch.rand(10, 1, 28, 28)
    together, alone = task(query)[:2], task(query[:2])
    still_wrong(not torch.allclose(together, alone, atol=0.1), "MAML's clone classifies each query by itself")


def test_a_part_registered_twice_leaves_dead_tensors(l2l):
    """OmniglotCNN has its convolutions as base and in features: of the tensors of its state half get no gradient."""
    torch.manual_seed(0)
    network = l2l.vision.models.OmniglotCNN(5, hidden_size=8)
    assert len(dict(network.named_parameters())) == 18
    trained = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    state = {name: value.clone() for name, value in network.state_dict().items()}
    given = {name: value.requires_grad_(name in trained) for name, value in state.items()}
    batch = torch.rand(4, 1, 28, 28)
    with pytest.raises(ValueError, match="got multiple values for keys .* which are tied"):
        functional_call(network, given, batch)
    loss = functional_call(network, given, batch, tie_weights=False).square().sum()
    found = torch.autograd.grad(loss, [given[name] for name in sorted(trained)], allow_unused=True)
    dead = {name for name, gradient in zip(sorted(trained), found, strict=True) if gradient is None}
    still_wrong((len(trained), len(dead)) == (34, 16), f"OmniglotCNN: {len(dead)} of {len(trained)} tensors are dead")
    named = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    loss = functional_call(network, named, batch).square().sum()
    assert all(g is not None for g in torch.autograd.grad(loss, list(named.values())))  # the way that works


def test_importing_it_prints_a_banner_and_loads_what_vision_does_not_need():
    """Ours hushes and delays it: test_gradient, test_imports."""
    code = "import sys, learn2learn; print(sorted({'gym', 'cvxpy', 'qpth', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    still_wrong(
        "Gym has been unmaintained" in done.stderr and done.stdout.strip() == "['cvxpy', 'gym', 'qpth', 'torchvision']",
        f"import learn2learn loads {done.stdout.strip()} and prints {done.stderr[:80]!r}",
    )
