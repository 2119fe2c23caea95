"""The commands besides bench, in small, from the command line to the files they leave."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gvae.augment import Augment
from gvae.recorder import Recorder
from metalearn.cli import main
from metalearn.config import check as check_config
from metalearn.config import parse
from metalearn.data import check, overview, prepare
from metalearn.errors import DataError
from metalearn.prepare import make_extractor
from metalearn.record import read_metrics
from metalearn.schema import ExtractConfig, PretrainingConfig
from tasks.datasets import glyphs
from tasks.progress import silent

DATA = "dataset: {kind: glyphs, classes: 40, instances: 10}\n"
SMALL = "{epochs: 2, batch_size: 32, learning_rate: 2e-3}"
PRETRAIN = (
    DATA
    + f"""
model: {{latents: 12}}
objective: {{kind: guided_vae, transforms: [rotation, translation]}}
training: {SMALL}
monitor: {{ways: 3, shots: 1, queries: 2, episodes: 10}}
"""
)
EXTRACT = DATA + "extractor: {kind: checkpoint, path: PATH, slots: [content]}\npart: all\n"
MEASURE = DATA + "checkpoint: PATH\nmetrics: [mig]\n"
TRAIN = (
    DATA
    + """
extractor: random
pretraining: {model: {latents: 12}}
learner: {kind: KIND}
training: {ways: 3, shots: 1, queries: 2, meta_batch: 2, iterations: 4, eval_every: 2, eval_episodes: 5}
episodes: {settings: [SETTING], queries: 5, count: 20}
"""
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(home / "cache"))
    (home / "cache").mkdir(exist_ok=True)


def run(home: Path, command: str, text: str, out: str, monkeypatch: pytest.MonkeyPatch) -> int:
    config = home / f"{out}.yaml"
    config.write_text(text)
    words = ["metalearn", command, config, "--out", home / out, "--data-root", home / "cache", "--quiet"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def encoder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if not (home / "encoder" / "result.json").exists():
        assert run(home, "pretrain", PRETRAIN, "encoder", monkeypatch) == 0
    return home / "encoder"


def test_pretrain_leaves_an_encoder_and_says_what_it_saw(encoder):
    result = json.loads((encoder / "result.json").read_text())
    assert (encoder / result["encoder"]).is_file() and 0 <= result["val/accuracy_3w1s"] <= 1
    info = json.loads((encoder / "checkpoints" / "encoder.json").read_text())
    assert info["labels_used"] == "none" and len(info["training_classes"]) == 24
    assert info["dataset_settings"]["classes"] == 40 and info["dataset_settings"]["image_size"] == 28
    assert info["slots"] == {"rotation": 1, "translation": 2, "content": 9}
    rows = read_metrics(encoder / "metrics.jsonl")
    assert rows[-1]["step"] == 2 * (240 // 32) and any("train/light" in row for row in rows)


def test_a_monitor_whose_episodes_validation_cannot_give_is_refused_before_training(home, monkeypatch, capsys):
    text = PRETRAIN.replace("ways: 3", "ways: 9")
    assert run(home, "pretrain", text, "unwatched", monkeypatch) == 2
    said = capsys.readouterr().err
    assert "error: monitor: the validation part of glyphs/random has no such episodes: ways=9, but the data has" in said
    assert said.endswith("; or train without them by monitor: null\n")
    assert not list((home / "unwatched" / "checkpoints").iterdir())
    assert read_metrics(home / "unwatched" / "metrics.jsonl") == []
    sprites = PRETRAIN.replace(DATA, "dataset: {kind: sprites, images: 300, split: images}\n")
    assert run(home, "pretrain", sprites, "images", monkeypatch) == 2
    assert "or train without them by monitor: null" in capsys.readouterr().err


def test_extract_writes_the_features_of_every_part(home, encoder, monkeypatch):
    assert run(home, "extract", EXTRACT.replace("PATH", str(encoder)), "features", monkeypatch) == 0
    for part, classes in {"train": 24, "val": 8, "test": 8}.items():
        with np.load(home / "features" / f"features-{part}.npz") as kept:
            assert kept["features"].shape == (classes * 10, 9) and kept["features"].dtype == np.float32
            assert kept["labels"].max() == classes - 1 and len(kept["class_names"]) == classes
            assert np.isfinite(kept["features"]).all() and kept["features"].std() > 0


def test_measure_gives_kl_and_metrics_where_factors_are_known(home, encoder, monkeypatch):
    assert run(home, "measure", MEASURE.replace("PATH", str(encoder)), "measured", monkeypatch) == 0
    values = json.loads((home / "measured" / "result.json").read_text())["values"]
    assert {"kl_per_latent/rotation", "kl_per_latent/translation_01", "kl_per_latent/content_08"} <= set(values)
    assert 0 <= values["metric/mig"] <= 1 and all(value >= 0 for value in values.values())


@pytest.mark.parametrize(("kind", "setting"), [("maml", "3w1s"), ("anil", "3w1s"), ("prototypical", "4w2s")])
def test_train_meta_trains_end_to_end_and_reports(home, monkeypatch, kind, setting):
    text = TRAIN.replace("KIND", kind).replace("SETTING", setting)
    assert run(home, "train", text, f"train-{kind}", monkeypatch) == 0
    row = json.loads((home / f"train-{kind}" / "report.json").read_text())["rows"][0]
    assert (row["mode"], row["labels_used"], row["learner"], row["episodes"]) == ("end_to_end", "class", kind, 20)
    assert row["batch_norm"] == "running" and row["transductive"] is False


def test_a_benchmark_meta_trains_for_the_ways_of_each_setting_and_each_seed(home, monkeypatch):
    text = (
        DATA
        + """
