"""Guidance parts: each pair on each regulariser, what each reads and excites, and what they refuse."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from sklearn.linear_model import LinearRegression
from torchvision.transforms import InterpolationMode

from gvae import losses
from gvae.augment import Augment
from gvae.batch import Batch, Seen
from gvae.errors import ModelError
from gvae.guidance import LightDecoder
from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder
from gvae.objective import VAEObjective
from gvae.objectives import OBJECTIVES, PARTS
from gvae.part import together
from gvae.pretrain import Training, build_optimisers, pretrain
from gvae.recorder import Recorder
from gvae.regularizers import REGULARIZERS, Beta
from gvae.same_class import SameClass
from gvae.vae import Posterior
from gvae.warp import sampling_matrix, warp
from gvae.warps import Warps, standardised

SHAPE, CLASSES, LATENTS = (1, 12, 12), 3, 12
WARP = {"rotation": 20.0, "scale": [0.8, 1.2], "translation": 0.1}
PART = {
    "geometry": {"kind": "geometry", "canonical_weight": 1.0},
    "attribute": {"kind": "attribute", "latents": 3, "head": "prototype"},
    "warps": {"kind": "warps"},
    "instances": {"kind": "instances", "instance_weight": 1.0, "projection": 8},
    "same_class": {"kind": "same_class", "class_weight": 1.0},
}
SIZE = {"kind": "attribute", "attribute": "size", "target": "continuous", "latents": 1, "form": "release"}
DARK = {"kind": "attribute", "attribute": "dark", "target": "binary", "latents": 1}
THIRD = {"kind": "attribute", "attribute": "third", "target": "categorical", "values": 3, "latents": 2}
REGULARIZER = {"capacity": {"gamma": 1.0}, "factor": {"discriminator_width": 8}}


@pytest.fixture(autouse=True)
def tiny_trunk(monkeypatch):
    widths = (16, 16)
    monkeypatch.setitem(TRUNKS, "tiny", (partial(ConvEncoder, widths=widths), partial(ConvDecoder, widths=widths)))


def make(*parts, regularizer="kl", warp=WARP, seed=0, **options):
    return OBJECTIVES["guided"](
        SHAPE, CLASSES, 30, seed, "tiny", LATENTS, regularizer=regularizer, parts=list(parts), warp=warp, **options
    )


def factors_of(n):
    place = torch.arange(n)
    return {"size": torch.linspace(2.0, 5.0, n), "dark": (place % 2) * 7.0, "third": (place % 3) * 0.5}


def batch_of(n=12, seed=0, step=0):
    images = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.arange(n) % CLASSES, torch.Generator().manual_seed(seed + 1), step, factors_of(n))


def test_every_part_has_its_contract():
    assert set(PART) == set(PARTS)


PAIRS = [*itertools.combinations(PART.values(), 2), (SIZE, DARK), (THIRD, PART["attribute"])]


@pytest.mark.parametrize("regularizer", REGULARIZERS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "+".join(one.get("attribute", one["kind"]) for one in pair))
def test_every_pair_of_parts_takes_steps_on_every_regulariser(pair, regularizer):
    objective = make(*pair, regularizer={"kind": regularizer, **REGULARIZER.get(regularizer, {})})
    batch = batch_of()
    objective.prepare(batch.factors)
    phases = objective.phases()
    optimisers = build_optimisers(phases, 1e-3)
    for step in range(3):
        for phase in phases:
            loss, terms = phase.loss(batch._replace(step=step))
            assert all(torch.isfinite(value) for value in (loss, *terms.values()))
            optimisers[phase.optimiser].zero_grad(set_to_none=True)
            loss.backward()
            missing = [one for one in phase.parameters if one.grad is None]
            assert phase.name == "inhibition" or not missing
            if phase.name in ("adversary", "discriminator"):  # what they read is detached
                assert all(one.grad is None or one.grad.abs().sum() == 0 for one in objective.vae.parameters()) or step
            optimisers[phase.optimiser].step()
            objective.zero_grad(set_to_none=True)
    assert all(torch.isfinite(value).all() for value in objective.state_dict().values())


def test_labels_used_is_what_the_parts_read():
    assert make().labels_used == make(PART["warps"]).labels_used == "none"
    assert make(PART["attribute"]).labels_used == make(SIZE, PART["attribute"]).labels_used == "class"
    assert make(SIZE).labels_used == "factor" and make(SIZE, DARK).factors == ["dark", "size"]


def test_terms_are_named_by_their_attribute():
    objective = make(SIZE, DARK, PART["attribute"])
    objective.prepare(factors_of(12))
    named = {name: set(phase.loss(batch_of())[1]) for phase in objective.phases() for name in [phase.name]}
    assert {"excitation", "excitation_accuracy", "excitation_size", "excitation_r2_size"} <= named["main"]
    assert "inhibition_dark" in named["main"] and named["inhibition"] == {"inhibition_size"}
    assert {"adversary_r2_size", "adversary_accuracy_dark", "adversary_accuracy"} <= named["adversary"]


def test_targets_are_levels_and_standardised_numbers():
    objective = make(SIZE, DARK, THIRD)
    objective.prepare(factors_of(30))
    size, dark, third = objective.parts
    batch = batch_of(30)
    seen = objective.look(batch)
    truth = size.truth(batch, seen)
    assert truth.shape == (30, 1) and truth.mean().item() == pytest.approx(0, abs=1e-5)
    assert truth.std().item() == pytest.approx(1, rel=1e-5)
    assert dark.truth(batch, seen).tolist() == [0, 1] * 15 and third.truth(batch, seen).tolist() == [0, 1, 2] * 10


def test_excitation_and_inhibition_are_their_formulas():
    objective = make(SIZE, DARK, PART["attribute"])
    objective.prepare(factors_of(12))
    batch, z = batch_of(), torch.randn(12, LATENTS, generator=torch.Generator().manual_seed(5))
    seen = Seen(batch.images, None, Posterior(z, z), z, None)
    with torch.no_grad():
        size, dark, kind = objective.parts
        answer = size.head(objective.vae.slot(z, "size"))
        apart = 50 * F.mse_loss(answer, size.truth(batch, seen))  # without inhibition, a phase of its own
        assert torch.equal(size.loss(batch, seen)[0], apart)
        rest = z[:, [i for i in range(LATENTS) if i != 1]]  # dark is the second latent
        logit = dark.adversary(rest)
        half = F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, 0.5))
        torch.testing.assert_close(dark.inhibition_loss(z)[0], 50 * half)
        torch.testing.assert_close(size.inhibition_loss(z)[0], 50 * size.adversary(z[:, 1:]).square().mean())


def bars(n=240, seed=0):
    """Bars whose side of the image is a yes-or-no attribute and whose brightness is a number; neither is the other."""
    generator = torch.Generator().manual_seed(seed)
    left, size = torch.randint(0, 2, (n,), generator=generator), torch.rand(n, generator=generator)
    images = 20 * torch.rand(n, *SHAPE, generator=generator)
    for i in range(n):
        images[i, :, 2:10, 6 * left[i] : 6 * left[i] + 6] += 230 * size[i]
    return images.to(torch.uint8), {"dark": left.float(), "size": size}


class Kept(Recorder):
    def __init__(self):
        self.rows = []

    def scalars(self, step, values):
        self.rows.append({name.removeprefix("train/"): value for name, value in values.items()})


def recorded(weight):
    """Train with both attributes excited and inhibited by ``weight``; return the means of the last records' terms."""
    images, factors = bars()
    options = {"inhibition": weight, "excitation": weight, "adversary_hidden": 32, "form": "joint"}
    base = {"regularizer": {"kind": "kl", "beta": 0.5}, "likelihood": "gaussian", "warp": None}
    objective = make({**DARK, **options}, {**SIZE, **options}, **base)
    training = Training(epochs=40, batch_size=48, learning_rate=5e-3, schedule="constant")
    labels, heard = torch.zeros(len(images), dtype=torch.long), Kept()
    pretrain(objective, images, labels, training=training, seed=0, recorder=heard, factors=factors)
    rows = [row for row in heard.rows if "adversary_accuracy_dark" in row][-8:]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[-1]}


