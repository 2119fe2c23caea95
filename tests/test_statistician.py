"""The Neural Statistician: its bound by hand, sets, sample dropout, guidance with mixup, exact resume, files."""

import json
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from scipy import stats
from torch.distributions import Bernoulli, Normal, kl_divergence

import gvae.pretrain as loop
from gvae import losses
from gvae.batch import Batch
from gvae.checkpoint import load_encoder, save_encoder
from gvae.errors import ModelError
from gvae.mixup import pairs
from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder
from gvae.objectives import OBJECTIVES
from gvae.pretrain import Training, pretrain
from gvae.recorder import Recorder
from gvae.sets import Sets
from gvae.shuffled import Shuffled
from gvae.statistician import Statistician

SHAPE, CLASSES, CONTEXT, SIZE = (1, 12, 12), 4, 6, 3
NAMES = ["neural_statistician", "guided_neural_statistician"]


@pytest.fixture(autouse=True)
def tiny_trunk(monkeypatch):
    widths = (8, 8)
    monkeypatch.setitem(TRUNKS, "tiny", (partial(ConvEncoder, widths=widths), partial(ConvDecoder, widths=widths)))


def make(name="neural_statistician", seed=0, **options):
    options = {"set_size": SIZE, "z_latents": 2, "width": 8, **options}
    if name.startswith("guided"):
        options = {"class_latents": 2, **options}
    return OBJECTIVES[name](SHAPE, CLASSES, 36, seed, "tiny", CONTEXT, **options)


def batch_of(sets=4, size=SIZE, seed=0):
    """Sets one after the other, binary pixels; set i is of class i."""
    images = torch.rand(sets * size, *SHAPE, generator=torch.Generator().manual_seed(seed)).round()
    labels = torch.arange(sets).repeat_interleave(size) % CLASSES
    return Batch(images, labels, torch.Generator().manual_seed(seed + 1))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(parameters):
    mean, logvar = parameters.chunk(2, -1)
    return Normal(mean, (0.5 * logvar).exp())


def test_kl_between_gaussians_is_torch_distributions():
    mean, logvar, other, other_logvar = (noise(4, 3, seed=seed) for seed in range(4))
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(other, (other_logvar / 2).exp()))
    torch.testing.assert_close(losses.kl_between_gaussians(mean, logvar, other, other_logvar), expected)
    to_prior = losses.kl_between_gaussians(mean, logvar, torch.zeros(3).double(), torch.zeros(3).double())
    torch.testing.assert_close(to_prior, losses.kl_to_standard_normal(mean, logvar))


def test_mixup_cross_entropy_is_the_cross_entropy_from_the_mixed_target():
    logits, share = noise(5, 4), torch.rand(5, generator=torch.Generator().manual_seed(1)).double()
    truth, other = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([3, 1, 0, 2, 1])
    target = share[:, None] * F.one_hot(truth, 4) + (1 - share[:, None]) * F.one_hot(other, 4)
    expected = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(losses.mixup_cross_entropy(logits, truth, other, share), expected)


@pytest.mark.parametrize("size", [1, SIZE])
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_the_loss_is_the_bound_of_the_paper_written_out(layers, size):
    """Equations 4, and 7 to 10 for two layers, set by set and image by image, on the same noise."""
    objective = make(z_layers=layers, set_size=size).eval()
    vae, batch = objective.vae, batch_of(size=size)
    loss, terms = objective.loss(batch)
    draw = torch.Generator().manual_seed(1)
    of_context = torch.empty(4, CONTEXT).normal_(generator=draw)
    of_z = [torch.empty(4 * size, 2).normal_(generator=draw) for _ in range(layers)]
    network, total, reconstruction = vae.posterior, 0.0, 0.0
    for number, images in enumerate(batch.images.split(size)):
        hidden = vae.encoder(images)
        pooled = sum(network.before(one) for one in hidden) / size
        context = normal(network.after(torch.cat([pooled, torch.tensor([size / vae.set_size])])))
        c = context.mean + context.stddev * of_context[number]
        total -= kl_divergence(context, Normal(0.0, 1.0)).sum()
        for index in range(size):
            above = []
            for layer, drawn in zip(vae.layers, of_z, strict=True):
                posterior = normal(layer.posterior(torch.cat([hidden[index], c, *above[-1:]])))
                prior = normal(layer.prior(torch.cat([c, *above[-1:]])))
                total -= kl_divergence(posterior, prior).sum()
                above.append(posterior.mean + posterior.stddev * drawn[number * size + index])
            logits = vae.decoder(torch.cat([c, *above])[None])[0]
            likelihood = Bernoulli(logits=logits).log_prob(images[index]).sum()
            total, reconstruction = total + likelihood, reconstruction - likelihood
    torch.testing.assert_close(loss, -total / len(batch.images))
    torch.testing.assert_close(terms["reconstruction"], reconstruction / len(batch.images))
    recomposed = terms["reconstruction"] + terms["kl_latents"] + terms["kl"] / size
    torch.testing.assert_close(loss, recomposed)


