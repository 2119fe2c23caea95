"""Training on a device that works ahead of the host, its path taken on the CPU: nothing waits, nothing is spoiled."""

import math
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gvae.pretrain as loop
from gvae.augment import Augment
from gvae.checkpoint import load_state
from gvae.errors import ModelError
from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder
from gvae.objectives import OBJECTIVES
from gvae.pretrain import Training, pretrain
from gvae.recorder import Recorder

SHAPE, CLASSES, IMAGES = (1, 8, 8), 3, 41
TRAINING = Training(epochs=3, batch_size=6, learning_rate=1e-2, checkpoint_seconds=0.0)  # 6 steps an epoch, 18 in all
NAMES = ["vae", "guided_vae", "guided_vae_supervised", "guided_vae_supervised_release"]
AUGMENT = Augment(rotation=30.0, translation=0.1, scale=(0.8, 1.2), brightness=0.3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    widths = (4, 4)
    monkeypatch.setitem(TRUNKS, "tiny", (partial(ConvEncoder, widths=widths), partial(ConvDecoder, widths=widths)))
    monkeypatch.setattr(loop, "LOG_EVERY", 5)


@pytest.fixture
def deferred(monkeypatch):
    monkeypatch.setattr(loop, "works_ahead", lambda device: True)


def make(name="vae", **options):
    if "supervised" in name:
        options = {"class_latents": 2, **options}
    return OBJECTIVES[name](SHAPE, CLASSES, IMAGES, 0, "tiny", 6, **options)


def run(objective, **options):
    images = torch.randint(0, 256, (IMAGES, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(IMAGES) * CLASSES // IMAGES
    return pretrain(objective, images, labels, **{"training": TRAINING, "seed": 0, **options})


def copies(objective):
    return {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}


def unchanged(objective, before):
    return all(torch.equal(parameter, before[name]) for name, parameter in objective.named_parameters())


class Rows(Recorder):
    def __init__(self):
        self.rows = []

    def scalars(self, step, values):
        self.rows.append((step, dict(values)))


@pytest.mark.parametrize("name", NAMES)
def test_the_guard_changes_no_bit_and_no_record_whether_it_defers_or_not(name, monkeypatch):
    one, other = Rows(), Rows()
    at_once = run(make(name), recorder=one)
    monkeypatch.setattr(loop, "works_ahead", lambda device: True)
    later = run(make(name), recorder=other)
    assert all(torch.equal(value, later.state_dict()[key]) for key, value in at_once.state_dict().items())
    assert one.rows == other.rows


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("bad", [7, 4, 17])  # within a period of records, at the end of one, in the last step
def test_deferred_a_bad_loss_stops_at_the_next_record_with_the_weights_of_before_it(
    value, bad, deferred, monkeypatch, tmp_path
):
    objective, seen, kept = make("guided_vae"), [], {}
    guidance = objective.geometry.loss

    def spoiled(batch, at):
        loss, terms = guidance(batch, at)
        if len(seen) == bad:
            kept.update(copies(objective))
        seen.append(1)
        if len(seen) > bad:  # and it stays bad
            return loss + value, {**terms, "light": terms["light"] + value}
        return loss, terms

    monkeypatch.setattr(objective.geometry, "loss", spoiled)
    heard = Rows()
    with pytest.raises(ModelError) as caught:
        run(objective, state=tmp_path / "state.pt", recorder=heard)
    assert f"the loss of phase 'main' is {value} at step {bad} (light = {value}); stopped before" in str(caught.value)
    assert len(seen) == {7: 10, 4: 5, 17: 18}[bad]  # it was noticed at the next record, and not before
    assert kept and unchanged(objective, kept)
    assert all(math.isfinite(number) for _, values in heard.rows for number in values.values())
    saved = tmp_path / "state.pt"
    assert not saved.exists() if bad == 4 else load_state(saved)["step"] == {7: 5, 17: 15}[bad]


def test_deferred_good_losses_after_a_bad_one_move_nothing_either(deferred, monkeypatch):
    objective, seen, kept = make("vae"), [], {}
    loss = objective.loss

    def once(batch):
        value, terms = loss(batch)
        seen.append(1)
        if len(seen) == 3:
            kept.update(copies(objective))
            return value * math.nan, terms
        return value, terms

    monkeypatch.setattr(objective, "loss", once)
    with pytest.raises(ModelError, match=r"the loss of phase 'main' is nan at step 2 \(all terms finite\)"):
        run(objective)
    assert len(seen) == 5 and unchanged(objective, kept)


def test_deferred_a_bad_gradient_stops_too(deferred, monkeypatch):
    """sqrt has an infinite slope at 0: the loss is finite, the step would spoil every weight."""
    objective = make("vae")
    loss, before = objective.loss, copies(objective)

    def steep(batch):
        value, terms = loss(batch)
        return value + (objective.vae.posterior.weight.sum() * 0).sqrt(), terms

    monkeypatch.setattr(objective, "loss", steep)
    with pytest.raises(ModelError, match="the gradient of phase 'main' has norm nan at step 0 though its loss is fin"):
        run(objective)
    assert unchanged(objective, before)


@pytest.mark.parametrize("phase", ["adversary", "inhibition"])
def test_deferred_the_phase_that_went_wrong_is_named_and_later_phases_move_nothing(phase, deferred, monkeypatch):
    objective, seen, kept = make("guided_vae_supervised_release"), [], {}
    loss = getattr(objective, f"{phase}_loss")

    def spoiled(batch):
        value, terms = loss(batch)
        seen.append(1)
        if len(seen) == 2:
            kept.update(copies(objective))
            return value * math.inf, terms
        return value, terms

    monkeypatch.setattr(objective, f"{phase}_loss", spoiled)
    with pytest.raises(ModelError, match=f"the loss of phase '{phase}' is inf at step 1"):
        run(objective)
    assert kept and unchanged(objective, kept)


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a device: those that bring a number to the host, or whose shape is one."""

    waiting = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2"}

    def __init__(self):
        super().__init__()
        self.found, self.calls = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        name = function._schema.name.split("::")[1]
        masks = [one for one in args[1] if one is not None and one.dtype == torch.bool] if name == "index" else []
        if name in self.waiting or masks:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_device(name, deferred, monkeypatch):
    """From the first step on to the record of the fifth, which is the first place to read anything."""

    class Stop(Exception):
        pass

    class Guard(loop.Guard):
        def check(self):
            if self.deferred:
                raise Stop
            super().check()

    monkeypatch.setattr(loop, "Guard", Guard)
    with pytest.raises(Stop), Waits() as waits:
        run(make(name), augment=AUGMENT)
    assert waits.found == [] and waits.calls > 500
    monkeypatch.setattr(loop, "works_ahead", lambda device: False)
    with Waits() as waits:  # it does see them: on a CPU every phase of every step is asked
        run(make(name), augment=AUGMENT)
    assert waits.found.count("_local_scalar_dense") >= 18 * len(make(name).phases())
