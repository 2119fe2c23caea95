"""Augmentation against torchvision, image by image; its draws against uniform; the same seed, the same result."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TV
from scipy import stats
from torchvision.transforms import InterpolationMode

from gvae import colour
from gvae.augment import Augment, Parameters, displacement, reading_matrix
from gvae.errors import ModelError
from gvae.warp import warp

BILINEAR = {"interpolation": InterpolationMode.BILINEAR}
EVERYTHING = dict(
    rotation=20.0, translation=0.1, scale=(0.8, 1.2), shear=10.0, crop=(0.5, 1.0), flip=0.5, elastic=0.08,
    brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
)  # fmt: skip
GREY = {name: value for name, value in EVERYTHING.items() if name not in ("saturation", "hue")}
ONE_BY_ONE = [{name: value} for name, value in EVERYTHING.items()]


def images(n=6, channels=3, height=20, width=20, seed=0):
    """Smooth enough that bilinear reading is well conditioned, without symmetry, all of [0, 1] used."""
    noise = torch.rand(n, channels, height // 4 + 1, width // 4 + 1, generator=noise_of(seed))
    return F.interpolate(noise, (height, width), mode="bilinear", align_corners=True)


def noise_of(seed):
    return torch.Generator().manual_seed(seed)


def neutral(n):
    one, zero = torch.ones(n), torch.zeros(n)
    return Parameters(
        crop=torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(n, 1), flip=zero.bool(), rotation=zero,
        translation=torch.zeros(n, 2), scale=one, shear=zero, brightness=one, contrast=one, saturation=one, hue=zero,
        elastic=torch.zeros(n, 2, 4, 4),
    )  # fmt: skip


def drawn(augment, n, seed=0):
    return augment.draw(n, noise_of(seed), torch.device("cpu"))


def by_torchvision(image, one, fill=0.0):
    """One image (c, h, w) under one image's rotation, translation, scale and shear, on a wide border of ``fill``."""
    height, width = image.shape[1:]
    border = 2 * max(height, width)
    wide = F.pad(image, (border, border, border, border), value=fill)
    right, down = one.translation.tolist()
    moved = TV.affine(
        wide, angle=-one.rotation.item(), translate=[right * width, down * height], scale=one.scale.item(),
        shear=[one.shear.item(), 0.0], **BILINEAR,
    )  # fmt: skip
    return TV.center_crop(moved, [height, width])


def each(parameters):
    return [Parameters(*values) for values in zip(*parameters, strict=True)]


@pytest.mark.parametrize("size", [(20, 20), (20, 28), (21, 12)])
@pytest.mark.parametrize("fill", [0.0, 0.7])
@pytest.mark.parametrize(
    "options",
    [
        dict(rotation=180.0), dict(translation=0.4), dict(scale=(0.5, 2.0)), dict(shear=40.0),
        dict(rotation=90.0, translation=0.2, scale=(0.7, 1.4), shear=30.0),
    ],
    ids=lambda options: "+".join(options),
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_affine_is_torchvisions_with_the_same_parameters(size, fill, options, channels):
    augment, given = Augment(**options, fill=fill), images(6, channels, *size)
    parameters = drawn(augment, 6)
    found = augment.apply(given, parameters)
    for image, one, result in zip(given, each(parameters), found, strict=True):
        torch.testing.assert_close(result, by_torchvision(image, one, fill), atol=2e-5, rtol=0)
    assert (found - given).abs().amax((1, 2, 3)).min() > 0.01


def test_affine_is_torchvisions_on_the_image_itself_where_the_fill_is_0():
    augment, given = Augment(rotation=45.0, shear=20.0), images(4)
    parameters = drawn(augment, 4)
    for image, one, result in zip(given, each(parameters), augment.apply(given, parameters), strict=True):
        angle, shear = -one.rotation.item(), [one.shear.item(), 0.0]
        expected = TV.affine(image, angle=angle, translate=[0, 0], scale=1.0, shear=shear, **BILINEAR)
        torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)


def test_a_positive_angle_turns_counter_clockwise_and_a_positive_translation_moves_right_and_down():
    given = images(1)
    turned = Augment(rotation=180.0).apply(given, neutral(1)._replace(rotation=torch.tensor([90.0])))
    torch.testing.assert_close(turned, given.rot90(1, (2, 3)), atol=2e-5, rtol=0)
    moved = Augment(translation=1.0).apply(given, neutral(1)._replace(translation=torch.tensor([[0.1, 0.25]])))
    expected = torch.zeros_like(given)
    expected[..., 5:, 2:] = given[..., :-5, :-2]
    torch.testing.assert_close(moved, expected, atol=2e-5, rtol=0)


