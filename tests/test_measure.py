"""``metalearn measure`` in small: what it writes, from a config and from a checkpoint, and what it refuses."""

import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gvae.checkpoint import load_encoder, save_encoder
from gvae.losses import kl_to_standard_normal
from gvae.metrics import METRICS
from gvae.nets import initialise
from gvae.vae import VAE
from metalearn.cli import main
from metalearn.config import parse
from metalearn.data import build_dataset
from metalearn.measure import default_out
from metalearn.record import read_metrics
from metalearn.schema import Kind
from tasks.splits import Dataset

SETTINGS = {"kind": "glyphs", "classes": 40, "instances": 10}
SMALL = "[mig, {kind: dci, train: 50, test: 25}, {kind: factor_vae, train: 40, test: 20}]"
COUNTS = {"train": 40, "test": 20}
NAMES = ["mig", "dci/disentanglement", "dci/completeness", "dci/informativeness", "factor_vae"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("measure")


@pytest.fixture(autouse=True)
def place(home, monkeypatch):
    monkeypatch.setenv("METALEARN_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    (home / "cache").mkdir(exist_ok=True)


@pytest.fixture(scope="module")
def dataset(home) -> Dataset:
    (home / "cache").mkdir(exist_ok=True)
    return build_dataset(Kind(**SETTINGS), home / "cache")


def encoder(folder: Path, dataset: Dataset, **info) -> Path:
    """An untrained encoder that says it was trained on the training classes of ``dataset``."""
    vae = VAE((1, 28, 28), latents=5, slots={"rotation": 1, "translation": 2, "content": 2})
    initialise(vae, torch.Generator().manual_seed(0))
    seen = {"labels_used": "none", "training_classes": sorted(dataset.train.base_classes), "dataset": dataset.label}
    save_encoder(folder / "checkpoints", vae, {**seen, "dataset_settings": dict(dataset.settings), **info})
    return folder


def metalearn(home: Path, monkeypatch, *words: object) -> int:
    given = ["metalearn", *words, "--data-root", home / "cache", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in given])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def measured(home, dataset, monkeypatch) -> Path:
    """A run that measured a checkpoint without a config."""
    if not (home / "runs" / "measure-enc" / "result.json").exists():
        words = ("measure", encoder(home / "enc", dataset), "--set", f"metrics={SMALL}", "--set", "repeats=3")
        assert metalearn(home, monkeypatch, *words, "--quiet") == 0
    return home / "runs" / "measure-enc"


def test_a_checkpoint_is_measured_on_the_dataset_that_it_names(measured, dataset):
    config = parse((measured / "resolved.yaml").read_text(), "r")
    assert config["dataset"] == dict(dataset.settings) and config["dataset"]["classes"] == 40
    assert (config["part"], config["repeats"], config["seed"]) == ("test", 3, 0)
    assert [kind["kind"] for kind in config["metrics"]] == ["mig", "dci", "factor_vae"]
    assert config["metrics"][1] == {"kind": "dci", "train": 50, "test": 25, "trees": "histogram"}


def test_numbers_have_their_interval_and_n(measured):
    found = json.loads((measured / "measure.json").read_text())
    assert found["schema"] == 1 and [item["name"] for item in found["scores"]] == NAMES
    assert (found["images"], found["part"], found["dataset"]) == (80, "test", "glyphs/random")
    assert any(item["ci95"] > 0 for item in found["scores"])
    for item in found["scores"]:
        assert item["n"] == len(item["values"]) == 3 and item["mean"] == pytest.approx(np.mean(item["values"]))
        half = stats.t.ppf(0.975, 2) * stats.sem(item["values"])
        assert item["ci95"] == pytest.approx(half) == pytest.approx(item["high"] - item["mean"])
    text = (measured / "report.md").read_text()
    mig = found["scores"][0]
    assert f"| mig | {mig['mean']:.3f} | ± {mig['ci95']:.3f} | 3 | 80 images |" in text
    assert "50 images to train, 25 to test" in text and "neither other images nor other encoders" in text
    values = json.loads((measured / "result.json").read_text())["values"]
    assert values["metric/mig"] == mig["mean"] and len(values) == 5 + len(NAMES)


def test_kl_is_the_mean_over_every_image_of_the_part(measured, home, dataset):
    vae, _ = load_encoder(home / "enc")
    with torch.no_grad():
        kl = kl_to_standard_normal(*vae.encode(torch.from_numpy(dataset.test.images()).float() / 255)).mean(0)
    found = json.loads((measured / "measure.json").read_text())["kl_per_latent"]
    assert list(found) == ["rotation", "translation_00", "translation_01", "content_00", "content_01"]
    assert list(found.values()) == pytest.approx(kl.tolist(), rel=1e-4)


def test_pictures_are_files_and_on_the_board(measured):
    pictures = [f"traversals-{k}" for k in range(4)] + ["importance-mig", "importance-dci"]
    assert sorted(path.stem for path in measured.glob("*.png")) == sorted(pictures)
    for name in pictures:
        with Image.open(measured / f"{name}.png") as picture:
            assert picture.format == "PNG" and np.ptp(np.asarray(picture.convert("L"))) > 100
    events = EventAccumulator(str(measured / "tensorboard"))
    events.Reload()
    shown = {name.replace("-", "/") for name in pictures}
    assert {*shown, "traversal/rotation", "traversal/translation_01"} <= set(events.Tags()["images"])
    assert {name.split("/")[0] for name in events.Tags()["scalars"]} == {"metric"}
    recorded = {name for row in read_metrics(measured / "metrics.jsonl") for name in row}
    assert {"metric/factor_vae", "kl_per_latent/content_01"} <= recorded


def test_importance_has_a_row_a_latent_and_a_column_a_factor(measured, dataset):
    found = json.loads((measured / "measure.json").read_text())
    assert found["factors"] == list(dataset.test.factors) and set(found["matrices"]) == {"mig", "dci"}
    for matrix in found["matrices"].values():
        assert np.shape(matrix) == (5, 7)


def test_every_metric_is_measured_by_default_and_the_draws_do_not_depend_on_which(home, dataset, monkeypatch):
    (home / "all.yaml").write_text(f"checkpoint: {encoder(home / 'e1', dataset)}\ndataset: {json.dumps(SETTINGS)}\n")
    fewer = {name: inspect.signature(metric).parameters.keys() & COUNTS.keys() for name, metric in METRICS.items()}
    kinds = [{"kind": name, **{key: COUNTS[key] for key in keys}} for name, keys in fewer.items()]
    words = ("--set", f"metrics={json.dumps(kinds)}", "--set", "repeats=2")
    assert metalearn(home, monkeypatch, "measure", "all.yaml", *words, "--quiet") == 0
    found = {item["name"]: item for item in json.loads((home / "runs/all/measure.json").read_text())["scores"]}
    words = ("--set", "metrics=[{kind: factor_vae, train: 40, test: 20}]", "--set", "repeats=2", "--out", "one")
    assert metalearn(home, monkeypatch, "measure", "all.yaml", *words, "--quiet") == 0
    (alone,) = json.loads((home / "one/measure.json").read_text())["scores"]
    assert alone == found["factor_vae"] and {name.partition("/")[0] for name in found} == set(METRICS)


def test_the_metrics_of_a_config_that_names_none_are_all_of_the_table(home, dataset, monkeypatch):
    from metalearn.config import check
    from metalearn.kinds import resolve
    from metalearn.schema import MeasureConfig

    config = resolve(check({"checkpoint": "x", "dataset": "glyphs"}, MeasureConfig, "c"))
    assert [kind.kind for kind in config.metrics] == list(METRICS) and config.part == "test"
    assert config.metrics[0].options == {"batch": 64, "train": 10_000, "test": 5_000}


def test_validation_classes_are_measured_where_the_config_says_so(home, dataset, monkeypatch, capsys):
    words = ("measure", encoder(home / "e2", dataset), "--set", "part=val", "--set", "metrics=[mig]")
    assert metalearn(home, monkeypatch, *words, "--out", "val") == 0
    out, err = capsys.readouterr()
    assert "val part: 80 images" in out and "written to val" in err
    found = json.loads((home / "val" / "measure.json").read_text())
    assert found["fingerprint"] == dataset.val.fingerprint and found["scores"][0]["n"] == 5


def test_without_factors_metrics_are_left_out_and_the_report_says_so(home, dataset, monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    for kind in "abcdefghij":
        (tmp_path / "own" / kind).mkdir(parents=True)
        for place in range(3):
            pixels = generator.integers(0, 255, (28, 28), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "own" / kind / f"{place}.png")
    options = f"{{kind: folder, path: {tmp_path / 'own'}, split: random, channels: 1, image_size: 28}}"
    words = ("measure", encoder(home / "e3", dataset), "--set", f"dataset={options}", "--out", "plain", "--quiet")
    assert metalearn(home, monkeypatch, *words) == 0
    report = (home / "plain" / "report.md").read_text()
    assert "No metrics: " in report and "has no known factors. Give a dataset with factors" in report
    found = json.loads((home / "plain" / "measure.json").read_text())
    assert found["scores"] == [] and len(found["kl_per_latent"]) == 5 and (home / "plain/traversals-0.png").exists()


def test_a_checkpoint_of_an_unnamed_dataset_is_told_what_to_give(home, dataset, monkeypatch, capsys, tmp_path):
    old = encoder(tmp_path / "enc", dataset, dataset_settings={})
    assert metalearn(home, monkeypatch, "measure", old, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "does not say how to build the dataset it was trained on (glyphs/random), as earlier versions" in said
    assert "name it: --set dataset.kind=NAME, or give a YAML file with the keys checkpoint and dataset" in said


def test_a_checkpoint_that_saw_measured_classes_is_refused(home, dataset, monkeypatch, capsys, tmp_path):
    leaky = encoder(tmp_path / "enc", dataset, training_classes=sorted(dataset.test.base_classes)[:2])
    assert metalearn(home, monkeypatch, "measure", leaky, "--out", tmp_path / "out") == 2
    assert "extractor 'checkpoint' was trained on 2 of the classes it would be tested on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("metrics=[migg]", "metrics.0: unknown metric 'migg'; did you mean 'mig'?"),
        ("metrics=[mig, sap, mig]", "metrics: given 'mig' twice; allowed: each once"),
        ("metrics=[{kind: dci, trees: oak}]", "unknown value 'oak'"),
        ("metrics=[{kind: mig, samples: 0}]", "samples=0: allowed are whole numbers from 1"),
        ("repeats=1", "repeats: given 1 (integer); allowed: greater than or equal to 2"),
        ("part=train", "part: unknown value 'train'"),
    ],
)
def test_a_setting_that_cannot_be(home, dataset, monkeypatch, capsys, tmp_path, setting, words):
    given = ("measure", encoder(tmp_path / "enc", dataset), "--set", setting, "--out", tmp_path / "out")
    assert metalearn(home, monkeypatch, *given) == 2
    assert words in capsys.readouterr().err


def test_what_is_no_checkpoint_is_told(home, monkeypatch, capsys, tmp_path):
    assert metalearn(home, monkeypatch, "measure", tmp_path) == 2
    assert f"no encoder at {tmp_path}: give an encoder.safetensors" in capsys.readouterr().err
    assert metalearn(home, monkeypatch, "measure", tmp_path / "absent.safetensors") == 2
    assert "no encoder at" in capsys.readouterr().err


def test_each_checkpoint_has_a_run_directory_of_its_own(tmp_path):
    for given in ("a", "a/checkpoints", "a/checkpoints/encoder.safetensors"):
        assert default_out(tmp_path / given) == Path("runs/measure-a")
    assert default_out(tmp_path / "a" / "best.safetensors") == Path("runs/measure-best")
