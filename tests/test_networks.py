"""Networks that are no extractors by themselves: adapted images, layers, weights from files, what a row then says."""

import pickle
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from gvae.checkpoint import save_encoder
from gvae.recorder import Recorder
from gvae.vae import VAE
from metalearn.cache import weights_fingerprint
from metalearn.errors import UserError
from metalearn.extractor_table import checkpoint
from metalearn.extractors import Trunk
from metalearn.features import extract
from metalearn.learners import make_learner
from metalearn.networks import Network
from metalearn.prepare import depends_on_seed, gives_posterior, make_extractor, refuse_leak
from metalearn.schema import Kind, PretrainingConfig
from metalearn.testing import labels_used
from metalearn.torchvision_models import WITH_AUXILIARY_HEADS, cut_head, present_name
from tasks.datasets import glyphs

SHAPE = (1, 28, 28)
OWN = "test_networks:Tiny"
SMALL = {"kind": "torchvision", "name": "squeezenet1_1"}


class Tiny(nn.Module):
    """Maps, then a vector; a head that nothing reads."""

    def __init__(self, channels: int = 1, width: int = 4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Linear(width, 5)
        self.unread = nn.Linear(width, 2)

    def forward(self, images):
        return self.last(self.body(images).mean((2, 3)))


class Told(Tiny):
    seeded, labels_used, training_classes = False, "class", ("one", "two")


class Odd(nn.Module):
    """Gives back what it is asked for."""

    def __init__(self, gives: str):
        super().__init__()
        self.gives, self.idle = gives, nn.Identity()

    def forward(self, images):
        given = {"maps": images, "tokens": images.flatten(2), "one": images.mean(), "tuple": (images,)}
        return given[self.gives]


@pytest.fixture(scope="module")
def dataset():
    return glyphs(classes=30, instances=20)


def prepared(dataset, seed=0, **kind):
    found = make_extractor(
        Kind(**kind), seed, dataset=dataset, pretraining=PretrainingConfig(), recorder=Recorder(), device="cpu"
    )
    return found.extractor


def own(dataset, **options):
    return prepared(dataset, **{"kind": "network", "network": OWN, **options})


def refused(dataset, **kind):
    with pytest.raises(UserError) as caught:
        prepared(dataset, **kind)
    return str(caught.value)


def network(module=None, shape=SHAPE, **options):
    return Network(module or Tiny(shape[0]), shape, name="mine", **options)


class TestImages:
    def test_what_the_network_is_given_is_what_the_settings_say(self):
        seen = []

        class Spy(Tiny):
            def forward(self, images):
                seen.append(images)
                return super().forward(images)

        mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
        found = network(Spy(3), channels=3, size=14, mean=mean, std=std)
        images = torch.rand(4, *SHAPE)
        found(images)
        small = F.interpolate(images, (14, 14), mode="bilinear", antialias=True)
        for channel in range(3):
            expected = (small[:, 0] - mean[channel]) / std[channel]
            torch.testing.assert_close(seen[-1][:, channel], expected)
        assert found.settings == (
            "mine; weights drawn by the seed; images (1, 28, 28), repeated to 3 channels, resized to 14x14, less mean "
            "[0.1, 0.2, 0.3] by std [0.5, 0.6, 0.7]; layer output, pool none; 5 wide"
        )

    def test_images_stay_as_they_are_where_nothing_is_asked(self):
        module, images = Tiny().eval(), torch.rand(3, *SHAPE)
        assert torch.equal(network(module)(images), module(images))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"channels": 4, "shape": (3, 8, 8)}, "mine takes 4 channels and the images have 3; allowed: .* 1 or 4"),
            ({"size": 0}, "size 0; allowed: 1 or more"),
            ({"mean": [0.0], "std": None}, r"mean \[0.0\] and std None; allowed: both or neither"),
            ({"mean": [0.0], "std": [0.0]}, "std above 0"),
            ({"mean": [0.0] * 3, "std": [1.0] * 3}, "mean has 3 numbers; allowed: 1, as channels"),
            ({"layer": "bdy.0"}, "unknown layer of mine 'bdy.0'; did you mean 'body.0'"),
        ],
    )  # fmt: skip
    def test_options_that_do_not_fit_are_refused(self, options, words):
        with pytest.raises(UserError, match=words):
            network(**options)

    def test_images_of_another_shape_are_refused(self):
        with pytest.raises(UserError, match=r"images of shape \(1, 14, 14\) given to an encoder of \(1, 28, 28\)"):
            network()(torch.rand(2, 1, 14, 14))


