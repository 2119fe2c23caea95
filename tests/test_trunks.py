"""One contract over the table of trunks: shapes, gradients, independence of the batch; the published nets' sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gvae.errors import ModelError
from gvae.nets import TRUNKS, build_trunk, initialise

SIDES = (28, 64, 84)
ONLY = {"release28": 28, "release64": 64, "statistician28": 28, "study64": 64}  # nets published for one size
CASES = [
    (trunk, (channels, side, side))
    for trunk in TRUNKS
    for side in SIDES
    for channels in (1, 3)
    if ONLY.get(trunk, side) == side
]
LATENTS = 6


def make(trunk, shape, seed=0):
    both = nn.ModuleList(build_trunk(trunk, shape, LATENTS))
    initialise(both, torch.Generator().manual_seed(seed))
    return both


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("trunk", "shape"), CASES)
def test_a_trunk_keeps_its_contract(trunk, shape):
    encoder, decoder = make(trunk, shape)
    images, z = random(3, *shape), random(3, LATENTS, seed=1)
    hidden, logits = encoder(images), decoder(z)
    assert hidden.shape == (3, encoder.hidden_dim) and logits.shape == (3, *shape)
    (hidden.square().mean() + logits.square().mean()).backward()
    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name
    encoder.eval(), decoder.eval()
    with torch.no_grad():
        for network, inputs in ((encoder, images), (decoder, z)):
            together = network(inputs)
            assert torch.isfinite(together).all() and together.std() > 0
            alone = torch.cat([network(one[None]) for one in inputs])
            torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("encoder", "decoder"), [("conv4", "conv"), ("resnet12", "conv4"), ("conv", "release28")])
def test_two_trunks_give_the_encoder_of_one_and_the_decoder_of_the_other(encoder, decoder):
    found = build_trunk(f"{encoder}/{decoder}", (1, 28, 28), LATENTS)
    expected = build_trunk(encoder, (1, 28, 28), LATENTS)[0], build_trunk(decoder, (1, 28, 28), LATENTS)[1]
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other) and count(one) == count(other)
    assert found[1](random(2, LATENTS)).shape == (2, 1, 28, 28)


@pytest.mark.parametrize(("trunk", "wrong"), [("conv/", ""), ("/conv", ""), ("conv/cnv", "cnv"), ("cnv/conv", "cnv")])
def test_half_of_a_pair_that_is_no_trunk_is_named(trunk, wrong):
    with pytest.raises(ModelError, match=f"unknown trunk '{wrong}'; allowed: .*, or two of them as ENCODER/DECODER"):
        build_trunk(trunk, (1, 28, 28), LATENTS)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_initialise_makes_a_used_network_new(trunk):
    """Weights, and batch norm's: whatever a network was before, after it is a function of the seed."""
    side = ONLY.get(trunk, 28)
    new, used = make(trunk, (1, side, side), seed=5), make(trunk, (1, side, side), seed=6)
    with torch.no_grad():
        used[0](random(4, 1, side, side))
        for parameter in used.parameters():
            parameter.add_(0.5)
    initialise(used, torch.Generator().manual_seed(5))
    assert all(torch.equal(value, used.state_dict()[name]) for name, value in new.state_dict().items())


@pytest.mark.parametrize(("trunk", "side"), [(trunk, side) for trunk in ONLY for side in SIDES if side != ONLY[trunk]])
def test_a_net_published_for_one_size_refuses_others(trunk, side):
    words = f"trunk '{trunk}' takes {ONLY[trunk]}x{ONLY[trunk]} images, got {side}x{side}; use trunk 'conv', or set"
    with pytest.raises(ModelError, match=words):
        build_trunk(trunk, (1, side, side), LATENTS)


@pytest.mark.parametrize("trunk", ["conv4", "resnet12"])
def test_four_halvings_need_sixteen_pixels(trunk):
    words = f"trunk '{trunk}' halves images four times and takes 16x16 or larger, got 15x40; use trunk 'conv', or set"
    with pytest.raises(ModelError, match=words):
        build_trunk(trunk, (1, 15, 40), LATENTS)
    encoder, decoder = build_trunk(trunk, (1, 16, 21), LATENTS)
    assert encoder(random(2, 1, 16, 21)).shape == (2, encoder.hidden_dim)
    assert decoder(random(2, LATENTS)).shape == (2, 1, 16, 21)


def conv(before, width, kernel, bias=True):
    return before * width * kernel**2 + bias * width


def norm(width):
    return 2 * width