@torch.no_grad()
def test_the_context_does_not_know_the_order_of_its_set_and_an_image_is_a_set_of_one():
    vae, batch = make().vae.eval(), batch_of()
    hidden = vae.encoder(batch.images)
    context = vae.context(hidden)
    turned = vae.context(hidden.unflatten(0, (4, SIZE))[:, [2, 0, 1]].flatten(0, 1))
    torch.testing.assert_close(turned.mean, context.mean)
    torch.testing.assert_close(turned.logvar, context.logvar)
    other = vae.context(hidden.flip(0))  # the sets backwards
    torch.testing.assert_close(other.mean.flip(0), context.mean)
    alone = vae.encode(batch.images)
    first = torch.tensor([[True, False, False]]).expand(4, -1)
    torch.testing.assert_close(vae.context(hidden, first).mean, alone.mean[::SIZE])
    assert not torch.allclose(context.mean, alone.mean[::SIZE], atol=1e-3)


@torch.no_grad()
def test_what_is_not_kept_is_not_pooled_and_the_count_is_told():
    network = make().vae.posterior
    instances = torch.randn(2, SIZE, 8, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[True, True, False], [True, False, True]])
    expected = torch.cat([network.pooled(instances[:1, :2]), network.pooled(instances[1:, ::2])])
    torch.testing.assert_close(network.pooled(instances, kept), expected)
    repeated = instances[:, :1].expand(-1, SIZE, -1)  # the same mean of another number of images
    assert not torch.allclose(network.pooled(repeated), network.pooled(repeated[:, :1]), atol=1e-4)


def test_sample_dropout_keeps_the_first_of_a_set_and_works_in_training_alone():
    objective, hidden = make(sample_dropout=0.25), torch.empty(0)
    kept = objective._kept(4000, torch.Generator().manual_seed(0), hidden)
    assert kept[:, 0].all()
    assert kept[:, 1:].float().mean().item() == pytest.approx(0.75, abs=4 * math.sqrt(0.25 * 0.75 / 8000))
    assert objective.eval()._kept(4, torch.Generator(), hidden) is None
    assert make(sample_dropout=0.0)._kept(4, torch.Generator(), hidden) is None


@torch.no_grad()
def test_a_context_alone_is_decoded_at_the_means_of_its_priors():
    vae = make(z_layers=2).vae.eval()
    c = torch.randn(5, CONTEXT, generator=torch.Generator().manual_seed(0))
    top = vae.layers[0].prior(c).chunk(2, 1)[0]
    low = vae.layers[1].prior(torch.cat([c, top], 1)).chunk(2, 1)[0]
    torch.testing.assert_close(vae.decode(c), vae.decoder(torch.cat([c, top, low], 1)))