def test_a_flip_is_torchvisions_and_leaves_the_others_alone():
    augment, given = Augment(flip=0.5), images(40)
    parameters = drawn(augment, 40)
    assert 0 < parameters.flip.sum() < 40
    for image, flipped, result in zip(given, parameters.flip, augment.apply(given, parameters), strict=True):
        torch.testing.assert_close(result, TV.hflip(image) if flipped else image, atol=1e-5, rtol=0)
    always = Augment(flip=1.0)
    torch.testing.assert_close(always(given, noise_of(0)), TV.hflip(given), atol=1e-5, rtol=0)


@pytest.mark.parametrize("box", [(0, 0, 24, 20), (4, 6, 12, 10), (0, 8, 20, 9), (3, 0, 24 - 3, 7)])
def test_a_crop_is_torchvisions_resized_crop(box):
    """With pixels beyond the border as the border's; inside, torchvision repeats the crop's own last pixels."""
    top, left, height, width = box
    given = images(2, 3, 24, 20)
    shares = torch.tensor([[left / 20, top / 24, width / 20, height / 24]]).repeat(2, 1)
    found = Augment(crop=(0.1, 1.0), outside="edge").apply(given, neutral(2)._replace(crop=shares))
    expected = TV.resized_crop(given, top, left, height, width, [24, 20], **BILINEAR, antialias=False)
    rows, columns = 24 // height + 1, 20 // width + 1  # an output pixel within half an input pixel of the crop's sides
    inner = (slice(None), slice(None), slice(rows * (top > 0), -rows if top + height < 24 else None))
    inner += (slice(columns * (left > 0), -columns if left + width < 20 else None),)
    torch.testing.assert_close(found[inner], expected[inner], atol=2e-5, rtol=0)
    assert found[inner].numel() > 0.4 * found.numel()


@pytest.mark.parametrize("name", ["brightness", "contrast"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_of_any_image_is_torchvisions(name, channels):
    check_jitter(name, images(8, channels))


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_jitter_of_colour_images_is_torchvisions(name):
    check_jitter(name, images(8))


def check_jitter(name, given):
    given[0, :, 0] = 0.5  # some greys, blacks, whites and pure colours
    given[1, :, 0], given[2, :, 1], given[3, 0, 2] = 0.0, 1.0, 1.0
    augment = Augment(**{name: 0.5 if name == "hue" else 1.5})
    parameters = drawn(augment, len(given))
    factors = getattr(parameters, name)
    for image, factor, result in zip(given, factors, augment.apply(given, parameters), strict=True):
        expected = getattr(TV, f"adjust_{name}")(image, factor.item())
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_one_warp_is_crop_then_flip_then_affine_one_after_the_other():
    """But for interpolation, wherever what is left of the crop reaches: a smooth image, read once or six times."""
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, 96)], indexing="ij")
    spots = torch.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 0.1) + 0.5 * torch.exp(-((x + 0.4) ** 2 + y**2) / 0.2)
    given = (spots / spots.max()).expand(5, 1, 96, 96)
    augment = Augment(crop=(0.6, 0.9), flip=0.5, rotation=30.0, translation=0.1, scale=(0.8, 1.2), shear=20.0)
    parameters = drawn(augment, 5, seed=3)
    assert 0 < parameters.flip.sum() < 5

    def in_turn(names):
        found, reached = given, torch.ones_like(given)
        for name in names:
            step = neutral(5)._replace(**{name: getattr(parameters, name)})
            found, reached = augment.apply(found, step), augment.apply(reached, step)
        return torch.where(reached > 0.999, found - augment.apply(given, parameters), 0).abs(), reached

    order = ["crop", "flip", "shear", "scale", "rotation", "translation"]
    apart, reached = in_turn(order)
    assert apart.max() < 0.02 and (reached > 0.999).float().mean() > 0.5
    for first, second in ((0, 1), (1, 2), (2, 4), (0, 5), (4, 5)):  # another order is another image
        swapped = list(order)
        swapped[first], swapped[second] = order[second], order[first]
        assert in_turn(swapped)[0].max() > 0.05, swapped