def test_the_adversaries_fall_to_chance_where_the_rest_could_carry_the_attributes():
    """Chance is 0.5 and 0. Free: 0.93 and 0.28 to 0.39 with seeds 0 and 1; inhibited: 0.56 to 0.60, 0.03 to 0.07."""
    free, held = recorded(0.0), recorded(10.0)
    assert free["adversary_accuracy_dark"] > 0.85 and free["adversary_r2_size"] > 0.2
    assert held["adversary_accuracy_dark"] < 0.65 and held["adversary_r2_size"] < 0.15
    assert held["excitation_accuracy_dark"] > 0.95 and held["excitation_r2_size"] > 0.85


def test_what_a_factor_lacks_is_said():
    images, labels = torch.zeros(24, *SHAPE, dtype=torch.uint8), torch.arange(24) % CLASSES
    training = Training(1, 12)
    cases = [
        (SIZE, {}, "attribute 'size' is no known factor of these images; they have: none"),
        (SIZE, {"size": torch.ones(24)}, "attribute 'size' is 1 for every image: nothing to excite"),
        (DARK, {"dark": torch.arange(24.0)}, "has 24 distinct values, but its target is binary with 2; give target"),
    ]
    for part, factors, words in cases:
        with pytest.raises(ModelError, match=words):
            pretrain(make(part), images, labels, training=training, seed=0, factors=factors)