def labels_of(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def epoch_of(shuffled, epoch):
    return [shuffled[epoch * shuffled.steps + step] for step in range(shuffled.steps)]


def test_batches_are_whole_sets_of_one_class_formed_anew_every_epoch():
    counts = [7, 9, 12, 3, 8]
    labels = labels_of(counts)
    number = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()
    shuffled = Shuffled(number, labels, 8, 0, set_size=SIZE)
    assert shuffled.steps == sum(count // SIZE for count in counts) // 2
    found = []
    for epoch in range(3):
        sets, seen = [], []
        for batch in epoch_of(shuffled, epoch):
            assert len(batch.images) == 2 * SIZE == len(batch.labels)
            which = (batch.images[:, 0, 0, 0] * 255).round().long()
            assert torch.equal(batch.labels, labels[which])
            for one in batch.labels.split(SIZE):
                assert len(one.unique()) == 1
            seen += which.tolist()
            sets += [frozenset(one.tolist()) for one in which.split(SIZE)]
        assert len(seen) == len(set(seen))
        found.append(sets)
    assert set(found[0]) != set(found[1]) != set(found[2])  # other companions, not another order alone
    assert [labels[min(one)].item() for one in found[0]] != sorted(labels[min(one)].item() for one in found[0])
    again = Shuffled(number, labels, 8, 0, set_size=SIZE)[7]
    assert torch.equal(again.images, shuffled[7].images)


def test_every_set_of_a_class_is_as_likely():
    """Two sets of 2 out of 4 images: three ways to pair them."""
    labels, ways = labels_of([4, 4]), {}
    for seed in range(600):
        draw = torch.Generator().manual_seed(seed)
        order = Sets(labels, 2, 4).form(torch.randperm(8, generator=draw), draw)
        assert sorted(order.tolist()) == list(range(8))
        pair = next(sorted(one.tolist())[1] for one in order.split(2) if 0 in one)
        ways[pair] = ways.get(pair, 0) + 1
    assert stats.chisquare([ways[partner] for partner in (1, 2, 3)]).pvalue > 1e-3


def test_sets_that_cannot_be_formed_are_told():
    with pytest.raises(ModelError) as caught:
        Sets(labels_of([5, 0, 2]), 3, 6)
    assert str(caught.value) == "set_size: given 3, but a training class has only 2 images; allowed: 2 to 2"
    with pytest.raises(ModelError) as caught:
        Sets(labels_of([5, 7]), 3, 5)
    words = "training.batch_size: given 5, which holds 1 sets of 3 images; allowed: 2 sets to all 3, 6 to 9 images"
    assert str(caught.value) == words
    with pytest.raises(ModelError, match="given 10, which holds 3 sets of 3 images; allowed: 2 sets to all 3, 6 to 9"):
        Sets(labels_of([5, 7]), 3, 10)


@pytest.mark.parametrize("name", NAMES)
def test_labels_form_the_sets_so_training_has_used_them(name):
    assert make(name).labels_used == "class" and make(name).set_size == SIZE


def test_the_truth_of_a_set_is_its_class():
    objective, batch = make("guided_neural_statistician"), batch_of()
    seen = objective.look(batch)
    assert len(seen.z) == 4
    assert objective.parts[0].truth(batch, seen).tolist() == [0, 1, 2, 3]


@torch.no_grad()
def test_guidance_of_images_is_that_of_their_contexts_alone():
    objective, batch = make("guided_neural_statistician", guide="image", mixup=0.0).eval(), batch_of()
    part, seen = objective.parts[0], objective.look(batch)
    draw = torch.Generator().set_state(batch.generator.get_state())
    found = part.loss(batch, seen)
    z = objective.vae.encode(batch.images).sample(draw)
    excitation = F.cross_entropy(part.head(z[:, :2]), batch.labels)
    inhibition = -part.adversary(z[:, 2:]).log_softmax(1).mean()
    torch.testing.assert_close(found[0], 50 * excitation + 50 * inhibition)
    z = objective.vae.encode(batch.images).sample(draw)
    expected = F.cross_entropy(part.adversary(z[:, 2:]), batch.labels)
    torch.testing.assert_close(part.adversary_loss(batch, seen.without_gradient(), seen.z)[0], expected)


def test_an_adversary_of_images_moves_nothing_else_and_its_network_is_no_part_of_it():
    objective, batch = make("guided_neural_statistician", guide="image"), batch_of()
    main, rival = objective.phases()
    main.loss(batch)
    objective.zero_grad(set_to_none=True)
    rival.loss(batch)[0].backward()
    moved = {name for name, parameter in objective.named_parameters() if parameter.grad is not None}
    assert moved and all(".adversary." in name for name in moved)
    assert not any("before" in name for name in objective.parts[0].state_dict())


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_shares_are_beta_and_partners_a_permutation(concentration):
    share, partner = pairs(4000, concentration, torch.Generator().manual_seed(0), torch.device("cpu"))
    beta = stats.beta(concentration, concentration)
    assert stats.kstest(share.double().numpy(), beta.cdf).pvalue > 1e-3
    assert torch.equal(partner.sort().values, torch.arange(4000)) and not torch.equal(partner, torch.arange(4000))
    again = pairs(4000, concentration, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(again[0], share) and torch.equal(again[1], partner)


@torch.no_grad()
def test_the_head_learns_from_mixtures_of_contexts_and_is_scored_on_contexts():
    part = make("guided_neural_statistician", mixup=0.5).parts[0]
    z, truth = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    batch = batch_of()
    share, partner = pairs(4, 0.5, torch.Generator().manual_seed(1), z.device)
    answer, loss = part.excite(batch, z, truth)
    expected = 0.0
    for i in range(4):
        mixed = part.head((share[i] * z[i] + (1 - share[i]) * z[partner[i]])[None]).log_softmax(1)[0]
        expected -= (share[i] * mixed[truth[i]] + (1 - share[i]) * mixed[truth[partner[i]]]) / 4
    torch.testing.assert_close(loss, expected)
    assert torch.equal(answer, part.head(z))
    plain = make("guided_neural_statistician", mixup=0.0).parts[0]
    assert torch.equal(plain.excite(batch, z, truth)[1], F.cross_entropy(plain.head(z), truth))


def data(each=9):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CLASSES * each, *SHAPE), generator=generator, dtype=torch.uint8)
    return images, torch.arange(CLASSES).repeat_interleave(each)


class Stop(Exception):
    pass


class StopAt(Recorder):
    def scalars(self, step, values):
        if step >= 8:
            raise Stop


@pytest.mark.parametrize("name", [*NAMES, "guided_neural_statistician of images"])
def test_a_resumed_run_ends_at_bitwise_the_same_weights(name, tmp_path, monkeypatch):
    name, images, _ = name.partition(" of images")
    built = partial(make, name, **({"guide": "image"} if images else {}))
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    training = Training(epochs=3, batch_size=7, learning_rate=1e-2, checkpoint_seconds=0.0)  # 6 steps of 2 sets
    whole = pretrain(built(), *data(), training=training, seed=0)
    state = tmp_path / "state.pt"
    with pytest.raises(Stop):
        pretrain(built(), *data(), training=training, seed=0, state=state, recorder=StopAt())
    torch.manual_seed(3)
    resumed = pretrain(built(seed=9), *data(), training=training, seed=0, state=state)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())
    assert not torch.equal(whole.vae.posterior.after[0].weight, built().vae.posterior.after[0].weight)
    with pytest.raises(ModelError, match="network is .*'set_size': 3.* there and .*'set_size': 2"):
        pretrain(built(set_size=2), *data(), training=training, seed=0, state=state)


