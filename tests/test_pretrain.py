"""The loop: exact resume, killed processes, non-finite numbers, states of other runs, what it records."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import gvae.pretrain as loop
from gvae.augment import Augment
from gvae.checkpoint import load_state
from gvae.errors import ModelError
from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder
from gvae.objectives import OBJECTIVES
from gvae.pretrain import Meter, Training, batches, pretrain
from gvae.recorder import Recorder
from gvae.regularizers import Factor
from gvae.seeds import mix
from gvae.shuffled import Shuffled

SHAPE, CLASSES, IMAGES = (1, 8, 8), 3, 41
TRAINING = Training(epochs=3, batch_size=6, learning_rate=1e-2, checkpoint_seconds=0.0)  # 6 steps an epoch, 18 in all
NAMES = ["vae", "guided_vae", "guided_vae_supervised", "guided_vae_supervised_release"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    widths = (4, 4)
    monkeypatch.setitem(TRUNKS, "tiny", (partial(ConvEncoder, widths=widths), partial(ConvDecoder, widths=widths)))
    monkeypatch.setattr(loop, "LOG_EVERY", 5)  # states at steps 5, 10, 15 and 18: no end of an epoch but the last


def make(name="vae", seed=0, **options):
    if "supervised" in name:
        options = {"class_latents": 2, **options}
    return OBJECTIVES[name](SHAPE, CLASSES, IMAGES, seed, "tiny", 6, **options)


def data(seed=0, n=IMAGES):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *SHAPE), generator=generator, dtype=torch.uint8)
    return images, torch.arange(n) * CLASSES // n  # sorted by class


def run(objective, training=TRAINING, seed=0, **options):
    return pretrain(objective, *data(), training=training, seed=seed, **options)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


AUGMENT = Augment(rotation=30.0, translation=0.1, scale=(0.8, 1.2), brightness=0.3)


class Stop(Exception):
    pass


class StopAt(Recorder):
    """Dies as soon as it hears of a step: before the state of that step is saved."""

    def __init__(self, step):
        self.step = step

    def scalars(self, step, values):
        if step >= self.step:
            raise Stop


class Listener(Recorder):
    def __init__(self):
        self.rows, self.kept, self.pictures, self.histograms, self.shown = [], [], [], [], []

    def scalars(self, step, values):
        self.rows.append((step, dict(values)))

    def numbers(self, step, values):
        self.kept.append((step, dict(values)))

    def images(self, step, name, images):
        assert images.dim() == 4 and images.min() >= 0 and images.max() <= 1
        self.pictures.append((step, name))

    def histogram(self, step, name, values):
        self.histograms.append((step, name))

    def progress(self, done, total, text):
        self.shown.append((done, total, text))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [6, 15])
@pytest.mark.parametrize("augment", [None, AUGMENT], ids=["plain", "augmented"])
def test_a_resumed_run_ends_at_bitwise_the_weights_of_an_uninterrupted_one(name, stop, augment, tmp_path):
    whole = run(make(name), augment=augment)
    state = tmp_path / "state.pt"
    with pytest.raises(Stop):
        run(make(name), augment=augment, state=state, recorder=StopAt(stop))
    assert load_state(state)["step"] == {6: 5, 15: 10}[stop]  # in the middle of an epoch
    torch.manual_seed(stop)  # nothing depends on what else was drawn
    heard = Listener()
    # its first weights are those of the state
    resumed = run(make(name, seed=99), augment=augment, state=state, recorder=heard)
    assert same(whole, resumed)
    assert heard.rows[0][0] == {6: 6, 15: 12}[stop]  # the first record after the state
    again = run(make(name, seed=5), augment=augment, state=state)  # a finished run is only read
    assert same(whole, again)


def test_an_interrupted_run_tells_again_exactly_what_the_uninterrupted_one_told(tmp_path):
    whole, first, second = Listener(), StopAt(15), Listener()
    run(make("guided_vae"), recorder=whole)
    with pytest.raises(Stop):
        run(make("guided_vae"), state=tmp_path / "s.pt", recorder=first)
    run(make("guided_vae"), state=tmp_path / "s.pt", recorder=second)
    after = [row for row in whole.rows if row[0] > 10]
    assert [step for step, _ in second.rows] == [step for step, _ in after]
    # the mean of the first record after a state that was saved between two records covers the same steps
    assert second.rows == after


def test_killed_in_the_middle_it_resumes_to_bitwise_the_same_weights(tmp_path):
    state = tmp_path / "state.pt"
    script = textwrap.dedent("""
        import sys
        from functools import partial
        from pathlib import Path
        import torch
        import gvae.pretrain as loop
        from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder
        from gvae.objectives import OBJECTIVES
        TRUNKS["tiny"] = (partial(ConvEncoder, widths=(4, 4)), partial(ConvDecoder, widths=(4, 4)))
        loop.LOG_EVERY = 5
        images = torch.randint(0, 256, (41, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        objective = OBJECTIVES["guided_vae_supervised"]((1, 8, 8), 3, 41, 0, "tiny", 6, class_latents=2)
        loop.pretrain(objective, images, torch.arange(41) * 3 // 41, seed=0, state=Path(sys.argv[1]),
                      training=loop.Training(epochs=400, batch_size=6, learning_rate=1e-3, checkpoint_seconds=0.0))
    """)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", script, str(state)], env=environment, cwd=root)
    try:
        deadline = time.monotonic() + 60
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = load_state(state)["step"]
    assert 0 < done < 2400 and done % 5 == 0
    # The rest of 2,400 steps would be slow: go on for a while, and compare with a run that was never killed.
    training = Training(epochs=400, batch_size=6, learning_rate=1e-3, checkpoint_seconds=0.0)
    goal = done + 10
    whole, resumed = make("guided_vae_supervised"), make("guided_vae_supervised", seed=1)
    with pytest.raises(Stop):
        run(whole, training, recorder=StopAt(goal))
    with pytest.raises(Stop):
        run(resumed, training, state=state, recorder=StopAt(goal))
    assert load_state(state)["step"] > done
    assert same(whole, resumed)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_term(value, monkeypatch, tmp_path):
    objective, steps = make("guided_vae"), []
    guidance = objective.geometry.loss

    def spoiled(batch, seen):
        steps.append(0)
        loss, terms = guidance(batch, seen)
        if len(steps) == 8:
            kept.update({name: parameter.detach().clone() for name, parameter in objective.named_parameters()})
            return loss + value, {**terms, "light": terms["light"] + value}
        return loss, terms

    kept = {}
    monkeypatch.setattr(objective.geometry, "loss", spoiled)
    with pytest.raises(ModelError) as caught:
        run(objective, state=tmp_path / "state.pt")
    said = str(caught.value)
    assert f"the loss of phase 'main' is {value} at step 7 (light = {value}); stopped before the optimiser step" in said
    assert "Lower training.learning_rate or the weight of that term" in said
    assert all(torch.equal(parameter, kept[name]) for name, parameter in objective.named_parameters())
    assert load_state(tmp_path / "state.pt")["step"] == 5


def test_a_gradient_that_is_not_finite_stops_before_the_step_too(monkeypatch):
    """sqrt has an infinite slope at 0: the loss is finite, the step would spoil every weight."""
    objective = make("vae")
    loss = objective.loss

    def steep(batch):
        value, terms = loss(batch)
        return value + (objective.vae.posterior.weight.sum() * 0).sqrt(), terms

    monkeypatch.setattr(objective, "loss", steep)
    before = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
    with pytest.raises(ModelError, match="the gradient of phase 'main' has norm nan at step 0 though its loss is fin"):
        run(objective)
    assert all(torch.equal(parameter, before[name]) for name, parameter in objective.named_parameters())


OTHERS = {
    "seed": (dict(seed=1), "seed is 0 there and 1 here"),
    "learning rate": (dict(training=Training(3, 6, 2e-2)), "learning_rate is 0.01 there and 0.02 here"),
    "settings": (dict(objective=dict(beta=4.0)), "beta is 1.0 there and 4.0 here"),
    "parts": (dict(name="guided_vae"), "parts is [] there and [{'part': 'Geometry', "),
}


@pytest.mark.parametrize("which", OTHERS)
def test_the_state_of_another_run_is_refused_with_what_differs(which, tmp_path):
    other, words = OTHERS[which]
    run(make(), state=tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ModelError) as caught:
        run(
            make(other.get("name", "vae"), **other.get("objective", {})), training=other.get("training", TRAINING),
            seed=other.get("seed", 0), state=tmp_path / "state.pt",
        )  # fmt: skip
    assert "belongs to another training: " in str(caught.value) and words in str(caught.value)
    assert "choose another output folder or remove it" in str(caught.value)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_the_state_of_another_augmentation_is_refused(tmp_path):
    more = Augment(**{**AUGMENT.settings(), "scale": (0.8, 1.2), "crop": (1.0, 1.0), "rotation": 31.0})
    for number, (one, other) in enumerate([(None, AUGMENT), (AUGMENT, None), (AUGMENT, more)]):
        state = tmp_path / f"{number}.pt"
        run(make(), augment=one, state=state)
        with pytest.raises(ModelError, match="belongs to another training: augmentation is .* there and .* here"):
            run(make(), augment=other, state=state)
        run(make(), augment=one, state=state)


def test_augmentation_changes_every_batch_by_noise_of_its_own_and_nothing_else(monkeypatch):
    """Order, labels and the noise of the objective are those of a run without it."""

    def batches_of(augment):
        objective, seen = make(), []
        loss = objective.loss

        def watched(batch):
            seen.append((batch.images, batch.labels, batch.generator.get_state()))
            return loss(batch)

        monkeypatch.setattr(objective, "loss", watched)
        run(objective, augment=augment)
        return seen

    plain, neutral, augmented = batches_of(None), batches_of(Augment()), batches_of(AUGMENT)
    assert len(plain) == len(augmented) == 18
    for step, ((images, labels, noise), other, changed) in enumerate(zip(plain, neutral, augmented, strict=True)):
        assert torch.equal(images, other[0])
        assert torch.equal(labels, changed[1]) and torch.equal(noise, changed[2])
        assert torch.equal(changed[0], AUGMENT(images, torch.Generator().manual_seed(mix(0, 3, step))))
        assert ((changed[0] - images).abs().amax((1, 2, 3)) > 0.01).all()
    assert same(run(make()), run(make(), augment=Augment()))


def test_a_jitter_that_the_images_cannot_have_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ModelError, match="augmentation: hue: given 0.1; allowed: 0, for these images have 1 channel"):
        run(make(), augment=Augment(hue=0.1), state=tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


def test_a_row_of_images_and_a_row_of_the_same_augmented_are_shown():
    class Shown(Listener):
        def images(self, step, name, images):
            super().images(step, name, images)
            if name == "augmentation":
                rows.append((step, images))

    rows = []
    run(make(), augment=AUGMENT, recorder=Shown())
    assert [step for step, _ in rows] == [6, 12, 18]
    for step, picture in rows:
        plain = Shuffled(*data(), 6, 0)[step - 1].images
        augmented = AUGMENT(plain, torch.Generator().manual_seed(mix(0, 3, step - 1)))
        expected = [torch.cat(list(row), 2) for row in (plain, augmented)]
        assert torch.equal(picture[0], torch.cat(expected, 1))


def test_the_state_of_other_images_or_labels_is_refused(tmp_path):
    images, labels = data()
    run(make(), state=tmp_path / "state.pt")
    for wrong in [(255 - images, labels), (images, labels.flip(0))]:
        with pytest.raises(ModelError, match="belongs to another training: data is"):
            pretrain(make(), *wrong, training=TRAINING, seed=0, state=tmp_path / "state.pt")


def test_how_often_a_state_is_saved_is_no_part_of_a_training(tmp_path):
    run(make(), state=tmp_path / "state.pt")
    rare = Training(epochs=3, batch_size=6, learning_rate=1e-2, checkpoint_seconds=1e9)
    assert same(run(make(), state=tmp_path / "state.pt"), run(make(), training=rare, state=tmp_path / "state.pt"))


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.99])
def test_a_truncated_state_is_refused_with_the_fix(cut, tmp_path):
    state = tmp_path / "state.pt"
    run(make(), state=state)
    whole = state.read_bytes()
    state.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    with pytest.raises(ModelError, match=r"state.pt is not a readable training state .* remove it to start"):
        run(make(), state=state)


@pytest.mark.parametrize("name", NAMES)
def test_global_random_state_is_neither_read_nor_moved(name):
    objective = make(name)
    torch.manual_seed(3), np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # python's own is drawn from by beartype
    run(objective, recorder=Listener(), monitor=lambda now: {"x": 1.0})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_the_seed_of_the_loop_decides_order_and_noise():
    assert same(run(make()), run(make()))
    assert not same(run(make()), run(make(), seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_recorded_at_rising_steps(name):
    heard, seen = Listener(), []

    def monitor(objective):
        assert not objective.training and not torch.is_grad_enabled()
        seen.append(1)
        return {"val/accuracy": 0.5}

    objective = run(make(name), recorder=heard, monitor=monitor)
    assert not objective.training and len(seen) == TRAINING.epochs
    steps = [step for step, _ in heard.rows]
    assert steps == sorted(steps) and steps[-1] == 18
    assert {5, 6, 10, 12, 15, 18} == set(steps)
    train = [values for _, values in heard.rows if any(key.startswith("train/") for key in values)]
    expected = {"train/loss", *(f"train/loss_{phase.name}" for phase in objective.phases()[1:])}
    batch = Shuffled(*data(), 6, 0)[0]
    for phase in objective.phases():
        expected |= {f"train/{key}" for key in phase.loss(batch)[1]}
    assert all(set(values) == expected for values in train)
    assert all(math.isfinite(value) for values in train for value in values.values())
    kl = [values for _, values in heard.rows if any(key.startswith("kl_per_latent/") for key in values)]
    slots = {
        "vae": [f"content_{k:02d}" for k in range(6)],
        "guided_vae": ["rotation", "scale", *(f"content_{k:02d}" for k in range(4))],
    }.get(name, ["class_00", "class_01", *(f"content_{k:02d}" for k in range(4))])
    guided = {f"kl_per_latent/{slot}" for slot in slots if not slot.startswith("content")}
    assert len(kl) == (3 if guided else 0) and all(set(values) == guided for values in kl)  # a curve each
    every = {f"kl_per_latent/{slot}" for slot in slots}
    assert len(heard.kept) == 3 and all(set(values) == every - guided for _, values in heard.kept)
    assert heard.histograms == [(step, "kl_per_latent") for step in (6, 12, 18)]
    pictures = {picture for _, picture in heard.pictures}
    guided = {f"traversal/{slot}" for slot in slots if not slot.startswith("content")}
    light = {"reconstruction/image_mean"}
    if name == "guided_vae":
        light = {"reconstruction/image_mean_light_canonical", "light/components"}
    assert pictures == {"traversal/most_informative", *guided, *light}
    assert [row for row in heard.rows if "val/accuracy" in row[1]] == [(s, {"val/accuracy": 0.5}) for s in (6, 12, 18)]
    assert heard.shown[-1][:2] == (18, 18) and heard.shown[-1][2].startswith("epoch 3/3, loss ")


def test_pictures_of_a_gaussian_decoder_are_its_means():
    """A traversal through a sigmoid would show every picture of a gaussian decoder as grey."""
    from gvae.traverse import traversal

    vae = make(likelihood="gaussian").eval().vae
    image = data()[0][:1] / 255
    with torch.no_grad():
        swept = traversal(vae, image, [1, 4], reach=2.0, steps=3)
        z = vae.encode(image).mean.repeat(3, 1)
        z[:, 4] = torch.tensor([-2.0, 0.0, 2.0])
        torch.testing.assert_close(swept[1], vae.decode(z).clamp(0, 1))
    assert swept.shape == (2, 3, *SHAPE)


def test_the_preview_sees_images_of_every_class(monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "preview", lambda objective, images, step, recorder: seen.append(images))
    images = torch.arange(1100).mul(255).div(1099).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    loop.report_epoch(make(), images.contiguous(), 1, Recorder(), None)
    assert len(seen[0]) == 512 and seen[0][0].max() == 0 and seen[0][-1].min() == 1


def test_learning_rate_schedules(monkeypatch):
    found = []
    monkeypatch.setattr(loop, "set_learning_rate", lambda optimiser, value: found.append(value))
    run(make(), Training(epochs=3, batch_size=6, learning_rate=0.1))
    assert found == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * step / 18)) for step in range(18)])
    found.clear()
    run(make(), Training(epochs=3, batch_size=6, learning_rate=0.1, schedule="constant"))
    assert found == [0.1] * 18


def test_the_learning_rate_is_what_the_optimiser_uses():
    optimiser = loop.build_optimisers(make().phases(), 0.1, weight_decay=0.3)["main"]
    loop.set_learning_rate(optimiser, 0.025)
    assert {group["lr"] for group in optimiser.param_groups} == {0.025}
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.3}


def test_the_discriminators_rate_is_its_own_on_the_trainings_schedule(monkeypatch):
    """FactorVAE's paper: betas 0.5 and 0.9; its rate is the training's unless it is given."""
    found = []
    monkeypatch.setattr(loop, "set_learning_rate", lambda optimiser, value: found.append((optimiser, value)))
    for own, first in ((None, 0.1), (0.02, 0.02)):
        objective = make("factor_vae", discriminator_width=8, discriminator_rate=own)
        main, discriminator = loop.build_optimisers(objective.phases(), 0.1).values()
        assert {group["lr"] for group in discriminator.param_groups} == {first}
        assert {group["betas"] for group in main.param_groups} == {(0.9, 0.999)}
        assert {group["betas"] for group in discriminator.param_groups} == {(0.5, 0.9)}
        found.clear()
        run(objective, Training(epochs=3, batch_size=6, learning_rate=0.1))
        falling = [0.5 * (1 + math.cos(math.pi * step / 18)) for step in range(18)]
        assert [value for _, value in found[::2]] == pytest.approx([0.1 * one for one in falling])
        assert [value for _, value in found[1::2]] == pytest.approx([first * one for one in falling])
        assert {id(one) for one, _ in found[::2]}.isdisjoint(id(one) for one, _ in found[1::2])


@pytest.mark.parametrize(
    "wrong, named", [({"discriminator_rate": 0.0}, "rate: given 0.0"), ({"discriminator_betas": [0.5, 1.0]}, "betas")]
)
def test_a_discriminators_optimiser_that_cannot_be_is_refused(wrong, named):
    with pytest.raises(ModelError, match=f"discriminator_{named}"):
        Factor(**wrong)


@pytest.mark.parametrize("given", [1, IMAGES + 1])
def test_an_impossible_batch_size_is_refused(given):
    with pytest.raises(ModelError, match=f"batch_size must be between 2 and the 41 training images, got {given}"):
        run(make(), Training(epochs=1, batch_size=given))


@pytest.mark.parametrize("name", NAMES + ["guided_vae_release"])
def test_bfloat16_trains_to_finite_float32_weights(name):
    objective = run(make(name), Training(epochs=1, batch_size=6, precision="bfloat16"))
    for parameter in objective.parameters():
        assert parameter.dtype == torch.float32 and torch.isfinite(parameter).all()
    assert not same(objective, run(make(name), Training(epochs=1, batch_size=6, precision="float32")))


def test_an_epoch_shows_each_image_at_most_once_and_epochs_differ():
    images = torch.arange(IMAGES, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()
    labels, steps = torch.arange(IMAGES), IMAGES // 6
    shuffled, orders = Shuffled(images, labels, 6, 0), []
    assert shuffled.steps == steps
    for epoch in range(3):
        drawn = [shuffled[epoch * steps + k] for k in range(steps)]
        order = torch.cat([batch.labels for batch in drawn]).tolist()
        assert len(order) == len(set(order)) == steps * 6
        for batch in drawn:
            torch.testing.assert_close(batch.images[:, 0, 0, 0] * 255, batch.labels.float())
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]


def test_noise_differs_between_steps_and_does_not_depend_on_earlier_ones():
    def noise(batch):
        return torch.rand(5, generator=batch.generator).tolist()

    shuffled = Shuffled(*data(), 6, 0)
    assert noise(shuffled[3]) != noise(shuffled[4]) == noise(Shuffled(*data(), 6, 0)[4])


def test_the_order_of_an_epoch_is_drawn_once_and_is_the_seeds_permutation(monkeypatch):
    shuffled, drawn = Shuffled(*data(), 6, 7), []
    permute = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *given, **options: drawn.append(1) or permute(*given, **options))
    images, labels = data()
    for step in [*range(12), 3]:  # two epochs, then back as no training goes
        batch = shuffled[step]
        order = permute(IMAGES, generator=torch.Generator().manual_seed(mix(7, 1, step // 6)))
        index = order[step % 6 * 6 : step % 6 * 6 + 6]
        assert torch.equal(batch.labels, labels[index])
        torch.testing.assert_close(batch.images, images[index] / 255)
    assert len(drawn) == 3


def test_mix_gives_distinct_seeds_that_torch_accepts():
    found = {mix(seed, kind, number) for seed in range(10) for kind in (1, 2) for number in range(100)}
    assert len(found) == 2000 and all(0 <= value < 2**63 for value in found)
    assert mix(1, 2) != mix(2, 1) and mix(0) != mix(0, 0)


def test_meter_gives_means_since_the_last_flush():
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"a": torch.tensor(value)})
    meter.add({"b": torch.tensor(5.0)})
    assert meter.flush() == {"a": 3.0, "b": 5.0} and meter.flush() == {}


def test_batches_cover_all_images_in_order_as_fractions():
    images = data()[0]
    found = list(batches(images, 16))
    assert [len(batch) for batch in found] == [16, 16, 9]
    torch.testing.assert_close(torch.cat(found), images / 255)
