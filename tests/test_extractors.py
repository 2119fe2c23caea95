"""One contract over the table of extractors; checkpoints and slots; leaks; the caches of features and encoders."""

import importlib
import sys
import types
from functools import partial

import numpy as np
import pytest
import torch

from gvae.checkpoint import ENCODER, save_encoder
from gvae.errors import ModelError
from gvae.nets import TRUNKS, ConvDecoder, ConvEncoder, initialise
from gvae.recorder import Recorder
from gvae.vae import VAE
from metalearn.cache import read_tensor, weights_fingerprint, write_tensor
from metalearn.construct import build_extractor
from metalearn.encoders import build_objective, encoder_key, validation_accuracy
from metalearn.errors import UserError
from metalearn.extractor_table import EXTRACTORS, checkpoint
from metalearn.extractors import FeatureExtractor, Pixels, PosteriorMean, RandomNetwork
from metalearn.features import extract
from metalearn.prepare import depends_on_seed, make_extractor, refuse_leak
from metalearn.schema import Kind, ModelConfig, MonitorConfig, PretrainingConfig, TrainingConfig
from tasks.datasets import glyphs

MODEL = ModelConfig(trunk="tiny", latents=6)
PRETRAINING = PretrainingConfig(
    model=MODEL,
    training=TrainingConfig(epochs=1, batch_size=64),
    monitor=MonitorConfig(ways=3, shots=1, queries=5, episodes=10),
)
GUIDED = Kind(kind="pretrain", objective={"kind": "guided_vae", "transforms": ["rotation"]})


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    widths = (4, 4)
    monkeypatch.setitem(TRUNKS, "tiny", (partial(ConvEncoder, widths=widths), partial(ConvDecoder, widths=widths)))
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def dataset():
    return glyphs(classes=30, instances=20)


def prepared(kind, dataset, seed=0, recorder=None, **options):
    options = {"pretraining": PRETRAINING, **options}
    kind = Kind.model_validate(kind)
    return make_extractor(kind, seed, dataset=dataset, recorder=recorder or Recorder(), device="cpu", **options)


def make_vae(seed=0, shape=(1, 28, 28)):
    vae = VAE(shape, trunk="tiny", latents=6, slots={"rotation": 1, "translation": 2, "content": 3})
    initialise(vae, torch.Generator().manual_seed(seed))
    return vae.eval()


def written(folder, seed=0, shape=(1, 28, 28), **info):
    return save_encoder(folder, make_vae(seed, shape), {"labels_used": "none", "training_classes": [], **info})


def images_of(dataset, n=7):
    return torch.from_numpy(dataset.test.gather(np.arange(n))).float() / 255


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_gives_features_that_depend_on_the_image_alone(name, dataset, tmp_path):
    if name == "timm":
        pytest.importorskip("timm")
    kinds = {
        "checkpoint": Kind(kind="checkpoint", path=str(written(tmp_path))),
        "pretrain": GUIDED,
        "torchvision": Kind(kind="torchvision", name="squeezenet1_1"),
        "timm": Kind(kind="timm", name="test_resnet"),
        "network": Kind(kind="network", network="gvae.trunks.conv:ConvEncoder"),
    }
    extractor = prepared(kinds.get(name, Kind(kind=name)), dataset).extractor
    assert isinstance(extractor, FeatureExtractor) and not extractor.training
    assert extractor.image_shape == dataset.test.image_shape
    images = images_of(dataset)
    with torch.no_grad():
        features = extractor(images)
        assert features.shape == (7, extractor.feature_dim) and features.dtype == torch.float32
        assert torch.isfinite(features).all() and features.std(0).max() > 0
        torch.manual_seed(5)
        assert torch.equal(features, extractor(images))
        for i in range(7):
            torch.testing.assert_close(extractor(images[i : i + 1])[0], features[i], atol=1e-6, rtol=1e-5)
        shuffled = torch.tensor([3, 0, 6, 2, 5, 1, 4])
        torch.testing.assert_close(extractor(images[shuffled]), features[shuffled], atol=1e-6, rtol=1e-5)
    assert extractor.pretrained == (name in ("checkpoint", "pretrain"))
    assert extractor.labels_used == "none"
    assert depends_on_seed(kinds.get(name, Kind(kind=name))) == (name not in ("pixels", "checkpoint"))