def block(before, width):
    """A ResNet-12 block: three convolutions, one around them, a norm after each."""
    path = conv(before, width, 3, bias=False) + 2 * conv(width, width, 3, bias=False)
    return path + conv(before, width, 1, bias=False) + 4 * norm(width)


@pytest.mark.parametrize("channels", [1, 3])
def test_published_nets_have_their_parameters(channels):
    def encoder(trunk, side):
        return count(build_trunk(trunk, (channels, side, side), LATENTS)[0])

    halvings = conv(channels, 32, 4) + conv(32, 32, 4) + conv(32, 64, 4) + conv(64, 64, 4)
    assert encoder("release28", 28) == conv(channels, 64, 6) + conv(64, 128, 5) + conv(128, 256, 5)
    assert encoder("release64", 64) == halvings + conv(64, 256, 4)
    assert encoder("study64", 64) == halvings + (64 * 4 * 4 + 1) * 256
    edwards = sum(conv(*pair, 3, bias=False) for pair in [(channels, 64), (64, 128), (128, 256)])
    edwards += sum(2 * conv(width, width, 3, bias=False) + 3 * norm(width) for width in (64, 128, 256))
    assert encoder("statistician28", 28) == edwards
    snell = conv(channels, 64, 3) + 3 * conv(64, 64, 3) + 4 * norm(64)
    assert snell == {1: 111_936, 3: 113_088}[channels]  # as papers give it, with the biases that batch norm takes away
    metaopt = block(channels, 64) + block(64, 160) + block(160, 320) + block(320, 640)
    for side in SIDES:
        assert encoder("conv4", side) == snell - 4 * 64
        assert encoder("resnet12", side) == metaopt
    doublings = conv(64, 64, 4) - 64 + 64 + conv(64, 32, 4) + conv(32, 32, 4) + conv(32, channels, 4)
    linear = LATENTS * 256 + 256
    assert count(build_trunk("release64", (channels, 64, 64), LATENTS)[1]) == linear + conv(256, 64, 4) + doublings
    decoder = linear + (256 + 1) * 1024 + doublings
    assert count(build_trunk("study64", (channels, 64, 64), LATENTS)[1]) == decoder


@pytest.mark.parametrize(("side", "hidden"), [(28, 64), (64, 1024), (84, 1600)])
def test_conv4_gives_the_features_of_the_papers(side, hidden):
    """Snell et al.: 64 numbers for Omniglot, 1,600 for mini-ImageNet; here as written there, ReLU before pooling."""
    encoder = make("conv4", (1, side, side))[0].eval()
    assert encoder.hidden_dim == hidden
    images = maps = random(2, 1, side, side)
    for stage in range(4):
        convolution, batch_norm = encoder.layers[4 * stage : 4 * stage + 2]
        maps = F.max_pool2d(F.relu(batch_norm(convolution(maps))), 2)
    assert torch.equal(encoder(images), maps.flatten(1))


def test_resnet12_is_the_one_of_the_papers():
    """Its block as MetaOptNet writes it: LeakyReLU before pooling; the last maps' mean over pixels is the feature."""
    encoder = make("resnet12", (3, 28, 28))[0].eval()
    assert encoder.hidden_dim == 640
    images = maps = random(2, 3, 28, 28)
    for stage in encoder.layers:
        maps = F.max_pool2d(F.leaky_relu(stage.path(maps) + stage.around(maps), 0.1), 2)
    torch.testing.assert_close(encoder(images), F.adaptive_avg_pool2d(maps, 1).flatten(1))


NAMES = {  # what encoders on disk call their tensors
    "release28": {"encoder.layers.": (0, 1, 3), "decoder.linear.": (0,), "decoder.layers.": (0, 2, 4)},
    "conv": {
        "encoder.layers.": (0, 1, 3, 4, 6, 7, 9, 10), "decoder.linear.": (0,),
        "decoder.layers.": (0, 1, 3, 4, 6, 7, 9),
    },
}  # fmt: skip


@pytest.mark.parametrize("trunk", NAMES)
def test_the_names_of_saved_tensors_stay(trunk):
    encoder, decoder = build_trunk(trunk, (1, 28, 28), LATENTS)
    named = nn.ModuleDict({"encoder": encoder, "decoder": decoder}).state_dict()
    expected = {f"{prefix}{index}" for prefix, indices in NAMES[trunk].items() for index in indices}
    assert {name.rpartition(".")[0] for name in named} == expected
    assert {name.rpartition(".")[2] for name in named} <= {
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
    }  # fmt: skip
