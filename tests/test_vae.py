"""Shapes, slots, determinism and first weights of the VAE over every trunk and image size."""

import pytest
import torch

from gvae.errors import ModelError
from gvae.nets import ConvDecoder, ConvEncoder, build_trunk, initialise
from gvae.vae import VAE

SHAPES = [(1, 28, 28), (3, 28, 28), (1, 64, 64), (3, 84, 84), (1, 17, 30), (2, 5, 7)]
CASES = [("conv", shape) for shape in SHAPES] + [("release28", shape) for shape in SHAPES[:2]]


def images_of(shape, n=3, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def make(trunk="conv", shape=(1, 28, 28), latents=6, slots=None, seed=0, **options):
    vae = VAE(shape, trunk=trunk, latents=latents, slots=slots or {"content": latents}, **options)
    initialise(vae, torch.Generator().manual_seed(seed))
    return vae


@pytest.mark.parametrize(("trunk", "shape"), CASES)
def test_a_vae_gives_latents_and_an_image_of_exactly_its_size(trunk, shape):
    vae = make(trunk, shape).eval()
    posterior = vae.encode(images_of(shape))
    assert posterior.mean.shape == posterior.logvar.shape == (3, 6)
    assert vae.decode(posterior.mean).shape == (3, *shape)
    assert vae.encoder(images_of(shape)).shape == (3, vae.encoder.hidden_dim)


@pytest.mark.parametrize(("trunk", "shape"), CASES)
def test_in_eval_mode_an_image_is_encoded_the_same_in_any_batch(trunk, shape):
    vae = make(trunk, shape)
    with torch.no_grad():
        vae.encode(2 * images_of(shape, 8, seed=1))  # batch norm has seen something
        vae.eval()
        images = images_of(shape, 4)
        together = vae.encode(images)
        assert torch.equal(together.mean, vae.encode(images).mean)
        for i in range(4):
            alone = vae.encode(images[i : i + 1])
            torch.testing.assert_close(alone.mean[0], together.mean[i], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(alone.logvar[0], together.logvar[i], atol=1e-6, rtol=1e-5)


def test_sampling_is_a_function_of_the_generator():
    posterior = make().eval().encode(images_of((1, 28, 28)))
    one, same, other = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("slots", [{"content": 6}, {"rotation": 1, "translation": 2, "content": 3}])
def test_slots_partition_the_latents_in_order(slots):
    vae = make(slots=slots)
    z = torch.arange(6.0)[None]
    assert torch.cat([vae.slot(z, name) for name in slots], 1).tolist() == z.tolist()
    assert [vae.slot(z, name).shape[1] for name in slots] == list(slots.values())


@pytest.mark.parametrize("slots", [{}, {"content": 5}, {"a": 0, "content": 6}, {"a": 7, "content": -1}])
def test_slots_that_do_not_add_up_are_refused_with_the_fix(slots):
    with pytest.raises(ModelError, match=r"slots .* add up to latents=6; raise latents or use fewer guided slots"):
        VAE((1, 28, 28), latents=6, slots=slots)


@pytest.mark.parametrize("trunk", ["conv", "release28"])
def test_first_weights_are_a_function_of_the_seed_alone(trunk):
    torch.manual_seed(1)
    one = make(trunk, seed=5).state_dict()
    torch.manual_seed(2)
    torch.rand(10)
    same, other = make(trunk, seed=5).state_dict(), make(trunk, seed=6).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name, value in one.items() if value.dim() > 1]
    assert drawn and not any(torch.equal(one[name], other[name]) for name in drawn)


def test_initialise_has_torchs_scale():
    """Uniform in +- 1 / sqrt(fan_in), weights and biases, as torch draws linear layers and convolutions."""
    for layer, fan_in in [(torch.nn.Linear(400, 300), 400), (torch.nn.Conv2d(16, 64, 5), 16 * 25)]:
        initialise(layer, torch.Generator().manual_seed(0))
        bound = fan_in**-0.5
        for values in (layer.weight, layer.bias):
            assert values.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        layer.reset_parameters()
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)  # torch's own draw


def test_images_of_another_shape_are_refused_with_both_shapes_and_the_fix():
    with pytest.raises(ModelError) as caught:
        make().encode(images_of((3, 28, 28)))
    assert "images of shape (3, 28, 28) given to an encoder for (1, 28, 28)" in str(caught.value)
    assert "prepare the dataset at that size or train an encoder for this one" in str(caught.value)


def test_an_unknown_trunk_is_named():
    allowed = "conv, conv4, release28, release64, resnet12, statistician28, study64"
    with pytest.raises(ModelError, match=f"unknown trunk 'resnet'; allowed: {allowed}"):
        build_trunk("resnet", (1, 28, 28), 10)


def test_the_release_trunk_has_the_releases_parameters():
    """Conv 1-64 k6 s2, 64-128 k5, 128-256 k5, linear 4096 to mean and logvar of 10; the decoder mirrors it."""
    vae = make("release28", latents=10)
    shapes = [tuple(parameter.shape) for parameter in vae.encoder.parameters() if parameter.ndim > 1]
    assert shapes == [(64, 1, 6, 6), (128, 64, 5, 5), (256, 128, 5, 5)]
    assert vae.encoder.layers[0].stride == (2, 2)
    assert [type(layer).__name__ for layer in vae.encoder.layers] == ["Conv2d", "Conv2d", "ReLU", "Conv2d", "ReLU"]
    assert tuple(vae.posterior.weight.shape) == (2 * 10, 4096)
    shapes = [tuple(parameter.shape) for parameter in vae.decoder.parameters() if parameter.ndim > 1]
    assert shapes == [(4096, 10), (256, 128, 5, 5), (128, 64, 5, 5), (64, 1, 6, 6)]


def test_posterior_splits_into_mean_then_logvar():
    vae = make(latents=2)
    with torch.no_grad():
        vae.posterior.weight.zero_()
        vae.posterior.bias.copy_(torch.tensor([1.0, 2.0, -3.0, -4.0]))
    posterior = vae.eval().encode(images_of((1, 28, 28), 1))
    assert posterior.mean.tolist() == [[1.0, 2.0]] and posterior.logvar.tolist() == [[-3.0, -4.0]]


def test_the_mean_image_follows_the_likelihood():
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    bernoulli, gaussian = make().eval(), make(likelihood="gaussian").eval()
    torch.testing.assert_close(bernoulli.mean_image(z), bernoulli.decode(z).sigmoid())
    torch.testing.assert_close(gaussian.mean_image(z), gaussian.decode(z).clamp(0, 1))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2), (1, 16, 16), (1, 33, 31)])
def test_the_decoder_undoes_the_rounding_of_any_size(shape):
    encoder, decoder = ConvEncoder(shape, (4, 4, 4)), ConvDecoder(shape, 3, (4, 4, 4))
    assert decoder(torch.zeros(2, 3)).shape == (2, *shape)
    assert encoder(torch.zeros(2, *shape)).shape == (2, encoder.hidden_dim)