class TestLayers:
    def test_a_layer_is_read_and_pooled(self):
        module, images = Tiny().eval(), torch.rand(3, *SHAPE)
        maps = module.body[0](images)
        assert torch.equal(network(module, layer="body.0", pool="mean")(images), maps.mean((2, 3)))
        assert torch.equal(network(module, layer="body.0", pool="mean_last")(images), maps.mean((1, 2)))
        assert torch.equal(network(module, layer="body.0", pool="flatten")(images), maps.flatten(1))
        assert not module.body[0]._forward_hooks

    def test_the_pass_ends_at_the_layer(self):
        module = Tiny()
        found = network(module, layer="body", pool="mean")
        module.last = None
        assert found(torch.rand(2, *SHAPE)).shape == (2, 4)

    def test_tokens_are_pooled_over_places(self):
        images = torch.rand(3, 2, 4, 6)
        assert torch.equal(network(Odd("tokens"), (2, 4, 6), pool="mean")(images), images.flatten(2).mean(1))

    def test_parameters_that_nothing_reads_are_frozen(self):
        frozen = {name for name, one in network(layer="body", pool="mean").named_parameters() if not one.requires_grad}
        assert frozen == {f"network.{part}.{kind}" for part in ("last", "unread") for kind in ("weight", "bias")}

    @pytest.mark.parametrize(
        ("gives", "shape"),
        [("maps", r"\(2, 1, 28, 28\)"), ("tokens", r"\(2, 1, 784\)"), ("one", r"\(\)"), ("tuple", "none, but a tuple")],
    )
    def test_an_output_that_is_no_vector_is_refused_with_both_shapes(self, gives, shape):
        words = rf"mine gives an output of shape {shape} for 2 images of shape \(1, 28, 28\); allowed: \(2, d\)"
        with pytest.raises(UserError, match=words):
            network(Odd(gives))

    def test_a_layer_that_is_never_called_is_refused(self):
        with pytest.raises(UserError, match="layer 'idle' of mine takes no part in what it computes"):
            network(Odd("maps"), layer="idle")


    @pytest.mark.parametrize("name", ["maml", "prototypical"])
    def test_a_learner_trains_what_the_layer_reads(self, name):
        learner = make_learner(name, network(layer="body", pool="mean"), **({"ways": 3} if name == "maml" else {}))
        images, labels = torch.rand(2, 6, *SHAPE), torch.arange(3).repeat(2)
        losses, _ = learner.train().meta_losses(images, labels, images, labels)
        losses.sum().backward()
        moved = {key for key, one in learner.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
        assert any(key.endswith("body.0.weight") for key in moved)
        assert not any("unread" in key or "last" in key for key in moved)


class TestOwnClass:
    def test_a_plain_class_alone_is_an_extractor(self, dataset):
        found = prepared(dataset, kind=OWN, width=6)
        assert found.feature_dim == 5 and found.network.body[0].out_channels == 6
        assert depends_on_seed(Kind(kind=OWN)) and not gives_posterior(Kind(kind=OWN))
        assert not depends_on_seed(Kind(kind="test_networks:Told"))

    def test_its_weights_are_a_function_of_the_seed_and_torch_draws_on(self, dataset):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        keys = [weights_fingerprint(prepared(dataset, seed, kind=OWN)) for seed in (1, 1, 2)]
        assert keys[0] == keys[1] != keys[2]
        assert torch.equal(torch.get_rng_state(), before)

    def test_what_it_says_of_itself_is_believed_and_a_leak_refused(self, dataset):
        found = prepared(dataset, kind="test_networks:Told")
        assert (found.labels_used, found.pretrained) == ("class", True)
        found.network.training_classes = dataset.test.class_names[:2]
        with pytest.raises(UserError, match="'mine' was trained on 2 of the classes it would be tested on"):
            refuse_leak("mine", network(found.network), dataset.test)

    def test_wrong_options_and_labels_are_named(self, dataset, monkeypatch):
        assert "did you mean 'width'" in refused(dataset, kind="network", network=OWN, options={"widht": 3})
        assert "makes a torch.nn.Module" in refused(dataset, kind="network", network="pathlib:PurePath")
        monkeypatch.setattr(Told, "labels_used", "klass")
        assert "did you mean 'class'" in refused(dataset, kind="test_networks:Told")

    def test_the_cache_key_changes_with_layer_size_and_pool(self, dataset):
        options = [{}, {"size": 14}, {"size": 20}, {"layer": "body.0"}, {"layer": "body.2"}, {"pool": "flatten"}]
        options += [{"options": {"width": 5}}, {"layer": "body.0", "pool": "flatten"}]
        assert len({weights_fingerprint(own(dataset, **one)) for one in options}) == len(options)
        assert weights_fingerprint(own(dataset)) == weights_fingerprint(own(dataset))

    def test_features_are_extracted_as_of_any_other(self, dataset, tmp_path):
        found = own(dataset, layer="body")
        first = extract(found, dataset.test, cache=tmp_path)
        assert first.shape == (len(dataset.test.labels), 4)
        assert torch.equal(extract(found, dataset.test, cache=tmp_path), first)


class TestWeights:
    def test_every_kind_of_file_gives_the_same(self, dataset, tmp_path):
        state = Tiny().state_dict()
        save_file(state, tmp_path / "a.safetensors")
        torch.save(state, tmp_path / "a.pt")
        wrapped = {f"module.encoder.{name}": value for name, value in state.items()} | {"queue": torch.zeros(3)}
        torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "b.pt")
        given = [str(tmp_path / "a.safetensors"), str(tmp_path / "a.pt")]
        given += [{"path": str(tmp_path / "b.pt"), "inside": "state_dict", "prefix": "module.encoder."}]
        for weights in given:
            found = own(dataset, weights=weights)
            assert all(torch.equal(found.network.state_dict()[name], value) for name, value in state.items())
            assert (found.labels_used, found.pretrained) == ("external", True)
            assert not depends_on_seed(Kind(kind="network", network=OWN, weights=weights))
        assert "weights b.pt (sha256 " in found.settings and ", inside state_dict, prefix module.enc" in found.settings
        assert labels_used(found, meta_trained=True) == "external"
        assert labels_used(own(dataset), meta_trained=True) == "class"

    def test_classes_that_the_weights_saw_are_refused(self, dataset, tmp_path):
        torch.save(Tiny().state_dict(), tmp_path / "a.pt")
        seen = [dataset.test.class_names[0]]
        found = own(dataset, weights=str(tmp_path / "a.pt"), training_classes=seen)
        with pytest.raises(UserError, match="was trained on 1 of the classes it would be tested on"):
            refuse_leak("mine", found, dataset.test)
        assert "training_classes without weights" in refused(
            dataset, kind="network", network=OWN, training_classes=seen
        )

    def test_a_wrong_shape_says_both(self, dataset, tmp_path):
        torch.save(Tiny(width=7).state_dict(), tmp_path / "a.pt")
        said = refused(dataset, kind="network", network=OWN, weights=str(tmp_path / "a.pt"))
        assert "body.0.weight is (7, 1, 3, 3), the network has (4, 1, 3, 3)" in said

    def test_names_that_do_not_fit_are_said_with_the_prefix_that_would(self, dataset, tmp_path):
        state = {f"module.{name}": value for name, value in Tiny().state_dict().items()}
        torch.save(state, tmp_path / "a.pt")
        said = refused(dataset, kind="network", network=OWN, weights=str(tmp_path / "a.pt"))
        assert "missing body.0.bias" in said and "its names fit with prefix: 'module.'" in said
        given = {"path": str(tmp_path / "a.pt"), "prefix": "encoder."}
        assert "no name in it begins with 'encoder.'" in refused(dataset, kind="network", network=OWN, weights=given)

    def test_names_too_many_are_refused_or_left_out(self, dataset, tmp_path):
        torch.save({**Tiny().state_dict(), "head.weight": torch.zeros(2)}, tmp_path / "a.pt")
        assert "unknown head.weight" in refused(dataset, kind="network", network=OWN, weights=str(tmp_path / "a.pt"))
        own(dataset, weights={"path": str(tmp_path / "a.pt"), "leave_out": ["head."]})

    def test_old_files_without_counters_are_read(self, dataset, tmp_path):
        state = {name: value for name, value in Tiny().state_dict().items() if "num_batches" not in name}
        torch.save(state, tmp_path / "a.pt")
        own(dataset, weights=str(tmp_path / "a.pt"))

    def test_nothing_in_a_file_is_executed(self, dataset, tmp_path):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / "executed"), "w")

        torch.save({"a": Evil()}, tmp_path / "zip.pt")
        (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Evil(), protocol=2))
        for name in ("zip.pt", "raw.pkl"):
            said = refused(dataset, kind="network", network=OWN, weights=str(tmp_path / name))
            assert f"{name} cannot be read as weights (it holds a " in said and "could run code" in said
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("data", [b"", b"<html>", bytes(100), b"PK\x03\x04" + bytes(50)])
    def test_what_is_no_file_of_weights_is_said(self, data, dataset, tmp_path):
        (tmp_path / "a.pt").write_bytes(data)
        said = refused(dataset, kind="network", network=OWN, weights=str(tmp_path / "a.pt"))
        assert "cannot be read as weights" in said and "allowed: safetensors, or what torch.save" in said

    def test_what_a_file_holds_instead_is_said(self, dataset, tmp_path):
        torch.save({"model": Tiny().state_dict(), "epoch": 1}, tmp_path / "a.pt")
        given = {"kind": "network", "network": OWN}
        said = refused(dataset, **given, weights=str(tmp_path / "a.pt"))
        assert "holds model (a OrderedDict), epoch (a int); allowed: names with tensors" in said
        said = refused(dataset, **given, weights={"path": str(tmp_path / "a.pt"), "inside": "state"})
        assert "has no entry 'state'; it holds model" in said