extractors: {random: random, pixels: pixels}
pretraining: {model: {latents: 12}}
learners: {anil: {kind: anil, adapt_steps: 1}, prototypical: prototypical}
meta_training: {queries: 2, meta_batch: 2, iterations: 2, eval_every: 2, eval_episodes: 5}
episodes: {settings: [3w1s, 4w2s], queries: 5, count: 20}
seeds: [0, 1]
"""
    )
    assert run(home, "bench", text, "anil", monkeypatch) == 0
    rows = json.loads((home / "anil" / "report.json").read_text())["rows"]
    found = {(row["extractor"], row["learner"], row["ways"]): row["extractor_seeds"] for row in rows}
    assert len(rows) == len(found) == 2 * 2 * 2
    assert found["random", "anil", 4] == [0, 1] == found["pixels", "anil", 3]  # meta-training has chance of its own
    assert found["random", "prototypical", 3] == [0, 1] and found["pixels", "prototypical", 3] == []


def test_an_encoder_says_how_its_images_were_augmented_and_the_board_shows_it(home, monkeypatch):
    text = PRETRAIN.replace("2e-3}", "2e-3, augmentation: {rotation: 10, scale: [0.9, 1.1]}}")
    assert run(home, "pretrain", text, "augmented", monkeypatch) == 0
    info = json.loads((home / "augmented" / "checkpoints" / "encoder.json").read_text())
    expected = {**Augment().settings(), "rotation": 10.0, "scale": [0.9, 1.1]}
    assert info["training"]["augmentation"] == expected
    assert parse((home / "augmented" / "resolved.yaml").read_text(), "r")["training"]["augmentation"] == expected
    events = EventAccumulator(str(home / "augmented" / "tensorboard"))
    events.Reload()
    assert "augmentation" in events.Tags()["images"]
    assert run(home, "pretrain", text, "augmented", monkeypatch) == 0  # the same run, complete
    assert run(home, "pretrain", text.replace("10,", "11,"), "augmented", monkeypatch) == 2


def test_meta_training_is_augmented_where_the_config_says_so(home, monkeypatch):
    seen = []
    monkeypatch.setattr(Augment, "__call__", lambda self, images, generator: seen.append(len(images)) or images)
    plain = TRAIN.replace("KIND", "prototypical").replace("SETTING", "3w1s")
    assert run(home, "train", plain, "plain", monkeypatch) == 0 and not seen
    text = plain.replace("eval_episodes: 5}", "eval_episodes: 5, augmentation: {flip: 0.5}}")
    assert run(home, "train", text, "meta-augmented", monkeypatch) == 0
    assert seen == [3, 6] * 2 * 4  # support and query of each training episode, of no other


@pytest.mark.parametrize("command", ["pretrain", "train", "bench"])
def test_a_jitter_for_colour_is_refused_before_any_work_on_images_without(command, home, monkeypatch, capsys):
    hue = "augmentation: {hue: 0.1}"
    train = TRAIN.replace("KIND", "maml").replace("SETTING", "3w1s")
    bench = "extractors: {random: random}\nlearners: {anil: anil}\nepisodes: {settings: [3w1s], count: 20}\n"
    text = {
        "pretrain": PRETRAIN.replace("2e-3}", f"2e-3, {hue}}}"),
        "train": train.replace("episodes: 5}", f"episodes: 5, {hue}}}"),
        "bench": f"{DATA}{bench}meta_training: {{{hue}}}\n",
    }[command]
    assert hue in text and run(home, command, text, f"{command}-hue", monkeypatch) == 2
    said = capsys.readouterr().err
    assert "augmentation: hue: given 0.1; allowed: 0, for these images have 1 channel and it needs 3" in said
    assert not list((home / f"{command}-hue").glob("checkpoints/*.pt"))


def test_a_benchmark_refuses_ways_of_its_own_for_meta_training(home, monkeypatch, capsys):
    text = (
        DATA
        + """