def test_elastic_is_torchvisions_with_the_same_displacement():
    augment, given = Augment(elastic=0.1), images(5, 3, 24, 20)
    parameters = drawn(augment, 5)
    moves = displacement(parameters.elastic, 24, 20).permute(0, 2, 3, 1)
    for image, move, result in zip(given, moves, augment.apply(given, parameters), strict=True):
        expected = TV.elastic(image, move[None], **BILINEAR)
        torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)


def test_the_points_of_elastic_stand_on_the_border_and_move_as_far_as_they_say():
    points = drawn(Augment(elastic=0.1, elastic_points=3), 7).elastic
    moves = displacement(points, 21, 31)
    torch.testing.assert_close(moves[:, :, ::10, ::15], -2 * points)
    assert points.shape == (7, 2, 3, 3) and points.abs().max() <= 0.1
    steps = moves.diff(dim=2).abs().max()  # smooth: no pixel's neighbour is read far from its own place
    assert steps < 3 * 2 * 0.2 / 10


def test_points_that_all_move_alike_are_a_translation_after_the_affine():
    given = images(4)
    affine = dict(rotation=30.0, scale=(0.8, 1.2), shear=20.0)
    parameters = drawn(Augment(**affine), 4)
    bent = parameters._replace(elastic=torch.tensor([0.1, -0.05])[:, None, None].expand(4, 2, 4, 4))
    shifted = reading_matrix(parameters, 20, 20)
    shifted[:, :2, 2] += -2 * torch.tensor([0.1, -0.05])
    expected = warp(given, shifted)
    torch.testing.assert_close(Augment(**affine, elastic=0.1).apply(given, bent), expected, atol=2e-5, rtol=0)


def test_colour_comes_after_the_warp_in_the_order_that_is_stated():
    augment, given = Augment(**EVERYTHING), images()
    parameters = drawn(augment, len(given))
    warp_only = Augment(**{name: value for name, value in GREY.items() if name not in ("brightness", "contrast")})
    expected = warp_only.apply(given, parameters)
    for name in ("brightness", "contrast", "saturation", "hue"):
        expected = getattr(colour, f"adjust_{name}")(expected, getattr(parameters, name))
    assert torch.equal(augment.apply(given, parameters), expected)


def test_pixels_beyond_the_image():
    given = torch.full((1, 3, 8, 8), 0.5)
    parameters = neutral(1)._replace(translation=torch.tensor([[0.5, 0.0]]))
    for options, value in ((dict(), 0.0), (dict(fill=0.8), 0.8), (dict(outside="edge"), 0.5)):
        moved = Augment(translation=1.0, **options).apply(given, parameters)
        torch.testing.assert_close(moved[..., 4:], given[..., 4:])
        torch.testing.assert_close(moved[..., :4], torch.full((1, 3, 8, 4), value))


def test_neutral_options_give_the_very_same_tensor():
    given = images()
    assert Augment()(given, noise_of(0)) is given
    assert Augment(outside="edge", fill=0.3, aspect=2.0)(given, noise_of(0)) is given


@pytest.mark.parametrize("options", ONE_BY_ONE, ids=lambda options: next(iter(options)))
def test_neutral_parameters_leave_images_as_they_are(options):
    given = images()
    torch.testing.assert_close(Augment(**options).apply(given, neutral(6)), given, atol=2e-6, rtol=0)


@pytest.mark.parametrize("options", ONE_BY_ONE, ids=lambda options: next(iter(options)))
def test_every_option_does_something_of_its_own_to_every_image(options):
    one, options = images(1), {"flip": 1.0} if "flip" in options else options
    found = Augment(**options)(one.expand(12, -1, -1, -1), noise_of(1))
    assert ((found - one).abs().amax((1, 2, 3)) > 1e-3).all()
    if "flip" not in options:
        pairs = (found[:, None] - found[None]).abs().amax((2, 3, 4)) + torch.eye(12)
        assert pairs.min() > 1e-4


