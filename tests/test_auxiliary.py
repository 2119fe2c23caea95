"""A VAE's losses beside a learner's: the sum of both gradients, adversaries of their own, resumed bitwise, refused."""

import copy

import pytest
import torch

from gvae.objectives import OBJECTIVES
from gvae.recorder import Recorder
from gvae.shuffled import Shuffled
from gvae.vae import VAE
from metalearn.auxiliary import Auxiliary
from metalearn.errors import UserError
from metalearn.extractors import Pixels, PosteriorMean
from metalearn.learners import make_learner
from metalearn.meta import auxiliary_losses, meta_trained
from metalearn.schema import Kind, MetaTrainingConfig
from metalearn.train import meta_train
from tasks.datasets import glyphs

SETTINGS = {
    "ways": 3, "shots": 1, "queries": 4, "meta_batch": 2, "iterations": 6, "learning_rate": 0.01, "seed": 0,
    "eval_every": 2, "eval_episodes": 6,
}  # fmt: skip
NAMES = ["vae", "factor_vae", "guided_vae", "guided_vae_supervised", "guided_warps", "guided_instances", "contrastive"]
NAMES += ["guided_same_class"]


@pytest.fixture(scope="module")
def data():
    return glyphs(classes=40, instances=8, image_size=14)


def objective(name, data, seed=0, **options):
    train = data.train
    if name == "guided_vae_supervised":
        options = {"class_latents": 8, **options}
    return OBJECTIVES[name](train.image_shape, len(train.class_names), len(train.labels), seed, "conv", 16, **options)


def built(name, data, seed=0, weight=0.01, **options):
    """A learner on the encoder of an objective's VAE, and that objective's losses beside it."""
    made = objective(name, data, seed, **options)
    learner = make_learner("prototypical", PosteriorMean(made.vae))
    beside = Auxiliary(
        objective(name, data, seed + 1, **options), made.vae, data.train, weight=weight, batch_size=10,
        learning_rate=0.01, seed=0, device="cpu",
    )  # fmt: skip
    return learner, beside


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Log(Recorder):
    def __init__(self):
        self.values = {}

    def scalars(self, step, values):
        for name, value in values.items():
            self.values.setdefault(name, {})[step] = value


def gradients_of_a_step(learner, data, monkeypatch, **more):
    found = []

    def step(self, *_):
        found.append([None if p.grad is None else p.grad.clone() for p in self.param_groups[0]["params"]])

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        meta_train(learner, data.train, data.val, **{**SETTINGS, "iterations": 1}, **more)
    return found[0]