extractors: {random: random}
learners: {anil: anil}
meta_training: {ways: 3}
episodes: {settings: [4w1s], count: 20}
"""
    )
    assert run(home, "bench", text, "own-ways", monkeypatch) == 2
    assert "meta_training: unknown key 'ways'" in capsys.readouterr().err


OWN = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, width: int = 3):
        super().__init__(nn.Conv2d(1, width, 5, stride=3), nn.ReLU(), nn.Flatten())
"""


@pytest.mark.parametrize(
    ("kind", "width"),
    [("{kind: 'own_net:Net', width: 2}", 2 * 8 * 8),
     ("{kind: network, network: 'own_net:Net', layer: '0', pool: mean}", 3),
     ("{kind: network, network: 'own_net:Net', weights: WEIGHTS}", 3 * 8 * 8),
     ("{kind: torchvision, name: squeezenet1_1, size: 32}", 512)],
)  # fmt: skip
def test_features_of_a_swapped_extractor_are_those_of_its_network(kind, width, home, monkeypatch):
    (home / "own_net.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    from own_net import Net

    torch.save(Net().state_dict(), home / "own.pt")
    text = DATA + f"extractor: {kind.replace('WEIGHTS', str(home / 'own.pt'))}\npart: val\n"
    out = f"swapped-{width}"
    assert run(home, "extract", text, out, monkeypatch) == 0
    with np.load(home / out / "features-val.npz") as found:
        features, labels = found["features"], found["labels"]
    part = glyphs(classes=40, instances=10).val
    assert features.shape == (80, width) and features.dtype == np.float32 and (labels == part.labels).all()
    config = check_config(parse(text, "x"), ExtractConfig, "x")
    extractor, _ = make_extractor(
        config.extractor, 0, dataset=glyphs(classes=40, instances=10), pretraining=PretrainingConfig(),
        recorder=Recorder(), device="cpu",
    )  # fmt: skip
    with torch.no_grad():
        wanted = extractor(torch.from_numpy(part.images()) / 255)
    torch.testing.assert_close(torch.from_numpy(features), wanted, atol=1e-5, rtol=1e-4)
    result = json.loads((home / out / "result.json").read_text())
    assert result["features"] == {"val": [80, width]} and result["seed_matters"] == ("weights" not in kind)


def test_a_swapped_extractor_that_does_not_fit_ends_extract_with_words(home, monkeypatch, capsys):
    text = DATA + "extractor: {kind: torchvision, name: squeezenet1_1, size: 4}\n"
    assert run(home, "extract", text, "unfit", monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: torchvision squeezenet1_1 fails on images of shape (3, 4, 4)") and "`size`" in said


def test_train_refuses_ways_that_the_learner_cannot_answer(home, monkeypatch, capsys):
    text = TRAIN.replace("KIND", "maml").replace("SETTING", "5w1s")
    assert run(home, "train", text, "ways", monkeypatch) == 2
    assert "5w1s, but 'maml' is trained for training.ways=3" in capsys.readouterr().err


def test_a_finetuned_learner_starts_from_the_pretrained_encoder(home, encoder, monkeypatch):
    text = TRAIN.replace("KIND", "anil").replace("SETTING", "3w1s")
    text = text.replace("extractor: random", f"extractor: {{kind: checkpoint, path: {encoder}}}")
    assert run(home, "train", text, "finetuned", monkeypatch) == 0
    assert json.loads((home / "finetuned" / "report.json").read_text())["rows"][0]["mode"] == "finetuned"


def test_data_is_listed_prepared_and_checked(tmp_path):
    assert "embedded" in overview(tmp_path) and "metalearn data prepare omniglot" in overview(tmp_path)
    assert "1200 classes, 24000 images of (1, 28, 28), ready" in prepare("glyphs", tmp_path, silent)
    store = next((tmp_path / "stores").glob("glyphs-*"))
    assert str(store) in overview(tmp_path)
    assert "train   720 classes x 20 images" in check("glyphs", tmp_path, silent)
    images = np.load(store / "images.npy", mmap_mode="r+")
    images[5, 0, 3, 3] ^= 255
    images.flush()
    with pytest.raises(DataError, match="packed images of glyphs are not what was packed"):
        check("glyphs", tmp_path, silent)