def test_guidance_moves_the_class_into_its_slot_of_the_context():
    """Which quarter of an image is bright: a probe of the excited slot reads it, and less from the rest."""
    images, labels = data(each=20)
    images //= 2
    for index, label in enumerate(labels.tolist()):
        images[index, :, 3 * label : 3 * label + 3] += 100
    training = Training(epochs=25, batch_size=24, learning_rate=1e-2, schedule="constant")
    objective = make("guided_neural_statistician", excitation=20.0, inhibition=20.0, adversary_hidden=16, width=16)
    pretrain(objective, images, labels, training=training, seed=0)
    with torch.no_grad():
        means = objective.vae.encode(images / 255).mean
        said = objective.parts[0].head(objective.vae.slot(means, "class")).argmax(1)
        rest = objective.parts[0].adversary(objective.vae.slot(means, "content"))
    assert (said == labels).float().mean() > 0.9
    assert F.cross_entropy(rest, labels) > 0.6 * math.log(CLASSES)


def test_a_checkpoint_comes_back_as_the_network_of_sets(tmp_path):
    vae = make("guided_neural_statistician", z_layers=2).vae.eval()
    path = save_encoder(tmp_path, vae, {"labels_used": "class"})
    read, info = load_encoder(path)
    assert isinstance(read, Statistician) and read.network == vae.network and read.slots == vae.slots
    assert info["network"] == {"kind": "statistician", "set_size": SIZE, "z_latents": 2, "z_layers": 2, "width": 8}
    images = batch_of().images
    assert torch.equal(read.encode(images).mean, vae.encode(images).mean)
    assert torch.equal(read.context(read.encoder(images)).logvar, vae.context(vae.encoder(images)).logvar)
    info["network"]["kind"] = "stastician"
    path.write_bytes(save(vae.state_dict(), metadata={"gvae": json.dumps(info)}))
    with pytest.raises(ModelError, match="has a network 'stastician'; this version knows: statistician, vae"):
        load_encoder(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sample_dropout": 1.0}, "sample_dropout: given 1.0; allowed: 0 to less than 1, a chance"),
        ({"z_layers": 0}, "z_layers: given 0; allowed: 1 or more"),
        ({"set_size": 0}, "set_size: given 0; allowed: 1 or more"),
        ({"mixup": -1.0}, "mixup: given -1.0; allowed: 0, no mixup, or more: both parameters of a Beta"),
        ({"class_latents": CONTEXT}, "class_latents must be between 1 and latents - 1 = 5, got 6"),
    ],
)
def test_options_out_of_range_are_told(options, words):
    with pytest.raises(ModelError) as caught:
        make("guided_neural_statistician", **options)
    assert str(caught.value) == words