@pytest.mark.parametrize("name", ["vae", "guided_vae", "guided_vae_supervised"])
def test_a_step_has_the_sum_of_both_gradients(name, data, monkeypatch):
    learner, beside = built(name, data)
    alone = copy.deepcopy(learner)
    fresh = objective(name, data, seed=1)  # the same heads and light decoder, and the VAE that is meta-trained
    fresh.vae.load_state_dict(beside.objective.vae.state_dict())
    fresh.train()
    both = gradients_of_a_step(learner, data, monkeypatch, auxiliary=beside)
    first = gradients_of_a_step(alone, data, monkeypatch)
    batch = Shuffled(torch.from_numpy(data.train.images()), torch.from_numpy(data.train.labels), 10, 0)[0]
    fresh.phases()[0].loss(batch)[0].backward()
    names = [name for name, _ in learner.extractor.named_parameters()]
    theirs = dict(fresh.vae.named_parameters())
    assert len(names) > 5
    for place, name in enumerate(names):
        expected = first[place] + 0.01 * theirs[name].grad
        assert torch.allclose(both[place], expected, rtol=1e-4, atol=1e-6), name
        assert not torch.allclose(both[place], first[place], rtol=1e-3)
    decoder = [gradient for gradient in both[len(names) :] if gradient is not None]
    assert len(decoder) >= len(list(fresh.vae.decoder.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_resumed_is_bitwise_uninterrupted_and_everything_moves(name, data, tmp_path):
    class Cut(Exception):
        pass

    class CutAfter(Recorder):
        def progress(self, done, total, text):
            if done == 5:
                raise Cut

    learner, beside = built(name, data)
    before = {key: value.clone() for key, value in beside.objective.state_dict().items()}
    log = Log()
    settings = {**SETTINGS, "state": tmp_path / "state.pt"}
    result = meta_train(learner, data.train, data.val, **SETTINGS, auxiliary=beside, recorder=log)
    other, second = built(name, data)
    with pytest.raises(Cut):
        meta_train(other, data.train, data.val, **settings, auxiliary=second, recorder=CutAfter())
    again, third = built(name, data)
    assert meta_train(again, data.train, data.val, **settings, auxiliary=third) == result
    assert equal(again.state_dict(), learner.state_dict())
    assert equal(third.objective.state_dict(), beside.objective.state_dict())
    trained = {name for name, parameter in beside.objective.named_parameters() if parameter.requires_grad}
    still = [key for key in trained if torch.equal(before[key], beside.objective.state_dict()[key])]
    assert not still and len(log.values["train/auxiliary/loss"]) == 6
    adversaries = [name for name in log.values if name.startswith("train/auxiliary/adversary")]
    assert bool(adversaries) == any(part.adversary for part in beside.objective.parts)


def test_it_holds_the_encoder_to_its_images(data):
    """With the losses beside it the encoder still reconstructs after meta-training; without, the decoder is lost."""

    def error_after(weight):
        made = objective("vae", data)
        learner = make_learner("prototypical", PosteriorMean(made.vae))
        beside = Auxiliary(
            objective("vae", data), made.vae, data.train, weight=weight, batch_size=20, learning_rate=0.01, seed=0,
            device="cpu",
        )  # fmt: skip
        log = Log()
        settings = {**SETTINGS, "iterations": 40, "eval_every": 40}
        meta_train(learner, data.train, data.val, **settings, auxiliary=beside, recorder=log)
        told = list(log.values["train/auxiliary/reconstruction"].values())
        return told[0], sum(told[-5:]) / 5

    first, held = error_after(0.1)
    _, let_go = error_after(1e-12)
    assert held < 0.8 * first and held < 0.9 * let_go


def test_a_config_asks_for_it(data, tmp_path):
    """The objective may be left out where the extractor has one; evaluation weights are those of the best iteration."""
    extractor = PosteriorMean(objective("guided_vae", data).vae)
    extractor.objective = Kind(kind="guided_vae")
    extractor.pretrained = True
    before = copy.deepcopy(extractor.vae.state_dict())
    budget = MetaTrainingConfig(
        ways=3, shots=1, queries=4, meta_batch=2, iterations=2, eval_every=1, eval_episodes=4,
        auxiliary={"weight": 0.5, "batch_size": 8},
    )  # fmt: skip
    log = Log()
    learner, mode, _ = meta_trained(
        Kind(kind="maml", inner_lr=0.05, adapt_steps=1), extractor, budget, data, 0, state=tmp_path / "state.pt",
        recorder=log, device="cpu",
    )  # fmt: skip
    assert mode == "finetuned" and {"train/auxiliary/light", "train/auxiliary/reconstruction"} <= log.values.keys()
    assert equal(before, extractor.vae.state_dict())  # a copy was trained
    assert not equal(before, learner.extractor.vae.state_dict())


def test_what_does_not_fit_is_refused(data):
    asked = {"ways": 3, "shots": 1, "auxiliary": {}}
    with pytest.raises(UserError, match="auxiliary.objective: given nothing, and extractor PosteriorMean was"):
        learner = make_learner("prototypical", PosteriorMean(objective("vae", data).vae))
        auxiliary_losses(MetaTrainingConfig(**asked), learner, data, 0, "cpu")
    with pytest.raises(UserError, match="extractor Pixels is no encoder of a VAE; allowed: kinds pretrain, checkpoint"):
        learner = make_learner("prototypical", Pixels(data.train.image_shape))
        auxiliary_losses(MetaTrainingConfig(**{**asked, "auxiliary": {"objective": "vae"}}), learner, data, 0, "cpu")
    guided = objective("guided_vae", data)
    options = {"weight": 1.0, "batch_size": 8, "learning_rate": 0.1, "seed": 0, "device": "cpu"}
    with pytest.raises(UserError, match="slot_sizes is .*rotation.* in the extractor and .*'content': 16.* in the obj"):
        Auxiliary(objective("vae", data), guided.vae, data.train, **options)
    with pytest.raises(UserError, match="latents is 8 in the extractor and 16 in the objective; give the objective"):
        small = VAE(data.train.image_shape, trunk="conv", latents=8, slots={"content": 8})
        Auxiliary(objective("vae", data), small, data.train, **options)
    with pytest.raises(UserError, match="form 'release' moves the encoder twice a batch; allowed: form: joint"):
        released = objective("guided_vae_supervised", data, form="release")
        Auxiliary(released, objective("guided_vae_supervised", data).vae, data.train, **options)


def test_an_untrained_network_takes_the_objectives_slots(data):
    plain = VAE(data.train.image_shape, trunk="conv", latents=16, slots={"content": 16})
    guided = objective("guided_vae", data)
    beside = Auxiliary(
        guided, plain, data.train, weight=1.0, batch_size=8, learning_rate=0.1, seed=0, device="cpu"
    )
    beside.loss(0)[0].backward()
    assert plain.encoder.layers[0].weight.grad is not None and guided.vae.encoder is plain.encoder


def test_a_loss_that_is_not_finite_stops_before_the_step(data, monkeypatch):
    learner, beside = built("vae", data)
    before = copy.deepcopy(learner.state_dict())
    real = beside.loss
    monkeypatch.setattr(beside, "loss", lambda iteration: (real(iteration)[0] * float("inf"), {}))
    with pytest.raises(UserError, match="at iteration 0: the auxiliary loss is inf; lower learning_rate or aux"):
        meta_train(learner, data.train, data.val, **SETTINGS, auxiliary=beside)
    weights = [name for name, _ in learner.named_parameters()]
    assert all(torch.equal(before[name], learner.state_dict()[name]) for name in weights)
