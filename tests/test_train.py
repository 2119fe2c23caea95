"""Meta-training: it learns, resumes bitwise, chooses by validation, and stops before a step that cannot be right."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import metalearn.meta_step
import metalearn.train
from gvae.augment import Augment
from gvae.recorder import Recorder
from gvae.seeds import mix
from metalearn.errors import UserError
from metalearn.evaluate import episode_images, evaluate_images
from metalearn.learners import make_learner
from metalearn.train import meta_train
from tasks.datasets import glyphs
from tasks.episodes import EpisodeSampler
from tasks.resident import DeviceImages

SETTINGS = {
    "ways": 3, "shots": 1, "queries": 4, "meta_batch": 2, "iterations": 8, "learning_rate": 0.01, "seed": 0,
    "eval_every": 2, "eval_episodes": 10,
}  # fmt: skip


GRADIENT = {kind: {"ways": 3, "adapt_steps": 2, "inner_lr": 0.1} for kind in ("maml", "anil", "meta_sgd")}
GRADIENT |= {kind: GRADIENT["maml"] for kind in ("meta_curvature", "kfo")}
GRADIENT["reptile"] = {**GRADIENT["maml"], "adapt_steps": 8, "inner_batch": 4, "inner_optimizer": "sgd"}
AUGMENT = Augment(rotation=30.0, translation=0.1, scale=(0.8, 1.2))


class Net(nn.Module):
    """Convolution, batch norm, dropout: everything that has a state or a random number."""

    image_shape, feature_dim = (1, 14, 14), 16

    def __init__(self, dropout=0.1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout),
                nn.Linear(8 * 7 * 7, 16),
            )  # fmt: skip

    def forward(self, images):
        return self.net(images)


class Pooled(nn.Module):
    """Images of any size to one number."""

    feature_dim = 1

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def forward(self, images):
        return self.scale(images.mean((1, 2, 3))[:, None])


class Log(Recorder):
    """Keeps scalars and progress."""

    def __init__(self):
        self.values, self.done = {}, []

    def scalars(self, step, values):
        for name, value in values.items():
            self.values.setdefault(name, {})[step] = value

    def progress(self, done, total, text):
        self.done.append((done, total))


@pytest.fixture(scope="module")
def data():
    return glyphs(classes=60, instances=8, image_size=14)


def build(kind):
    return make_learner(kind, Net(), **GRADIENT.get(kind, {}))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("kind", "augment"),
    [(kind, None) for kind in (*GRADIENT, "prototypical", "ridge", "metaoptnet")] + [("prototypical", AUGMENT)],
)
def test_resumed_is_bitwise_uninterrupted(kind, augment, data, tmp_path):
    whole, log = build(kind), Log()
    settings = {**SETTINGS, "augment": augment}
    result = meta_train(whole, data.train, data.val, **settings, state=tmp_path / "whole.pt", recorder=log)

    class Cut(Exception):
        pass

    class CutAfter(Log):
        def progress(self, done, total, text):
            if done == 5:  # one iteration past the state that was written at 4
                raise Cut

    torch.manual_seed(7)  # the global state must not matter
    with pytest.raises(Cut):
        meta_train(build(kind), data.train, data.val, **settings, state=tmp_path / "cut.pt", recorder=CutAfter())
    second, rest = build(kind), Log()
    torch.rand(3)
    again = meta_train(second, data.train, data.val, **settings, state=tmp_path / "cut.pt", recorder=rest)
    assert again == result and equal(second.state_dict(), whole.state_dict())
    assert rest.values["train/loss"] == {s: v for s, v in log.values["train/loss"].items() if s > 4}
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "cut.pt"))
    assert equal(one["weights"], two["weights"]) and one["iteration"] == two["iteration"] == 8
    moments = [[s["exp_avg_sq"] for s in state["optimizer"]["state"].values()] for state in (one, two)]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    third = build(kind)
    last = meta_train(third, data.train, data.val, **settings, state=tmp_path / "cut.pt")
    assert last == result and equal(third.state_dict(), whole.state_dict())
    assert result.earlier == 0 < again.earlier < last.earlier == two["seconds"]


def test_validation_chooses_and_everything_is_recorded(data):
    learner, log = build("prototypical"), Log()
    result = meta_train(learner, data.train, data.val, **SETTINGS, recorder=log)
    seen = log.values["val/accuracy"]
    assert list(seen) == [2, 4, 6, 8] and list(log.values["train/loss"]) == list(range(1, 9))
    assert result.best_accuracy == max(seen.values()) == seen[result.best_iteration]
    assert log.done[-1] == (8, 8) and not learner.training
    checks = EpisodeSampler(data.val.labels, ways=3, shots=1, queries=4, seed=0)
    assert evaluate_images(learner, data.val, checks, 10).mean() / 12 == pytest.approx(result.best_accuracy)


def test_the_learning_rate_follows_its_schedule_and_gradient_norms_are_told(data, monkeypatch):
    rates, norms = [], []
    real = torch.optim.Adam.step

    def step(self, *args):
        rates.append(self.param_groups[0]["lr"])
        gradients = [p.grad.flatten() for p in self.param_groups[0]["params"] if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
        return real(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    log = Log()
    meta_train(build("prototypical"), data.train, data.val, **SETTINGS, schedule="cosine", recorder=log)
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert list(log.values["train/gradient_norm"].values()) == pytest.approx(norms, rel=1e-5)
    rates.clear()
    meta_train(build("prototypical"), data.train, data.val, **SETTINGS)
    assert rates == [0.01] * 8


def test_validation_episodes_may_have_other_ways(data, tmp_path, monkeypatch):
    """And so do those that show what is inside; a state tells them apart."""
    asked, evaluate = [], metalearn.train.evaluate_trained

    def watched(*a, **k):
        asked.append((a[2].ways, evaluate(*a, **k)))
        return asked[-1][1]

    monkeypatch.setattr(metalearn.train, "evaluate_trained", watched)
    settings = {**SETTINGS, "state": tmp_path / "state.pt"}
    log, learner = Log(), build("prototypical")
    meta_train(learner, data.train, data.val, **settings, eval_ways=6, recorder=log)
    assert [ways for ways, _ in asked] == [6] * 4
    told = list(log.values["val/accuracy"].values())
    assert told == pytest.approx([correct.sum() / (10 * 6 * 4) for _, correct in asked]) and max(told) <= 1
    plain = Log()
    meta_train(build("prototypical"), data.train, data.val, **SETTINGS, recorder=plain)
    assert log.values["train/loss"] == plain.values["train/loss"]
    with pytest.raises(UserError, match=r"another meta-training: eval_ways 6 \(now None\)"):
        meta_train(build("prototypical"), data.train, data.val, **settings)


def test_patience_ends_training_and_a_resumed_one_ends_where_it_did(data, tmp_path, monkeypatch):
    """Validation says 0.5 after 2 iterations, 0.75 after 4, 0.75 after 6, ...: a patience of 2 ends it after 8."""
    answers = iter([6, *[9] * 20])
    monkeypatch.setattr(metalearn.train, "evaluate_trained", lambda *_, **__: np.array([next(answers)]))
    settings = {**SETTINGS, "iterations": 40, "patience": 2, "state": tmp_path / "state.pt"}
    learner, log = build("prototypical"), Log()
    result = meta_train(learner, data.train, data.val, **settings, recorder=log)
    assert (result.best_accuracy, result.best_iteration) == (0.75, 4)
    assert list(log.values["val/accuracy"].values()) == [0.5, 0.75, 0.75, 0.75]
    assert list(log.values["train/loss"]) == list(range(1, 9)) and log.done[-1] == (40, 40)
    again, rest = build("prototypical"), Log()
    assert meta_train(again, data.train, data.val, **settings, recorder=rest) == result
    assert equal(again.state_dict(), learner.state_dict()) and not rest.values


def test_each_image_of_a_training_episode_is_augmented_on_its_own_and_no_other_image(data, monkeypatch):
    """Also the same image: learn2learn turns all images of an episode alike (DESIGN 7)."""
    trained, checked = [], []

    def meta_train_watched(augment):
        trained.clear(), checked.clear()
        learner = build("prototypical")
        loss, adapt = type(learner).meta_loss, type(learner).adapt
        with monkeypatch.context() as patch:
            patch.setattr(type(learner), "meta_loss", lambda self, *a: trained.append(a) or loss(self, *a))
            patch.setattr(type(learner), "adapt", lambda self, *a: checked.append(a[0]) or adapt(self, *a))
            meta_train(learner, data.train, data.val, **SETTINGS, augment=augment)
        return list(trained), list(checked)

    (plain, plain_checks), (changed, checks) = meta_train_watched(None), meta_train_watched(AUGMENT)
    assert len(plain) == len(changed) == 16 and len(checks) == len(plain_checks) > 0
    assert all(torch.equal(one, other) for one, other in zip(plain_checks, checks, strict=True))
    for index, (before, after) in enumerate(zip(plain, changed, strict=True)):
        assert torch.equal(before[1], after[1]) and torch.equal(before[3], after[3])
        noise = torch.Generator().manual_seed(mix(0, 4, index))
        assert torch.equal(after[0], AUGMENT(before[0], noise)) and torch.equal(after[2], AUGMENT(before[2], noise))
        assert ((after[2] - before[2]).abs().amax((1, 2, 3)) > 0.01).all()
    turns = AUGMENT.draw(12, torch.Generator().manual_seed(mix(0, 4, 0)), torch.device("cpu")).rotation
    assert len(turns.unique()) == 12


@pytest.mark.parametrize("kind", ["maml", "anil", "meta_curvature", "kfo", "reptile", "metaoptnet", "prototypical"])
def test_it_learns(kind, data):
    settings = {
        **SETTINGS,
        "iterations": 60,
        "eval_every": 60,
        "eval_episodes": 60,
        "meta_batch": 4,
        "learning_rate": 0.003,
        "shots": 4 if kind == "reptile" else 1,
    }
    log, before = Log(), build(kind)
    checks = EpisodeSampler(data.val.labels, ways=3, shots=settings["shots"], queries=4, seed=0)
    untrained = evaluate_images(before, data.val, checks, 60).mean() / 12
    trained = meta_train(before, data.train, data.val, **settings, recorder=log).best_accuracy
    losses = list(log.values["train/loss"].values())
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert trained > untrained + 0.03


def test_stops_before_the_step_on_a_loss_that_is_not_finite(data, monkeypatch):
    learner = build("prototypical")
    real, calls = type(learner).meta_loss, []

    def broken(self, *args):
        loss, correct = real(self, *args)
        calls.append(self.state_dict()["extractor.net.0.weight"].clone())
        return (loss * float("nan") if len(calls) == 4 else loss), correct

    monkeypatch.setattr(type(learner), "meta_loss", broken)
    with pytest.raises(UserError, match="stopped at iteration 1, task 1: the loss is nan; lower learning_rate"):
        meta_train(learner, data.train, data.val, **SETTINGS)
    assert torch.equal(learner.extractor.net[0].weight, calls[2]) and not torch.equal(calls[1], calls[2])


def test_stops_before_the_step_on_a_gradient_that_is_not_finite(data):
    learner = build("prototypical")
    learner.extractor.net[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    before = learner.extractor.net[0].weight.clone()
    with pytest.raises(UserError, match=r"iteration 0: the gradient of extractor\.net\.0\.weight is not finite"):
        meta_train(learner, data.train, data.val, **SETTINGS)
    assert torch.equal(learner.extractor.net[0].weight, before)


@pytest.mark.parametrize("kind", [*GRADIENT, "prototypical"])
def test_a_step_is_the_same_however_many_tasks_are_in_memory(kind, data):
    """Loss, accuracy, gradients and running statistics of a step on five tasks: one, two or all of them at once."""
    settings = {"ways": 3, "shots": 1, "queries": 4, "seed": 0}
    sampler, images = EpisodeSampler(data.train.labels, **settings), DeviceImages(data.train, "cpu")
    options = {} if kind == "prototypical" else {"ways": 3, "adapt_steps": 2, "eval_adapt_steps": 2}
    found = []
    for at_once in (1, 2, 5, None):
        learner = make_learner(kind, Net(dropout=0.0).double(), **options).double().train()
        still = torch.optim.SGD(learner.parameters(), lr=0.0)
        episodes = ((s.double(), y, q.double(), t) for s, y, q, t in episode_images(images, sampler, 0, 5))
        said = metalearn.meta_step.meta_step(learner, still, episodes, 0, 5, at_once)
        found.append([torch.tensor(list(said.values())), *(p.grad for p in learner.parameters()), *learner.buffers()])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "side", "chunks"), [("maml", 28, [4, 4, 2]), ("maml", 56, [1] * 10), ("anil", 28, [10])]
)
def test_tasks_in_memory_are_bounded_by_their_pixels(kind, side, chunks, monkeypatch):
    """Ten tasks of 40 images: MAML takes 160 images of 28x28 at once, ANIL 1,280, and of larger images fewer."""
    learner = make_learner(kind, Pooled(), ways=5, adapt_steps=1).train()
    real, given = type(learner).meta_losses, []

    def counted(self, support, *others):
        given.append(len(support))
        return real(self, support, *others)

    monkeypatch.setattr(type(learner), "meta_losses", counted)
    labels = torch.arange(5)
    episodes = [(torch.rand(5, 1, side, side), labels, torch.rand(35, 1, side, side), labels.repeat(7))] * 10
    still = torch.optim.SGD(learner.parameters(), lr=0.0)
    metalearn.meta_step.meta_step(learner, still, iter(episodes), 0, 10)
    assert given == chunks


@pytest.mark.parametrize(
    ("error", "at_once", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), 2, r"0: out of memory; lower tasks_at_once \(now 2\): CU"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), None, r"lower tasks_at_once \(now 2\): Def"),
        (MemoryError(), 1, r"lower queries, shots or adapt_steps \(tasks_at_once is 1\)"),
    ],
)
def test_out_of_memory_says_what_to_lower(error, at_once, words, data, monkeypatch):
    learner = build("maml")

    def full(*_):
        raise error

    monkeypatch.setattr(type(learner), "meta_losses", full)
    with pytest.raises(UserError, match=words):
        meta_train(learner, data.train, data.val, **SETTINGS, tasks_at_once=at_once)
    monkeypatch.setattr(type(learner), "meta_losses", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        meta_train(learner, data.train, data.val, **SETTINGS)


def test_the_task_at_fault_is_named_in_a_chunk(data, monkeypatch):
    """Task 1 of two at once, in either engine."""
    images = DeviceImages.episodes

    def damaged(self, *given):
        for episode in images(self, *given):
            episode.support[1] = float("nan")
            yield episode

    monkeypatch.setattr(DeviceImages, "episodes", damaged)
    for engine in ("batched", "learn2learn"):
        learner = make_learner("maml", Net(), ways=3, engine=engine)
        with pytest.raises(UserError, match="stopped at iteration 0, task 1: the inner gradient of .* is not finite"):
            meta_train(learner, data.train, data.val, **SETTINGS, tasks_at_once=2)


def test_an_inner_loop_that_breaks_is_located(data):
    with pytest.raises(UserError, match="stopped at iteration 0, task 0: the inner gradient of .* is not finite"):
        meta_train(make_learner("maml", Net(), ways=3, inner_lr=1e30), data.train, data.val, **SETTINGS)


def test_what_cannot_be_trained_or_resumed(data, tmp_path):
    with pytest.raises(UserError, match="NearestNeighbour has no trainable parameter: give it an extractor"):
        meta_train(make_learner("nearest_neighbour"), data.train, data.val, **SETTINGS)
    with pytest.raises(UserError, match="Logistic cannot be meta-trained: its solver passes no gradient"):
        meta_train(build("logistic"), data.train, data.val, **SETTINGS)
    path = tmp_path / "state.pt"
    meta_train(build("prototypical"), data.train, data.val, **SETTINGS, state=path)
    with pytest.raises(UserError, match=r"another meta-training: learning_rate 0\.01 \(now 0\.1\); remove it"):
        meta_train(build("prototypical"), data.train, data.val, **{**SETTINGS, "learning_rate": 0.1}, state=path)
    with pytest.raises(UserError, match=r"another meta-training: augmentation None \(now {'rotation': 30\.0, "):
        meta_train(build("prototypical"), data.train, data.val, **SETTINGS, augment=AUGMENT, state=path)
    augmented = tmp_path / "augmented.pt"
    meta_train(build("prototypical"), data.train, data.val, **SETTINGS, augment=AUGMENT, state=augmented)
    with pytest.raises(UserError, match=r"another meta-training: augmentation {'rotation': 30\.0, .*} \(now None\)"):
        meta_train(build("prototypical"), data.train, data.val, **SETTINGS, state=augmented)
    other = build("prototypical")
    other.extractor.net[0].weight.data += 1
    with pytest.raises(UserError, match="another meta-training: initial weights"):
        meta_train(other, data.train, data.val, **SETTINGS, state=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable training state"):
        meta_train(build("prototypical"), data.train, data.val, **SETTINGS, state=path)


def test_the_global_random_state_survives(data):
    state = torch.random.get_rng_state()
    with metalearn.meta_step.reproducible(0, 3, "cpu"):
        first = torch.rand(2)
    with metalearn.meta_step.reproducible(0, 3, "cpu"):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.random.get_rng_state(), state)