@pytest.mark.parametrize(("options", "channels"), [(EVERYTHING, 3), (GREY, 1)])
def test_the_generator_alone_decides(options, channels):
    augment, given = Augment(**options), images(channels=channels)
    before = given.clone()
    first = augment(given, noise_of(5))
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(augment(given, noise_of(5)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augment(given, noise_of(6)), first)
    generator = noise_of(5)
    assert torch.equal(augment(given, generator), first)
    assert not torch.equal(augment(given, generator), first)  # it moves on
    assert torch.equal(given, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_repeats_itself_and_gives_what_the_cpu_gives():
    augment, given = Augment(**EVERYTHING), images().to("cuda")
    first, again = (augment(given, torch.Generator("cuda").manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again) and first.device.type == "cuda"
    torch.testing.assert_close(augment(given, noise_of(0)).cpu(), augment(given.cpu(), noise_of(0)), atol=1e-4, rtol=0)


def test_the_host_reads_no_value():
    """On the meta device there is none to read: whatever asks for one raises."""
    for outside in ("fill", "edge"):
        augment = Augment(**EVERYTHING, outside=outside)
        parameters = Parameters(*(value.to("meta") for value in drawn(augment, 6)))
        assert augment.apply(images().to("meta"), parameters).shape == (6, 3, 20, 20)


@pytest.mark.parametrize(("channels", "options"), [(1, GREY), (3, EVERYTHING)])
@pytest.mark.parametrize("value", [0.0, 1.0, None])
def test_the_range_stays_and_nothing_is_nan(channels, options, value):
    given = images(64, channels) if value is None else torch.full((64, channels, 20, 20), value)
    for fill in (0.0, 1.0):
        wild = {**options, "brightness": 3.0, "contrast": 3.0, "shear": 80.0, "fill": fill}
        found = Augment(**wild)(given, noise_of(2))
        assert found.min() >= 0 and found.max() <= 1 and found.shape == given.shape and found.dtype == torch.float32


UNIFORM = {
    "rotation": (dict(rotation=30.0), lambda p: p.rotation, -30, 30),
    "translation across": (dict(translation=0.2), lambda p: p.translation[:, 0], -0.2, 0.2),
    "translation down": (dict(translation=0.2), lambda p: p.translation[:, 1], -0.2, 0.2),
    "scale": (dict(scale=(0.5, 1.2)), lambda p: p.scale, 0.5, 1.2),
    "shear": (dict(shear=20.0), lambda p: p.shear, -20, 20),
    "crop area": (dict(crop=(0.2, 0.8)), lambda p: p.crop[:, 2] * p.crop[:, 3], 0.2, 0.8),
    "crop left": (dict(crop=(0.2, 0.8)), lambda p: p.crop[:, 0] / (1 - p.crop[:, 2]), 0, 1),
    "crop top": (dict(crop=(0.2, 0.8)), lambda p: p.crop[:, 1] / (1 - p.crop[:, 3]), 0, 1),
    "crop log aspect": (
        dict(crop=(0.2, 0.4), aspect=2.0), lambda p: (p.crop[:, 2] / p.crop[:, 3]).log(), -math.log(2), math.log(2)
    ),
    "brightness": (dict(brightness=0.4), lambda p: p.brightness, 0.6, 1.4),
    "contrast": (dict(contrast=2.0), lambda p: p.contrast, 0.0, 3.0),
    "saturation": (dict(saturation=0.4), lambda p: p.saturation, 0.6, 1.4),
    "hue": (dict(hue=0.5), lambda p: p.hue, -0.5, 0.5),
    "elastic across": (dict(elastic=0.2), lambda p: p.elastic[:, 0, 1, 2], -0.2, 0.2),
    "elastic down": (dict(elastic=0.2), lambda p: p.elastic[:, 1, 3, 0], -0.2, 0.2),
}  # fmt: skip


@pytest.mark.parametrize("name", UNIFORM)
def test_parameters_are_uniform_and_independent_of_the_other_options(name):
    options, pick, low, high = UNIFORM[name]
    found = pick(drawn(Augment(**options), 20_000))
    assert stats.kstest(found.double().numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert torch.equal(pick(drawn(Augment(**{**EVERYTHING, **options}), 20_000)), found)


def test_every_two_parameters_are_uncorrelated():
    parameters = drawn(Augment(**EVERYTHING), 20_000)
    chosen = parameters._replace(crop=parameters.crop[:, :3], elastic=parameters.elastic[:, :, 1, 2:])
    columns = [value.double().reshape(20_000, -1) for value in chosen]
    width = columns[0][:, 2:]
    columns[0] = torch.cat([columns[0][:, :1] / (1 - width), columns[0][:, 1:2]], 1)
    correlation = np.corrcoef(torch.cat(columns, 1).numpy(), rowvar=False) - np.eye(16)
    assert np.abs(correlation).max() < 5 / math.sqrt(20_000)


def test_a_crop_never_leaves_the_image_nor_its_aspect():
    crop = drawn(Augment(crop=(0.05, 1.0), aspect=3.0), 20_000).crop
    left, top, width, height = crop.unbind(1)
    assert crop.min() > -1e-6 and max((left + width).max(), (top + height).max()) < 1 + 1e-6
    assert (width / height).log().abs().max() < math.log(3) + 1e-5
    assert (width > 0.97).sum() > 20  # wide ones are not thrown away


def test_a_flip_has_its_chance():
    flips = drawn(Augment(flip=0.3), 20_000).flip.sum().item()
    assert stats.binomtest(flips, 20_000, 0.3).pvalue > 1e-3
    assert not drawn(Augment(flip=0.0), 1000).flip.any() and drawn(Augment(flip=1.0), 1000).flip.all()


BAD = [
    (dict(rotation=200.0), "rotation: given 200.0; allowed: 0 to 180 degrees"),
    (dict(rotation=-1.0), "rotation: given -1.0; allowed: 0 to 180 degrees"),
    (dict(rotation=math.nan), "rotation: given nan; allowed: 0 to 180 degrees"),
    (dict(translation=1.5), "translation: given 1.5; allowed: 0 to 1, a share of the side"),
    (dict(scale=(0.0, 1.0)), "scale: given [0.0, 1.0]; allowed: two factors, 0 < lowest <= highest"),
    (dict(scale=(1.2, 0.8)), "scale: given [1.2, 0.8]; allowed: two factors, 0 < lowest <= highest"),
    (dict(scale=(1.0, math.inf)), "scale: given [1.0, inf]; allowed: two factors, 0 < lowest <= highest"),
    (dict(shear=90.0), "shear: given 90.0; allowed: 0 to less than 90 degrees"),
    (dict(crop=(0.0, 1.0)), "crop: given [0.0, 1.0]; allowed: two shares of the area, 0 < lowest <= highest <= 1"),
    (dict(crop=(0.5, 1.1)), "crop: given [0.5, 1.1]; allowed: two shares of the area, 0 < lowest <= highest <= 1"),
    (dict(aspect=0.75), "aspect: given 0.75; allowed: 1 or more, the longer side of a crop over the shorter"),
    (dict(flip=1.5), "flip: given 1.5; allowed: 0 to 1, a chance"),
    (dict(brightness=-0.1), "brightness: given -0.1; allowed: 0 or more, how far factors go from 1"),
    (dict(contrast=math.inf), "contrast: given inf; allowed: 0 or more, how far factors go from 1"),
    (dict(saturation=-0.1), "saturation: given -0.1; allowed: 0 or more, how far factors go from 1"),
    (dict(hue=0.6), "hue: given 0.6; allowed: 0 to 0.5, a share of the colour circle"),
    (dict(elastic=0.6), "elastic: given 0.6; allowed: 0 to 0.5, a share of the side"),
    (dict(elastic_points=1), "elastic_points: given 1; allowed: 2 or more, along each side"),
    (dict(fill=2.0), "fill: given 2.0; allowed: 0 to 1, a pixel's value"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_a_value_out_of_range_is_refused(options, words):
    with pytest.raises(ModelError) as caught:
        Augment(**options)
    assert str(caught.value) == words


def test_every_option_has_a_bad_value():
    literal = {"outside"}  # its values are checked by its type, as a config's are
    assert {name for options, _ in BAD for name in options} | literal == set(inspect.signature(Augment).parameters)


@pytest.mark.parametrize(
    ("name", "channels", "words"),
    [
        ("saturation", 1, "saturation: given 0.2; allowed: 0, for these images have 1 channel and it needs 3"),
        ("hue", 1, "hue: given 0.2; allowed: 0, for these images have 1 channel and it needs 3"),
        ("hue", 4, "hue: given 0.2; allowed: 0, for these images have 4 channels and it needs 3"),
        ("contrast", 2, "contrast: given 0.2; allowed: 0, for these images have 2 channels and it needs 1 or 3"),
    ],
)
def test_a_jitter_that_the_channels_cannot_have_is_refused(name, channels, words):
    with pytest.raises(ModelError, match=f"augmentation: {words}"):
        Augment(**{name: 0.2})(images(channels=channels), noise_of(0))


def test_settings_build_it_again():
    again = Augment(**{name: tuple(v) if isinstance(v, list) else v for name, v in Augment(**GREY).settings().items()})
    assert again.settings() == Augment(**GREY).settings() != Augment().settings()
    assert torch.equal(again(images(), noise_of(0)), Augment(**GREY)(images(), noise_of(0)))
