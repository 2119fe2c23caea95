"""Inner loops seen from inside: each step is what an adaptation of so many steps says; tables; what is recorded."""

import pytest
import torch
import torch.nn.functional as F
from test_inner import KINDS, MODES, WAYS, Mixing, Smooth, batch, scattered

from gvae.recorder import Recorder
from metalearn.learners import make_learner
from metalearn.traces import curves, show_inside

INNER = [*KINDS, "reptile"]
STEPS = 3


def episode(number=0):
    support, labels, query, truth = batch(size=8, tasks=3)
    return support[number], labels, query[number], truth


def build(kind, body=None, engine="batched", mode="running", steps=STEPS):
    options = {"inner_optimizer": "sgd", "inner_batch": 4} if kind == "reptile" else {}
    options |= {"inner_lr": 0.2, "eval_adapt_steps": steps, "batch_norm": mode, "engine": engine, "ways": WAYS}
    learner = make_learner(kind, body or Smooth(), **options).double().train()
    return learner if kind == "reptile" else scattered(learner)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ["batched", "learn2learn"])
@pytest.mark.parametrize("kind", INNER)
def test_each_step_is_what_an_adaptation_of_so_many_steps_says(kind, engine, mode):
    learner = build(kind, engine=engine, mode=mode)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    support, labels, query, _ = episode()
    steps = learner.trace(support, labels, query)
    assert len(steps) == STEPS + 1 and not any(said.requires_grad for step in steps for said in step)
    for count, (of_support, of_query) in enumerate(steps[1:], 1):
        classify = build(kind, engine=engine, mode=mode, steps=count).adapt(support, labels)
        torch.testing.assert_close(of_support, classify(support), rtol=0, atol=1e-10)
        torch.testing.assert_close(of_query, classify(query), rtol=0, atol=1e-10)
    if mode == "running":
        for said, images in zip(steps[0], (support, query), strict=True):
            torch.testing.assert_close(said, learner.network.eval()(images), rtol=0, atol=1e-10)
        learner.train()
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(part.training for part in learner.modules()) and all(p.grad is None for p in learner.parameters())


def test_a_network_without_rules_is_traced_by_learn2learn():
    auto, looped = (build("maml", Mixing(), engine=engine) for engine in ("auto", "learn2learn"))
    support, labels, query, _ = episode()
    for mine, theirs in zip(auto.trace(support, labels, query), looped.trace(support, labels, query), strict=True):
        assert torch.equal(mine[1], theirs[1])
    assert auto.unbatched.startswith("no rule for")


def test_curves_are_means_over_episodes():
    learner, episodes = build("maml"), [episode(number) for number in range(3)]
    found = curves(learner, episodes)
    assert len(found) == 4 * (STEPS + 1)
    for step in range(STEPS + 1):
        losses, right = [], []
        for support, labels, query, truth in episodes:
            logits = learner.trace(support, labels, query)[step][1]
            losses.append(F.cross_entropy(logits, truth).item())
            right.append((logits.argmax(1) == truth).double().mean().item())
        assert found[f"inner/query_loss/{step}"] == pytest.approx(sum(losses) / 3, rel=1e-6)
        assert found[f"inner/query_accuracy/{step}"] == pytest.approx(sum(right) / 3, rel=1e-6)
    assert found[f"inner/support_loss/{STEPS}"] < found["inner/support_loss/0"]
    assert "inner/query_loss/00" in curves(build("maml", steps=10), episodes)


class Heard(Recorder):
    """Keeps scalars and histograms."""

    def __init__(self):
        self.told, self.histograms = {}, {}

    def scalars(self, step, values):
        self.told |= {name: (step, value) for name, value in values.items()}

    def histogram(self, step, name, values):
        self.histograms[name] = (step, values)


def test_learned_rates_are_told():
    learner, heard = build("meta_sgd"), Heard()
    with torch.no_grad():
        learner.learned[0].copy_(torch.linspace(-1, 3, learner.learned[0].numel()).view(learner.learned[0].shape))
    show_inside(learner, [episode()], heard, 7)
    names = [f"rates/{name}" for name, _ in learner.network.named_parameters()]
    assert list(heard.histograms) == names and heard.histograms[names[0]][0] == 7
    assert torch.equal(heard.histograms[names[0]][1], learner.learned[0].detach().flatten())
    found = {what: heard.told[f"{names[0]}/{what}"] for what in ("mean", "min", "max")}
    assert found == {"mean": (7, pytest.approx(1)), "min": (7, -1), "max": (7, 3)}


@pytest.mark.parametrize("kind", ["meta_curvature", "kfo"])
def test_factors_are_told_by_how_much_they_stretch(kind):
    """Ones, where they are identities; of a diagonal factor its numbers, squared where the factor is F' F."""
    start, learner = (make_learner(kind, Smooth(), ways=WAYS).double() for _ in range(2))
    assert all((table == 1).all() for table in start.tables().values())
    factors = [f"stretch/{name}/{factor}"
               for (name, _), transform in zip(learner.network.named_parameters(), learner.learned, strict=True)
               for factor in transform.factors()]  # fmt: skip
    assert list(learner.tables()) == factors
    transform = learner.learned[0]  # of a convolution's weight (2, 1, 3, 3)
    factor, size = list(transform.factors().items())[-1]
    assert size == 9
    with torch.no_grad():
        getattr(transform, factor).copy_(torch.diag(torch.arange(1.0, 10.0)))
    numbers = torch.arange(9.0, 0, -1).double()
    table = learner.tables()[f"stretch/0.net.0.weight/{factor}"]
    torch.testing.assert_close(table, numbers.square() if kind == "kfo" else numbers)


def test_learners_without_an_inner_loop_tell_none_of_it():
    heard = Heard()
    show_inside(make_learner("prototypical", Smooth()).double(), [episode()], heard, 1)
    assert not heard.told and not heard.histograms
    show_inside(make_learner("metaoptnet", Smooth(), scale=2.0).double(), [episode()], heard, 1)
    assert heard.told == {f"scale/{what}": (1, 2) for what in ("mean", "min", "max")}