@pytest.mark.parametrize(
    ("parts", "options", "words"),
    [
        ([{**SIZE, "head": "cosine"}], {}, "attribute 'size': head 'cosine' is for categories; a continuous target"),
        ([{"kind": "attribute", "target": "binary"}], {}, "attribute 'class': classes are categorical and counted"),
        ([{**THIRD, "values": None}], {}, "values: given None; a categorical factor allows 2 or more, others none"),
        ([{"kind": "attribute", "attribute": "content"}], {}, "'content' is the slot of what no part asks for"),
        ([SIZE, SIZE], {}, "parts: attribute 'size' twice; allowed: each once"),
        (["warps"], {"warp": None}, "warp: given nothing; warps 'warp' needs one, such as {rotation: 30}"),
        (["warps"], {"warp": {"flip": 0.5}}, "warp: crop .* and flip 0.5 have no slot; allowed: rotation, scale"),
        (["warps"], {"warp": {"brightness": 0.5}}, "which moves no pixel; allowed: one or more of rotation"),
        (["warps"], {"warp": {"rotatio": 5}}, "warp: unknown option 'rotatio'; allowed: rotation, translation"),
        (["instance"], {}, "parts.0: unknown kind 'instance'; allowed: geometry, attribute, warps, instances, same"),
        ([{"kind": "warps", "excite": 1}], {}, "parts.0: warps: unknown option 'excite'; allowed: excitation, inhib"),
        ([{"kind": "instances", "slots": ["class"]}], {}, r"slots \['class'\]: one or more of content"),
        ([{"kind": "instances", "temperature": 0.0}], {}, "temperature, projection: given 0.0, 0; allowed: above 0"),
        ([{"kind": "same_class", "slots": []}], {}, r"slots \[\]: one or more of content"),
        ([{"kind": "same_class", "set_size": 1}], {}, "temperature, set_size, group_size: given 0.1, 1, 1; allowed:"),
        (["same_class", {"kind": "same_class", "set_size": 4}], {}, "parts: sameclass twice"),
        ([], {"elbo": 0.0}, "elbo: given 0.0; allowed: above 0, or 0 where parts train the encoder alone"),
        (["geometry", {**SIZE, "attribute": "scale", "latents": 2}], {}, "slot 'scale': one part asks for 1 latents"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_what_does(parts, options, words):
    with pytest.raises(ModelError, match=words):
        make(*parts, **options)


def test_parts_that_ask_for_the_same_slot_share_it():
    objective = make("geometry", "warps")
    assert objective.vae.slot_sizes == {"rotation": 1, "scale": 1, "translation": 2, "content": LATENTS - 4}


def test_the_warp_of_a_seen_image_is_torchvisions_by_the_parameters_that_it_excites():
    """Undone by hand from the standardised targets: rotation (counter-clockwise), scale and translation."""
    objective = make("warps")
    spots = torch.zeros(4, *SHAPE)
    spots[:, 0, 4:7, 5:9] = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    seen = objective.look(batch_of(4)._replace(images=spots))
    values = standardised(Augment(rotation=20.0, scale=(0.8, 1.2), translation=0.1), seen.drawn)
    for i, (turn, size, across, down) in enumerate(values.tolist()):
        angle, scale = turn * 20 / math.sqrt(3), 1 + size * 0.4 / math.sqrt(12)
        move = [one * 0.1 / math.sqrt(3) * 12 for one in (across, down)]
        turned = TF.affine(spots[i], -angle, [0, 0], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
        assert F.l1_loss(seen.images[i].sum(0), _moved(turned[0], move)) < 0.03
    assert (seen.images - spots).abs().amax((1, 2, 3)).min() > 0.02


def _moved(image, move):
    matrix = sampling_matrix("translation", torch.tensor([[-2 * move[0] / 12, -2 * move[1] / 12]]))
    return warp(image[None, None], matrix)[0, 0]


def test_standardised_parameters_have_mean_0_and_variance_1():
    augment = Augment(rotation=30.0, scale=(0.5, 1.0), translation=0.2, shear=10.0)
    drawn = augment.draw(20_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    values = standardised(augment, drawn)
    assert values.shape == (20_000, 5)
    torch.testing.assert_close(values.mean(0), torch.zeros(5), atol=0.03, rtol=0)
    torch.testing.assert_close(values.var(0), torch.ones(5), atol=0.03, rtol=0)


def shapes(n=240, seed=0):
    """Letters L of three proportions, so that a turn can be seen: uint8."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(n, *SHAPE)
    for i in range(n):
        images[i, 0, 3:9, 4:6] = 255
        images[i, 0, 7:9, 4 : 6 + i % 3] = 255
    return (images * (0.7 + 0.3 * torch.rand(n, 1, 1, 1, generator=generator))).to(torch.uint8), torch.arange(n) % 3


def test_excited_slots_predict_the_warp_and_content_draws_the_image_before_it():
    images, labels = shapes()
    objective = make({"kind": "warps", "inhibition": 20.0}, warp={"rotation": 40.0, "translation": 0.15})
    before = [parameter.detach().clone() for parameter in objective.parts[0].canonical.parameters()]
    training = Training(epochs=40, batch_size=48, learning_rate=5e-3)
    pretrain(objective, images, labels, training=training, seed=0)
    assert not all(map(torch.equal, before, objective.parts[0].canonical.parameters()))
    plain = images / 255
    batch = Batch(plain, labels, torch.Generator().manual_seed(9))
    with torch.no_grad():
        seen = objective.look(batch)
        truth, mean = objective.parts[0].truth(batch, seen), seen.posterior.mean
        slots = torch.cat([objective.vae.slot(mean, name) for name in ("rotation", "translation")], 1)
        half = len(images) // 2

        def r2(codes):
            return LinearRegression().fit(codes[:half], truth[:half]).score(codes[half:], truth[half:])

        assert r2(slots) > 0.8
        undone = objective.pictures(mean)["unwarped"]
        assert (undone - plain).square().mean() < 0.3 * (seen.images - plain).square().mean()


def test_the_canonical_target_is_the_image_before_the_warp():
    objective = make("warps", PART["geometry"])
    batch = batch_of(5)
    with torch.no_grad():
        seen = objective.look(batch)
        warps, geometry = objective.parts
        content = objective.vae.slot(seen.z, "content")
        expected = losses.bernoulli_nll(warps.canonical(content), batch.images).mean()
        torch.testing.assert_close(warps.loss(batch, seen)[1]["canonical"], expected)
        light = (geometry.light(seen.z).canonical - batch.images).square().sum() / 5
        torch.testing.assert_close(geometry.loss(batch, seen)[1]["light_canonical"], light)
        assert not torch.equal(seen.images, batch.images)


def test_contrastive_learns_to_find_the_other_warp_and_costs_no_decoder():
    images = torch.randint(0, 256, (48, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    objective = OBJECTIVES["contrastive"](SHAPE, CLASSES, 48, 0, "tiny", LATENTS, warp={"rotation": 10.0})
    decoder = [parameter.clone() for parameter in objective.vae.decoder.parameters()]
    batch = Batch(images / 255, torch.zeros(48, dtype=torch.long), torch.Generator().manual_seed(4))
    first = objective.loss(batch)[1]
    assert set(first) == {"instances", "instance_accuracy"}
    pretrain(objective, images, batch.labels, training=Training(20, 24, 5e-3), seed=0)
    with torch.no_grad():
        last = objective.loss(batch._replace(generator=torch.Generator().manual_seed(4)))[1]
    assert last["instances"] < 0.5 * first["instances"] and last["instance_accuracy"] > 0.9
    assert all(map(torch.equal, decoder, objective.vae.decoder.parameters()))


def test_images_of_a_class_are_shown_together_and_learn_to_find_each_other():
    images, labels = shapes()
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(2))]
    names = torch.arange(len(images)) % 40  # of six images each, which have nothing in common but the label
    objective = OBJECTIVES["supervised_contrastive"](SHAPE, 40, len(images), 0, "tiny", LATENTS, set_size=3)
    assert objective.set_size == 3 and objective.labels_used == "class" and not objective.decodes
    seen = []
    inner = objective.loss
    objective.loss = lambda batch: seen.append(batch.labels) or inner(batch)
    pretrain(objective, images, names, training=Training(1, 24, 5e-3), seed=0)
    assert all((batch.view(-1, 3) == batch[::3, None]).all() for batch in seen) and len(seen) == 10
    batch = Batch(images[:120] / 255, labels[:120], torch.Generator())
    objective = OBJECTIVES["supervised_contrastive"](SHAPE, 3, len(images), 0, "tiny", LATENTS)
    images, labels = shapes(seed=1)
    batch = Batch(images[:60] / 255, labels[:60], torch.Generator())
    first = objective.loss(batch)[1]
    assert set(first) == {"same_class", "same_class_accuracy"}
    pretrain(objective, images, labels, training=Training(6, 24, 5e-3), seed=0)
    with torch.no_grad():
        last = objective.eval().loss(batch)[1]
    least = math.log(19)  # of 59 others the 19 partners, alike: nothing tells one from another
    assert least <= last["same_class"] < least + 0.5 * (first["same_class"] - least)
    assert last["same_class_accuracy"] > 0.95


def test_both_views_of_an_image_count_where_there_are_two():
    one, two = make(PART["same_class"]), make(PART["same_class"], PART["instances"])
    assert one.set_size == two.set_size == 2
    batch = batch_of(6)
    with torch.no_grad():
        for objective, views in ((one, 1), (two, 2)):
            seen = objective.look(batch)
            both = [seen.posterior.mean, *([seen.other.mean] if views == 2 else [])]
            z, labels = torch.cat([objective.vae.slot(mean, "content") for mean in both]), batch.labels.repeat(views)
            expected = losses.supervised_contrastive(z, labels, 0.1).mean()
            torch.testing.assert_close(objective.parts[0].loss(batch, seen)[1]["same_class"], expected)


def test_parts_that_want_sets_of_different_size_are_refused():
    class Threes(Warps):
        set_size = 3

    with pytest.raises(ModelError, match=r"set_size, group_size: parts ask for \[2, 3\], \[1\]; allowed: one number"):
        VAEObjective(
            SHAPE, 3, 30, 0, "tiny", LATENTS, regularizer=Beta(), parts=[Threes(), SameClass()],
            warp=Augment(rotation=9.0),
        )  # fmt: skip


def test_a_part_that_needs_sets_goes_with_one_that_needs_groups_too():
    class Pairs(Warps):
        set_size = 2

    class Rows(Warps):
        group_size = 4

    assert together([Pairs(), SameClass(group_size=4), Warps()]) == (2, 4) and together([Warps()]) == (1, 1)
    with pytest.raises(ModelError, match="group_size: given 4 with set_size 1; allowed: where a batch has sets"):
        together([Rows()])


def test_components_are_sorted_by_the_variance_that_they_account_for():
    objective = make("geometry", warp=None)
    z = torch.randn(400, LATENTS, generator=torch.Generator().manual_seed(0))
    geometry = objective.geometry
    with torch.no_grad():
        geometry.light_decoder.gain.copy_(torch.tensor([1.0, 5, 2, 8, 3, 9, 0.5, 4, 7, 6]))
        found = geometry.sorted_components(z)
        images = []
        for k in range(10):  # each component's own part of the canonical image
            alone = torch.zeros(400, LATENTS)
            alone[:, 2 + k] = z[:, 2 + k]
            images.append(geometry.light(alone).canonical.var(0, correction=0).sum())
        order = torch.stack(images).argsort(descending=True)
    torch.testing.assert_close(found, geometry.components[order])


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("zoom", [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1]]),
        ("stretch", [[0.5, 0, 0], [0, 2.0, 0], [0, 0, 1]]),
        ("affine", [[1.5, 2, 0.1], [-0.25, 1.5, 0.3], [0, 0, 1]]),
    ],
)
def test_more_transforms_are_their_matrices_and_start_at_the_identity(name, matrix):
    values = {"zoom": [0.5], "stretch": [0.5, 2.0], "affine": [0.5, 2, 0.1, -0.25, 0.5, 0.3]}[name]
    torch.testing.assert_close(sampling_matrix(name, torch.tensor([values])), torch.tensor([matrix]))
    light = LightDecoder(SHAPE, 3, [name])
    light.start_at_identity()
    at_zero = light.matrices({name: torch.zeros(2, len(values))})[0]
    torch.testing.assert_close(at_zero, torch.eye(3).repeat(2, 1, 1))
    moved = light.matrices({name: torch.ones(2, len(values))})[0]
    assert (moved - at_zero).abs().amax((1, 2)).min() > 0.05


class Stop(Exception):
    pass


class StopAt(Recorder):
    def scalars(self, step, values):
        if step >= 8:
            raise Stop


def test_a_resumed_run_of_everything_ends_at_the_same_weights(tmp_path):
    images, factors = bars(40)
    labels = torch.arange(40) % CLASSES

    def run(objective, **options):
        training = Training(epochs=3, batch_size=10, learning_rate=1e-2, checkpoint_seconds=0.0)
        return pretrain(objective, images, labels, training=training, seed=0, factors=factors, **options)

    everything = partial(make, *PART.values(), SIZE, regularizer={"kind": "factor", "discriminator_width": 8})
    whole = run(everything())
    import gvae.pretrain as loop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop, "LOG_EVERY", 3)
        run(everything(), state=tmp_path / "state.pt", recorder=StopAt())
    assert (tmp_path / "state.pt").exists()
    resumed = run(everything(seed=7), state=tmp_path / "state.pt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(ModelError, match="belongs to another training: data is"):
        pretrain(
            everything(), images, labels, seed=0, state=tmp_path / "state.pt", factors={"size": factors["size"] * 2},
            training=Training(epochs=3, batch_size=10, learning_rate=1e-2, checkpoint_seconds=0.0),
        )  # fmt: skip
