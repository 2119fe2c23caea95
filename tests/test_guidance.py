"""The light decoder's warp against hand-made transformations, the release's formulas, and the heads."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from torchvision.transforms import InterpolationMode

from gvae.batch import Seen
from gvae.errors import ModelError
from gvae.guidance import (
    HEADS,
    TRANSFORMS,
    CosineHead,
    LightDecoder,
    PrototypeHead,
    SoftmaxHead,
    build_adversary,
    build_head,
)
from gvae.nets import initialise
from gvae.objective import Batch
from gvae.objectives import OBJECTIVES
from gvae.vae import Posterior
from gvae.warp import sampling_matrix, warp

SHAPE = (1, 28, 28)
FOUR = ("rotation", "scale", "translation", "shear")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(size=8):
    """An image with no symmetry at all: (1, 1, size, size)."""
    return torch.arange(float(size * size)).view(1, 1, size, size) / size**2


def blob(size=28):
    """A smooth image, zero towards the border, without symmetry: (1, 1, size, size)."""
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, size)], indexing="ij")
    spots = torch.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 0.03) + 0.5 * torch.exp(-((x + 0.3) ** 2 + y**2) / 0.05)
    return spots[None, None]


def under(name, values, image):
    return warp(image, sampling_matrix(name, torch.tensor([values])))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_by_quarter_turns_is_rot90_counter_clockwise(turns):
    expected = np.rot90(picture().numpy(), turns, axes=(2, 3)).copy()
    np.testing.assert_allclose(under("rotation", [turns * math.pi / 2], picture()).numpy(), expected, atol=1e-5)


def test_translation_by_whole_pixels_reads_from_the_right_and_below_and_fills_with_zero():
    size, across, down = 8, 2, 3
    moved = under("translation", [across * 2 / size, down * 2 / size], picture(size))  # half widths: 2 / size a pixel
    expected = torch.zeros(1, 1, size, size)
    expected[..., : size - down, : size - across] = picture(size)[..., down:, across:]  # the image goes left and up
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_scale_half_doubles_the_middle():
    """With a factor of 0.5 output centre (i + 0.5) is read at half of it from the middle: bilinear upsampling."""
    image = picture(8)
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)[..., 4:12, 4:12]
    torch.testing.assert_close(under("scale", [0.5, 0.5], image), expected, atol=1e-5, rtol=0)


def test_scale_two_halves_into_the_middle():
    """Pairs of rows and columns are averaged: each output centre lies between four pixels."""
    image = picture(8)
    shrunk = under("scale", [2.0, 2.0], image)
    torch.testing.assert_close(shrunk[..., 2:6, 2:6], F.avg_pool2d(image, 2), atol=1e-5, rtol=0)
    border = shrunk.clone()
    border[..., 2:6, 2:6] = 0
    assert border.abs().max() == 0


def test_scale_factors_are_across_then_down():
    image = picture(8)
    wide = under("scale", [0.5, 1.0], image)
    expected = F.interpolate(image, scale_factor=(1, 2), mode="bilinear", align_corners=False)[..., 4:12]
    torch.testing.assert_close(wide, expected, atol=1e-5, rtol=0)


def test_shear_moves_the_top_right_and_the_bottom_left():
    """Row y reads at x + s y: the row at the bottom (y = 7/8) is read s y half widths to the right of itself."""
    size = 8
    image = torch.zeros(1, 1, size, size)
    image[..., 4] = 1  # an upright line
    shear = 2 / (size - 1) * 2  # the last row, y = (size - 1) / size, moves by exactly 2 pixels
    moved = under("shear", [shear], image)[0, 0]
    assert moved[-1].argmax() == 4 - 2 and moved[0].argmax() == 4 + 2
    centres = (torch.arange(size) + 0.5) * 2 / size - 1
    expected = torch.stack([torch.tensor([max(0.0, 1 - abs(x - (4 - shear * y * size / 2))) for x in range(size)])
                            for y in centres.tolist()])  # fmt: skip
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("angle", "scale", "move"), [(25.0, 1.0, (0, 0)), (-40.0, 1.3, (0, 0)), (70.0, 0.8, (3, -2))])
def test_warp_is_torchvisions_affine(angle, scale, move):
    """torchvision turns clockwise for positive angles; its output is rotated and scaled, then moved."""
    ours = (
        sampling_matrix("rotation", torch.tensor([[-math.radians(angle)]]))
        @ sampling_matrix("scale", torch.tensor([[1 / scale, 1 / scale]]))
        @ sampling_matrix("translation", torch.tensor([[-move[0] * 2 / 28, -move[1] * 2 / 28]]))
    )
    theirs = TF.affine(blob(), angle, list(move), scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(warp(blob(), ours), theirs, atol=2e-3, rtol=0)


def test_an_unknown_transform_is_named():
    with pytest.raises(ModelError, match=f"unknown transform 'twist'; allowed: {', '.join(TRANSFORMS)}"):
        sampling_matrix("twist", torch.zeros(1, 1))


def decoder(transforms=FOUR, content=5, seed=0, shape=SHAPE, **options):
    light = LightDecoder(shape, content, transforms, **options)
    initialise(light, torch.Generator().manual_seed(seed))
    return light


def latents(n, transforms=FOUR, content=5, size=1.0):
    z_def = {name: size * noise(n, TRANSFORMS[name], seed=i) for i, name in enumerate(transforms)}
    return z_def, noise(n, content, seed=9)


def test_the_transform_listed_first_is_applied_first():
    """Translate then rotate and rotate then translate move an image to different places."""
    for order in (("translation", "rotation"), ("rotation", "translation")):
        light = decoder(order)
        with torch.no_grad():
            light.maps["translation"].weight.zero_(), light.maps["translation"].bias.copy_(torch.tensor([0.5, 0.0]))
            light.maps["rotation"].weight.zero_(), light.maps["rotation"].bias.fill_(math.pi / 2)
        z_def, z = latents(1, order)
        canonical, image = light(z_def, z)
        expected = canonical
        for name in order:
            expected = under(name, light.maps[name].bias.tolist(), expected)
        torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)


def test_the_product_of_the_matrices_is_one_after_the_other_but_for_interpolation():
    z_def, z = latents(4)
    for name in z_def:
        z_def[name] = 0.3 * z_def[name]
    once = decoder()
    once.start_at_identity()
    each = decoder(resample_each=True)
    each.load_state_dict(once.state_dict())
    with torch.no_grad():  # a smooth canonical image, so that interpolation hardly matters
        for light in (once, each):
            light.components.weight.copy_(blob().reshape(-1, 1).expand(-1, 5))
            light.components.bias.zero_()
    one, other = once(z_def, z), each(z_def, z)
    torch.testing.assert_close(one.canonical, other.canonical)
    scale = one.canonical.abs().max()
    assert (one.image - other.image).abs().max() < 0.15 * scale  # four times bilinear blurs the peak
    assert (one.image - one.canonical).abs().max() > 0.15 * scale  # it did move


def test_matrices_sequential_equals_product_exactly_on_coordinates():
    light = decoder()
    z_def, _ = latents(3)
    found = light.matrices(z_def)
    point = torch.tensor([0.2, -0.7, 1.0])
    product, step = found[0] @ found[1] @ found[2] @ found[3], point.expand(3, 3)
    for matrix in reversed(found):  # an output position goes back through the last transform first
        step = torch.einsum("nij,nj->ni", matrix, step)
    torch.testing.assert_close(torch.einsum("nij,j->ni", product, point), step)


def test_it_starts_at_the_identity_and_one_unit_of_a_latent_moves_a_little():
    light = decoder()
    light.start_at_identity()
    z_def, z = latents(2, size=0.0)
    canonical, image = light(z_def, z)
    torch.testing.assert_close(image, canonical, atol=1e-5, rtol=0)
    expected = {"rotation": 0.3, "scale": 0.1, "translation": 0.1, "shear": 0.2}  # radians, log, half widths, slope
    for name, step in expected.items():
        ones = torch.ones(1, TRANSFORMS[name])
        values = [math.exp(step)] * 2 if name == "scale" else [step] * (2 if name == "translation" else 1)
        matrix = light.matrices({**{k: v[:1] for k, v in z_def.items()}, name: ones})[FOUR.index(name)]
        torch.testing.assert_close(matrix, sampling_matrix(name, torch.tensor([values])))


def test_the_basis_has_unit_norm_and_the_orthogonality_penalty_cannot_be_cheated_by_shrinking():
    light = decoder()
    torch.testing.assert_close(light.basis.norm(dim=0), torch.ones(5))
    before = light.basis.clone()
    with torch.no_grad():
        light.components.weight.mul_(0.01)
    torch.testing.assert_close(light.basis, before)
    free = decoder(unit_norm=False)
    torch.testing.assert_close(free.basis, free.components.weight)
    assert "gain" not in dict(free.named_parameters())


def test_canonical_is_the_linear_basis():
    light = decoder()
    with torch.no_grad():
        light.gain.copy_(torch.arange(1.0, 6.0))
    z_def, z = latents(3)
    expected = (z * torch.arange(1.0, 6.0)) @ light.basis.T + light.components.bias
    torch.testing.assert_close(light(z_def, z).canonical, expected.view(3, *SHAPE))
    bounded = decoder(bounded=True, unit_norm=False)
    expected = (z @ bounded.components.weight.T + bounded.components.bias).sigmoid()
    torch.testing.assert_close(bounded(z_def, z).canonical, expected.view(3, *SHAPE))


def batch_of(n, shape=SHAPE, seed=0, classes=4):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *shape, generator=generator).gt(0.7).float()
    labels = torch.arange(n) % classes
    return Batch(images, labels, torch.Generator().manual_seed(seed + 1))


def seen(batch, z):
    return Seen(batch.images, None, Posterior(z, torch.zeros_like(z)), z, None)


def read_at(image, rows, columns):
    """Bilinear reading at pixel positions, zeros outside, (h, w) and (h, w) positions: plain numpy."""
    height, width = image.shape
    found = np.zeros(rows.shape)
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = np.floor(rows).astype(int) + dy, np.floor(columns).astype(int) + dx
            weight = (1 - np.abs(rows - y)) * (1 - np.abs(columns - x))
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            found += np.where(inside, weight * image[y.clip(0, height - 1), x.clip(0, width - 1)], 0)
    return found


def test_the_release_is_its_formulas():
    """DESIGN 5.1: z[0] scale, z[1] rotation, z[2:] content; every sum over the batch; a loop of plain numpy."""
    n, classes = 3, 4
    objective = OBJECTIVES["guided_vae_release"](SHAPE, classes, 60, 0, "release28", 10)
    objective.geometry.orthogonality_weight = 1 / n  # 1 / 128 at the release's batch of 128
    batch = batch_of(n)
    with torch.no_grad():
        loss, terms = objective.loss(batch)
        posterior = objective.vae.encode(batch.images)
        z = posterior.sample(torch.Generator().manual_seed(1))
        reconstruction = objective.vae.decode(z).sigmoid().double().numpy()
        light = objective.geometry.light_decoder
        weight = {name: (m.weight.double().numpy(), m.bias.double().numpy()) for name, m in light.maps.items()}
        basis, bias = light.components.weight.double().numpy(), light.components.bias.double().numpy()
    x, codes = batch.images.double().numpy(), z.double().numpy()

    def cross_entropy(p):
        p = p.clip(1e-44, 1 - 1e-16)
        return -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum()

    centres = (np.arange(28) + 0.5) * 2 / 28 - 1
    warped = np.zeros((n, 1, 28, 28))
    for i in range(n):
        canonical = (1 / (1 + np.exp(-(basis @ codes[i, 2:] + bias)))).reshape(28, 28)
        angle = weight["rotation"][0][0, 0] * codes[i, 1] + weight["rotation"][1][0]
        across, down = weight["scale"][0][:, 0] * codes[i, 0] + weight["scale"][1]
        across_at, down_at = np.meshgrid(centres, centres)
        to_pixel = lambda at: ((at + 1) * 28 - 1) / 2  # noqa: E731
        cos, sin = np.cos(angle), np.sin(angle)
        turned = read_at(
            canonical, to_pixel(sin * across_at + cos * down_at), to_pixel(cos * across_at - sin * down_at)
        )
        warped[i, 0] = read_at(turned, to_pixel(down * down_at), to_pixel(across * across_at))
    mean, logvar = (part.double().numpy() for part in posterior)
    kl = -0.5 * (1 + logvar - mean**2 - np.exp(logvar)).sum()
    inner = [abs(basis[:, j] @ basis[:, k]) for j in range(8) for k in range(8) if j != k]
    summed = cross_entropy(reconstruction) + kl + 0.5 * cross_entropy(warped) + sum(inner)
    assert terms["light"].item() == pytest.approx(cross_entropy(warped) / n, rel=1e-4)
    assert terms["orthogonality"].item() == pytest.approx(sum(inner), rel=1e-5)
    assert loss.item() == pytest.approx(summed / n, rel=1e-5)


def test_the_release_in_the_table_is_its_settings():
    objective = OBJECTIVES["guided_vae_release"](SHAPE, 4, 60, 0, "release28", 10)
    assert objective.vae.slot_sizes == {"scale": 1, "rotation": 1, "content": 8}
    part = objective.geometry
    assert (part.weight, part.orthogonality_weight) == (0.5, 1 / 128)
    assert part.light_decoder.transforms == ("rotation", "scale")  # turned first


def test_the_papers_light_loss_is_squared_error_plus_squared_products():
    objective = OBJECTIVES["guided_vae"](SHAPE, 4, 60, 0, "release28", 10, weight=2.0, orthogonality_weight=3.0)
    batch, z = batch_of(3), noise(3, 10)
    guidance, terms = objective.geometry.loss(batch, seen(batch, z))
    image = objective.light(z).image
    assert terms["light"].item() == pytest.approx((image - batch.images).square().sum().item() / 3, rel=1e-5)
    basis = objective.geometry.light_decoder.basis
    products = basis.T @ basis
    expected = (products - torch.eye(8)).square().sum().item()
    assert terms["orthogonality"].item() == pytest.approx(expected, rel=1e-4)
    assert guidance.item() == pytest.approx(2 * terms["light"].item() + 3 * terms["orthogonality"].item(), rel=1e-6)


@pytest.mark.parametrize("name", ["guided_vae", "guided_vae_release"])
def test_the_light_loss_reaches_the_encoder_through_every_slot(name):
    objective = OBJECTIVES[name](SHAPE, 4, 60, 0, "release28", 10)
    batch = batch_of(3)
    z = objective.vae.encode(batch.images).mean
    z.retain_grad()
    objective.geometry.loss(batch, seen(batch, z))[0].backward()
    assert (z.grad.abs().sum(0) > 0).all()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.vae.encoder.parameters())
    assert all(parameter.grad is None for parameter in objective.vae.decoder.parameters())


@pytest.mark.parametrize("name", ["guided_vae", "guided_vae_release"])
def test_guidance_stays_in_float32_under_autocast(name):
    """On CUDA binary cross-entropy refuses autocast; in bfloat16 a coordinate is off by a tenth of a pixel."""
    objective = OBJECTIVES[name](SHAPE, 4, 60, 0, "release28", 10)
    batch, z = batch_of(3), noise(3, 10)
    exact = objective.geometry.loss(batch, seen(batch, z))[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective.geometry.loss(batch, seen(batch, z))[0]
    assert mixed.dtype == torch.float32 and torch.equal(mixed, exact)


def test_supervised_heads_stay_in_float32_under_autocast():
    objective = OBJECTIVES["guided_vae_supervised"](SHAPE, 4, 60, 0, "release28", 10, class_latents=4, head="prototype")
    z = noise(6, 10)
    exact = objective.parts[0].inhibition_loss(z)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.parts[0].inhibition_loss(z)[0], exact)


def test_prototype_logits_are_a_loop_over_squared_distances():
    head = PrototypeHead(3, 4)
    initialise(head, torch.Generator().manual_seed(0))
    z = noise(5, 3)
    logits = head(z)
    for i in range(5):
        for k in range(4):
            distance = sum((z[i, d] - head.linear.weight[k, d]) ** 2 for d in range(3))
            assert logits[i, k].item() == pytest.approx(-distance.item() / 3, abs=1e-5)  # it starts at / latents


def test_cosine_logits_are_torchs_cosine_similarity():
    head = CosineHead(3, 4)
    initialise(head, torch.Generator().manual_seed(0))
    z = noise(5, 3)
    expected = 16 * F.cosine_similarity(z[:, None], head.linear.weight[None], dim=2)
    torch.testing.assert_close(head(z), expected)


def test_softmax_logits_are_linear():
    head = SoftmaxHead(3, 4)
    z = noise(5, 3)
    torch.testing.assert_close(head(z), z @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_gives_a_logit_a_class_and_learns_from_each_parameter(kind):
    head = build_head(kind, 6, 3)
    logits = head(noise(5, 6))
    assert logits.shape == (5, 3)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_an_unknown_head_is_named():
    with pytest.raises(ModelError, match="unknown head 'svm'; allowed: cosine, prototype, softmax"):
        build_head.__wrapped__("svm", 2, 3) if hasattr(build_head, "__wrapped__") else build_head("svm", 2, 3)


def test_the_adversary_has_the_releases_layers():
    adversary = build_adversary(15, 1, 32)
    kinds = ["Linear", "BatchNorm1d", "LeakyReLU", "Linear", "BatchNorm1d", "LeakyReLU", "Linear"]
    assert [type(layer).__name__ for layer in adversary] == kinds
    assert [tuple(p.shape) for p in adversary.parameters() if p.ndim == 2] == [(32, 15), (32, 32), (1, 32)]
    assert adversary[2].negative_slope == 0.2


def test_posterior_sample_is_mean_plus_scaled_noise():
    posterior = Posterior(noise(4, 3), noise(4, 3, seed=1))
    drawn = posterior.sample(torch.Generator().manual_seed(5))
    expected = posterior.mean + torch.exp(posterior.logvar) ** 0.5 * noise(4, 3, seed=5)
    torch.testing.assert_close(drawn, expected)