@pytest.mark.parametrize("name", ["random", "pretrain"])
def test_a_seeded_extractor_is_a_function_of_its_seed(name, dataset):
    kind = GUIDED if name == "pretrain" else Kind(kind=name)
    one, same, other = (prepared(kind, dataset, seed=seed).extractor(images_of(dataset)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_pixels_are_the_pixels():
    images = torch.rand(3, 2, 4, 5)
    assert torch.equal(Pixels((2, 4, 5))(images), images.reshape(3, 40))


def test_the_feature_is_the_posterior_mean_and_slots_choose_from_it_in_the_order_given(dataset):
    vae, images = make_vae(), images_of(dataset)
    mean = vae.encode(images).mean
    assert torch.equal(PosteriorMean(vae)(images), mean)
    assert torch.equal(PosteriorMean(vae, ["translation"])(images), mean[:, 1:3])
    assert torch.equal(PosteriorMean(vae, ["content", "rotation"])(images), mean[:, [3, 4, 5, 0]])
    assert PosteriorMean(vae, ["content", "rotation"]).feature_dim == 4


def test_an_unknown_slot_is_told_with_the_closest(dataset, tmp_path):
    words = "unknown slot 'contnt'; did you mean 'content'? allowed: content, rotation, translation"
    with pytest.raises(UserError) as caught:
        PosteriorMean(make_vae(), ["contnt"])
    assert str(caught.value) == words
    with pytest.raises(UserError, match="did you mean 'content'"):
        prepared(Kind(kind="checkpoint", path=str(written(tmp_path)), slots=["contnt"]), dataset)


def test_an_unknown_slot_is_told_before_the_pretraining(dataset, tmp_path):
    with pytest.raises(UserError, match="unknown slot 'clas'; allowed: content, rotation"):
        prepared(Kind(**GUIDED.model_dump(), slots=["clas"]), dataset)
    assert not (tmp_path / "cache" / "encoders").exists()


def test_slots_of_a_pretrained_encoder(dataset):
    extractor = prepared(Kind(**GUIDED.model_dump(), slots=["content"]), dataset).extractor
    assert extractor.feature_dim == 5


def test_images_of_another_shape_are_refused():
    with pytest.raises(UserError) as caught:
        PosteriorMean(make_vae())(torch.zeros(2, 3, 28, 28))
    assert "images of shape (3, 28, 28) given to an encoder of (1, 28, 28) (c, h, w)" in str(caught.value)


def test_a_checkpoint_for_other_images_is_refused(dataset, tmp_path):
    path = written(tmp_path, shape=(1, 14, 14))
    with pytest.raises(UserError) as caught:
        prepared(Kind(kind="checkpoint", path=str(path)), dataset)
    assert f"checkpoint {path} is for images of shape (1, 14, 14) (c, h, w), the dataset has (1, 28, 28)" in str(
        caught.value
    )
    assert "set the dataset's image_size, or give another checkpoint" in str(caught.value)


def test_a_checkpoint_that_does_not_say_what_it_saw_is_refused(dataset, tmp_path):
    path = save_encoder(tmp_path, make_vae(), {"labels_used": "none"})
    with pytest.raises(UserError, match=r"does not say what it was trained on \(training_classes\), so a leak of test"):
        prepared(Kind(kind="checkpoint", path=str(path)), dataset)


def test_an_absent_checkpoint_is_refused(dataset, tmp_path):
    with pytest.raises(ModelError, match="no encoder at "):
        prepared(Kind(kind="checkpoint", path=str(tmp_path / "nowhere")), dataset)


class Mean(FeatureExtractor):
    def __init__(self, image_shape, *, power: int = 1):
        super().__init__()
        self.image_shape, self.feature_dim, self.power = image_shape, 1, power

    def forward(self, images):
        return images.flatten(1).mean(1, keepdim=True) ** self.power


class Bare(torch.nn.Linear):
    feature_dim = 3


def function() -> torch.nn.Module:
    """Does not return what it says."""
    return "text"  # type: ignore[return-value]


@pytest.fixture
def plugin(monkeypatch):
    module = types.ModuleType("outside_extractors")
    module.Mean, module.Bare = Mean, Bare
    module.function = function
    monkeypatch.setitem(sys.modules, "outside_extractors", module)


def test_a_class_from_outside_is_an_extractor(plugin, dataset):
    extractor = prepared(Kind(kind="outside_extractors:Mean", power=2), dataset).extractor
    images = images_of(dataset)
    torch.testing.assert_close(extractor(images)[:, 0], images.mean((1, 2, 3)) ** 2)


def test_wrong_options_of_an_outside_class_are_named(plugin, dataset):
    with pytest.raises(UserError, match="powr"):
        prepared(Kind(kind="outside_extractors:Mean", powr=2), dataset)
    with pytest.raises(UserError, match="power"):
        prepared(Kind(kind="outside_extractors:Mean", power="two"), dataset)


def test_what_is_no_extractor_is_refused(plugin, dataset):
    with pytest.raises(UserError) as caught:
        prepared(Kind(kind="outside_extractors:function"), dataset)
    assert "gives a str, which is no extractor: it must be a torch.nn.Module, or a metalearn.extractors.Feature" in str(
        caught.value
    )


def test_a_network_that_images_do_not_fit_is_refused_with_their_shape(plugin, dataset):
    with pytest.raises(UserError, match=r":Bare fails on images of shape \(1, 28, 28\) \(c, h, w"):
        prepared(Kind(kind="outside_extractors:Bare", in_features=2, out_features=3), dataset)


def test_pretrain_is_made_by_prepare_only():
    with pytest.raises(UserError, match="'pretrain' is made by a command that can pretrain it, not by itself"):
        options = {"objective": Kind(kind="vae")}
        build_extractor(EXTRACTORS["pretrain"], options, image_shape=(1, 28, 28), seed=0, model=MODEL)


def test_a_leak_is_refused_with_the_classes(dataset, tmp_path):
    leaking = written(tmp_path, training_classes=[*dataset.train.class_names, *dataset.test.class_names[:4]])
    extractor = checkpoint((1, 28, 28), path=str(leaking))
    with pytest.raises(UserError) as caught:
        refuse_leak("mine", extractor, dataset.test)
    names = ", ".join(dataset.test.class_names[:3])
    said = f"extractor 'mine' was trained on 4 of the classes it would be tested on ({names}, ...)"
    assert str(caught.value).startswith(said)
    assert "use an encoder of the same split, or the split that it was trained on" in str(caught.value)
    refuse_leak("mine", extractor, dataset.val)
    refuse_leak("pixels", Pixels((1, 28, 28)), dataset.test)


def test_a_pretrained_encoder_says_what_it_saw(dataset):
    labelled = Kind(kind="pretrain", objective={"kind": "guided_vae_supervised", "class_latents": 2})
    extractor, seconds = prepared(labelled, dataset)
    assert extractor.labels_used == "class" and extractor.training_classes == dataset.train.base_classes
    assert seconds > 0
    refuse_leak("guided", extractor, dataset.test)
    with pytest.raises(UserError, match="was trained on 18 of the classes"):
        refuse_leak("guided", extractor, dataset.train)


def test_a_pretrained_encoder_is_trained_once_and_a_damaged_one_again(dataset, tmp_path):
    class Told(Recorder):
        def __init__(self):
            self.texts, self.steps = [], []

        def text(self, step, name, text):
            self.texts.append(text)

        def scalars(self, step, values):
            self.steps.append(step)

    first, second, third = Told(), Told(), Told()
    one = prepared(GUIDED, dataset, recorder=first)
    two = prepared(GUIDED, dataset, recorder=second)
    assert first.steps and not second.steps and one.seconds == two.seconds
    assert weights_fingerprint(one.extractor) == weights_fingerprint(two.extractor)
    (path,) = (tmp_path / "cache" / "encoders").glob(f"*/{ENCODER}")
    path.write_bytes(path.read_bytes()[:100])
    three = prepared(GUIDED, dataset, recorder=third)
    assert "is damaged and is trained again" in third.texts[0]
    assert weights_fingerprint(one.extractor) == weights_fingerprint(three.extractor)


def test_the_key_of_an_encoder_is_what_its_weights_are_a_function_of(dataset):
    def key(objective=None, model=MODEL, training=PRETRAINING.training, seed=0, device="cpu", data=dataset):
        return encoder_key(data, Kind.model_validate(objective or "vae"), model, training, seed, device)

    def augmented(**options):
        return key(training=TrainingConfig(epochs=1, batch_size=64, augmentation=options))

    often = TrainingConfig(epochs=1, batch_size=64, checkpoint_seconds=1)
    same = [key(), key({"kind": "vae", "beta": 1.0}), key(training=often)]
    assert len(set(same)) == 1
    assert augmented(rotation=10) == augmented(rotation=10.0, scale=[1.0, 1.0])
    others = [
        key({"kind": "vae", "beta": 2.0}), key("guided_vae"), key(model=ModelConfig(trunk="tiny", latents=7)),
        key(training=TrainingConfig(epochs=2, batch_size=64)), key(seed=1), key(device="cuda:0"),
        key(data=glyphs(classes=30, instances=20, split_seed=1)), augmented(rotation=10), augmented(rotation=20),
    ]  # fmt: skip
    assert len({*same, *others}) == 1 + len(others)
    assert key(device="cuda:1") == key(device="cuda:0")


def test_validation_accuracy_is_a_fraction_and_draws_nothing(dataset):
    objective = build_objective(dataset, Kind(kind="vae"), MODEL, 0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = [validation_accuracy(objective, dataset, PRETRAINING.monitor, "cpu") for _ in range(2)]
    assert found[0] == found[1] and list(found[0]) == ["val/accuracy_3w1s"]
    assert 1 / 3 < found[0]["val/accuracy_3w1s"] <= 1
    assert torch.equal(torch.get_rng_state(), before)


class Counting(Pixels):
    calls = 0

    def forward(self, images):
        Counting.calls += 1
        return super().forward(images)


def test_features_are_extracted_once_and_read_again_equal(dataset, tmp_path):
    Counting.calls, extractor, seen = 0, Counting((1, 28, 28)), []
    first = extract(extractor, dataset.test, cache=tmp_path, progress=lambda *told: seen.append(told))
    assert first.shape == (120, 784) and first.dtype == torch.float32 and seen == [(120, 120, "features")]
    torch.testing.assert_close(first, torch.from_numpy(dataset.test.images()).flatten(1) / 255)
    for _ in range(2):
        assert torch.equal(extract(Counting((1, 28, 28)), dataset.test, cache=tmp_path), first)
    assert Counting.calls == 1
    extract(extractor, dataset.test)  # no cache, no reading
    extract(extractor, dataset.val, cache=tmp_path)  # another part
    assert Counting.calls == 3
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_features_do_not_depend_on_how_many_are_extracted_at_once(dataset, monkeypatch):
    whole = extract(PosteriorMean(make_vae()), dataset.test)
    monkeypatch.setattr("metalearn.features.BATCH", 13)
    torch.testing.assert_close(extract(PosteriorMean(make_vae()), dataset.test), whole, atol=1e-6, rtol=1e-5)


def test_other_weights_other_slots_other_running_statistics_other_options_miss():
    vae, moved = make_vae(), make_vae()
    moved.encoder.layers[1].running_mean += 0.1
    different = [
        PosteriorMean(vae), PosteriorMean(make_vae(1)), PosteriorMean(vae, ["content"]), PosteriorMean(moved),
        RandomNetwork((1, 28, 28), 0, MODEL), RandomNetwork((1, 28, 28), 1, MODEL), Pixels((1, 28, 28)),
        Counting((1, 28, 28)), Mean((1, 28, 28)), Mean((1, 28, 28), power=2),
    ]  # fmt: skip
    assert len({weights_fingerprint(one) for one in different}) == len(different)
    assert weights_fingerprint(PosteriorMean(vae)) == weights_fingerprint(PosteriorMean(make_vae()).train())
    nested = [torch.nn.Sequential(torch.nn.ReLU(), torch.nn.LeakyReLU(slope)) for slope in (0.1, 0.3)]
    assert weights_fingerprint(nested[0]) != weights_fingerprint(nested[1])


def test_edited_code_misses(tmp_path, monkeypatch):
    source = (
        "import metalearn.extractors as e\nclass Own(e.Pixels):\n    def forward(self, images):\n"
        "        return super().forward(images) * {}\n"
    )
    found = []
    for number in (1, 2):  # two folders, as a file that a process has imported is not read again
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "edited_extractor.py").write_text(source.format(number))
        with monkeypatch.context() as here:
            here.syspath_prepend(str(folder))
            here.delitem(sys.modules, "edited_extractor", raising=False)
            found.append(weights_fingerprint(importlib.import_module("edited_extractor").Own((1, 28, 28))))
    sys.modules.pop("edited_extractor")
    assert found[0] != found[1]


def test_a_damaged_entry_is_extracted_again(dataset, tmp_path):
    extractor = PosteriorMean(make_vae())
    good = extract(extractor, dataset.test, cache=tmp_path)
    (entry,) = (tmp_path / "features").iterdir()
    whole = entry.read_bytes()
    for damaged in (whole[:-7], b"", whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:], b"x" * 500):
        entry.write_bytes(damaged)
        assert torch.equal(extract(extractor, dataset.test, cache=tmp_path), good)
        assert entry.read_bytes() == whole  # and kept again


def test_a_kept_tensor_of_another_shape_is_damaged(tmp_path):
    write_tensor(tmp_path / "t", torch.arange(6.0).view(2, 3))
    whole = (tmp_path / "t").read_bytes()
    assert torch.equal(read_tensor(tmp_path / "t"), torch.arange(6.0).view(2, 3))
    assert b"[2,3]" in whole
    (tmp_path / "t").write_bytes(whole.replace(b"[2,3]", b"[3,2]"))
    assert read_tensor(tmp_path / "t") is None
    (tmp_path / "t").write_bytes(whole.replace(b'"F32"', b'"I32"'))
    assert read_tensor(tmp_path / "t") is None
    assert read_tensor(tmp_path / "absent") is None


@pytest.mark.filterwarnings("error")
def test_no_flipped_byte_of_a_kept_tensor_is_believed(tmp_path):
    values = torch.arange(12.0).view(3, 4)
    write_tensor(tmp_path / "t", values)
    whole = (tmp_path / "t").read_bytes()
    for at in range(len(whole)):
        (tmp_path / "t").write_bytes(whole[:at] + bytes([whole[at] ^ 5]) + whole[at + 1 :])
        read = read_tensor(tmp_path / "t")
        assert read is None or torch.equal(read, values), at


class Wrong(Pixels):
    def forward(self, images):
        return images.flatten(1)[:, :5]


class NotFinite(Pixels):
    def forward(self, images):
        return super().forward(images) / 0


def test_features_of_the_wrong_shape_or_not_finite_are_refused_and_not_kept(dataset, tmp_path):
    with pytest.raises(UserError, match=r"Wrong gave features of shape \(120, 5\) for 120 images; allowed: .* = 784"):
        extract(Wrong((1, 28, 28)), dataset.test, cache=tmp_path)
    with pytest.raises(UserError, match="NotFinite gives features that are not finite; its weights are damaged"):
        extract(NotFinite((1, 28, 28)), dataset.test, cache=tmp_path)
    assert not (tmp_path / "features").exists()