class TestTorchvision:
    def test_the_head_is_cut_where_the_classes_are(self):
        smallest = ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"]
        smallest += ["mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5"]
        smallest += ["squeezenet1_1", "swin_t", "vgg11", "vit_b_16"]
        for name in smallest:
            options = {"init_weights": False} if name in WITH_AUXILIARY_HEADS else {}
            with torch.device("meta"):
                model = models.get_model(name, weights=None, **options)
            before = model.state_dict()
            head = cut_head(model)
            gone = set(before) - set(model.state_dict())
            assert gone and all(one.startswith(f"{head}.") and len(before[one]) == 1000 for one in gone), name

    def test_it_is_the_network_with_the_weights_of_the_file(self, dataset, tmp_path):
        whole = models.squeezenet1_1(weights=None, num_classes=7).eval()  # another head, which is not read
        torch.save(whole.state_dict(), tmp_path / "s.pth")
        found = prepared(dataset, **SMALL, size=32, weights=str(tmp_path / "s.pth"))
        images = torch.rand(2, *SHAPE)
        given = F.interpolate(images.repeat(1, 3, 1, 1), (32, 32), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        expected = whole.features((given - mean) / std).mean((2, 3))
        torch.testing.assert_close(found(images), expected, atol=1e-5, rtol=1e-5)
        assert found.labels_used == "external" and "less mean [0.485, 0.456, 0.406]" in found.settings
        assert "torchvision squeezenet1_1; weights s.pth (sha256 " in found.settings

    def test_without_weights_the_seed_draws_them(self, dataset):
        found = prepared(dataset, **SMALL)
        assert (found.labels_used, found.pretrained, found.feature_dim) == ("none", False, 512)
        assert "weights drawn by the seed; images (1, 28, 28), repeated to 3 channels, in [0, 1]" in found.settings
        assert depends_on_seed(Kind(**SMALL))

    def test_any_layer(self, dataset):
        assert prepared(dataset, **SMALL, layer="features.3.squeeze").feature_dim == 16
        said = refused(dataset, **SMALL, layer="features.3.squeze")
        assert "unknown layer of torchvision squeezenet1_1 'features.3.squeze'; the closest of the " in said
        assert "allowed: features.3.squeeze, " in said

    def test_a_wrong_name_gives_the_closest(self, dataset):
        said = refused(dataset, kind="torchvision", name="resnet-18")
        assert "unknown torchvision model 'resnet-18'; the closest of the " in said and "allowed: resnet18, " in said

    def test_nothing_is_downloaded(self, dataset):
        said = refused(dataset, **SMALL, weights="nowhere.pth")
        assert "no file of weights at nowhere.pth; nothing is downloaded: where there is internet, torchvision" in said

    def test_a_size_that_it_does_not_take_is_said(self, dataset):
        said = refused(dataset, kind="torchvision", name="alexnet", size=20)
        assert "torchvision alexnet fails on images of shape (3, 20, 20) (c, h, w): RuntimeError: " in said
        assert "give the size" in said

    def test_names_of_old_densenets(self):
        old = "features.denseblock1.denselayer2.norm.1.weight"
        assert present_name(old) == "features.denseblock1.denselayer2.norm1.weight"
        assert present_name("layer1.0.bn1.weight") == "layer1.0.bn1.weight"


class TestTimm:
    def test_without_timm_it_says_how_to_install_it(self, dataset, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        said = refused(dataset, kind="timm", name="resnet18")
        assert "extractor kind 'timm' needs the package timm" in said and "pip install 'metalearn[timm]'" in said

    def test_it_is_the_network_with_the_weights_of_the_file(self, dataset, tmp_path):
        timm = pytest.importorskip("timm")
        whole = timm.create_model("test_resnet", pretrained=False).eval()
        torch.save(whole.state_dict(), tmp_path / "s.pth")
        found = prepared(dataset, kind="timm", name="test_resnet", weights=str(tmp_path / "s.pth"))
        mean, std = (torch.tensor(whole.pretrained_cfg[one]).view(3, 1, 1) for one in ("mean", "std"))
        images = torch.rand(2, *SHAPE)
        expected = whole.forward_head(whole.forward_features((images - mean) / std), pre_logits=True)
        torch.testing.assert_close(found(images), expected, atol=1e-5, rtol=1e-5)
        assert found.labels_used == "external"
        assert prepared(dataset, kind="timm", name="test_resnet", layer="layer1").feature_dim > 0

    def test_a_wrong_name_gives_the_closest(self, dataset):
        pytest.importorskip("timm")
        assert "allowed: test_resnet" in refused(dataset, kind="timm", name="test_resnt")
        assert "give the name without them: test_resnet" in refused(dataset, kind="timm", name="test_resnet.nobody")


class TestTrunk:
    def test_the_hidden_vector_of_an_encoder(self, tmp_path):
        vae = VAE(SHAPE, trunk="conv", latents=4, slots={"content": 4}).eval()
        path = str(save_encoder(tmp_path, vae, {"labels_used": "none", "training_classes": ["x"]}))
        found, images = checkpoint(SHAPE, path=path, features="trunk").eval(), torch.rand(3, *SHAPE)
        assert torch.equal(found(images), vae.encoder(images)) and found.feature_dim == vae.encoder.hidden_dim
        assert found.training_classes == {"x"} and found.pretrained and isinstance(found, Trunk)
        assert weights_fingerprint(found) != weights_fingerprint(checkpoint(SHAPE, path=path))
        with pytest.raises(UserError, match="slots are of the posterior mean, and features: trunk is the vector"):
            checkpoint(SHAPE, path=path, features="trunk", slots=["content"])
        assert gives_posterior(Kind(kind="checkpoint", path=path))
        assert not gives_posterior(Kind(kind="checkpoint", path=path, features="trunk"))

    def test_a_pretrained_one_is_built_before_the_training(self, dataset):
        from metalearn.prepare import before_training

        kind = Kind(kind="pretrain", objective={"kind": "vae"}, features="trunk")
        found = before_training(kind, 0, dataset=dataset, pretraining=PretrainingConfig())
        assert isinstance(found, Trunk) and found.objective is not None and np.isfinite(found.feature_dim)
