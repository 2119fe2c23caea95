"""The whole way through on glyphs: pretrain, extract, test, report; cached, cut and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from sklearn.neighbors import NearestCentroid
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gvae.checkpoint import read_info
from metalearn.cells import load_cell
from metalearn.data import build_dataset
from metalearn.evaluate import evaluate_features
from metalearn.learners import make_learner
from metalearn.record import read_metrics
from metalearn.schema import Kind
from tasks.datasets import glyphs
from tasks.episodes import EpisodeSampler

CONFIG = """
dataset: {kind: glyphs, classes: 60}
pretraining:
  model: {trunk: conv, latents: 16}
  training: {epochs: 2, batch_size: 32, learning_rate: 2e-3, checkpoint_seconds: 0}
  monitor: {ways: 5, shots: 1, queries: 5, episodes: 20}
extractors:
  pixels: pixels
  random: random
  vae: {kind: pretrain, objective: vae}
  guided: {kind: pretrain, objective: guided_vae, slots: [content]}
  supervised: {kind: pretrain, objective: {kind: guided_vae_supervised, class_latents: 12}}
learners: {prototypical: prototypical, nearest: nearest_neighbour}
episodes: {settings: [5w1s, 5w5s], queries: 10, count: 200}
seeds: [0, 1]
baseline: vae
"""


def command(*words: object, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "METALEARN_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, "-m", "metalearn", *map(str, words)], capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def run(config: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done = command("bench", config, "--data-root", cache, "--out", out, cache=cache)
    assert done.returncode == 0, done.stderr
    assert "5-way 1-shot" in done.stdout
    return out


def counts(run: Path) -> dict[str, np.ndarray]:
    cells = [load_cell(path) for path in sorted(run.glob("episodes-*.npz"))]
    return {cell.slug: cell.correct for cell in cells}


def test_a_finished_run_holds_what_the_design_says(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    expected = {
        "config.yaml", "resolved.yaml", "environment.json", "metrics.jsonl", "tensorboard", "report.md", "report.json",
        "result.json",
    }  # fmt: skip
    assert expected <= names
    assert len(list(run.glob("episodes-*.npz"))) == 5 * 2 * 2  # extractors x learners x settings


def test_report_has_the_fixed_keys_and_honest_rows(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["schema"] == 1
    row_keys = {
        "dataset", "split", "ways", "shots", "queries", "episodes", "episode_seed", "extractor", "extractor_seeds",
        "labels_used", "learner", "mode", "transductive", "accuracy", "ci95", "error", "seconds",
    }  # fmt: skip
    comparison_keys = {
        "baseline", "candidate", "learner", "dataset", "ways", "shots", "error_baseline", "error_candidate",
        "difference", "difference_ci95", "relative_reduction", "relative_reduction_ci95", "p_value", "p_value_holm",
        "n_episodes", "n_seeds",
    }  # fmt: skip
    assert all(row_keys <= set(row) for row in report["rows"])
    assert all(comparison_keys <= set(item) for item in report["comparisons"])
    assert len(report["comparisons"]) == 4 * 2 * 2  # all but the baseline
    rows = {row["extractor"]: row for row in report["rows"]}
    assert {name: row["labels_used"] for name, row in rows.items()} == {
        "pixels": "none", "random": "none", "vae": "none", "guided": "none", "supervised": "class"
    }  # fmt: skip
    assert rows["pixels"]["extractor_seeds"] == [] and rows["vae"]["extractor_seeds"] == [0, 1]
    assert rows["pixels"]["batch_norm"] == "none" and rows["vae"]["batch_norm"] == "running"
    assert all(row["mode"] == "frozen" and row["transductive"] is False for row in report["rows"])
    assert all(row["accuracy"] + row["error"] == pytest.approx(1) for row in report["rows"])


def test_rows_say_how_long_training_took_and_how_wide_the_features_are(run: Path, cache: Path) -> None:
    kept = [read_info(path) for path in cache.glob("encoders/*/encoder.safetensors")]
    objectives = {"vae": "vae", "guided": "guided_vae", "supervised": "guided_vae_supervised"}
    for row in json.loads((run / "report.json").read_text())["rows"]:
        name = row["extractor"]
        took = [one["seconds"] for one in kept if one["objective"]["kind"] == objectives.get(name)]
        assert len(took) == (2 if name in objectives else 0)  # one a seed
        assert row["training_seconds"] == pytest.approx(sum(took), abs=0.02)
        assert row["seconds"] > row["training_seconds"]
        assert row["feature_dim"] == {"pixels": 784, "guided": 14}.get(name, 16)
    line = next(line for line in (run / "report.md").read_text().splitlines() if line.startswith("| guided | proto"))
    each = sum(one["seconds"] for one in kept if one["objective"]["kind"] == "guided_vae") / 2
    _, *_, width, training, _, _ = [cell.strip() for cell in line.split("|")]
    assert width == "14" and float(training) == pytest.approx(each, abs=0.06 if each < 10 else 0.6)


def test_pixels_agree_with_scikit_learn_on_the_same_episodes(run: Path) -> None:
    part = glyphs(classes=60).test
    images = part.images().reshape(len(part.labels), -1) / 255
    sampler = EpisodeSampler(part.labels, ways=5, shots=5, queries=10, seed=0)
    expected = []
    for index in range(200):
        drawn = sampler[index]
        support, query = images[drawn.support[0].ravel()], images[drawn.query[0].ravel()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about standard deviations, which prediction does not use
            oracle = NearestCentroid().fit(support, np.repeat(range(5), 5))
        expected.append((oracle.predict(query) == np.repeat(range(5), 10)).sum())
    found = load_cell(next(run.glob("episodes-*5w5s-pixels-prototypical*.npz"))).correct[0]
    assert (found != expected).mean() <= 0.01  # a tie may fall either way in another precision


def test_one_seed_comparison_is_the_paired_t_test(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    pixels = load_cell(next(run.glob("episodes-*5w1s-pixels-prototypical*.npz")))
    vae = load_cell(next(run.glob("episodes-*5w1s-vae-prototypical*.npz")))
    item = next(
        item for item in report["comparisons"]
        if item["candidate"] == "pixels" and item["learner"] == "prototypical" and item["shots"] == 1
    )  # fmt: skip
    assert item["error_candidate"] == pytest.approx(1 - pixels.accuracy().mean())
    assert item["difference"] == pytest.approx(vae.accuracy().mean() - pixels.accuracy().mean())
    low, high = item["difference_ci95"]
    narrowest = scipy_stats.ttest_rel(vae.accuracy().mean(0), pixels.accuracy()[0]).confidence_interval()
    assert low <= narrowest.low + 1e-9 and high >= narrowest.high - 1e-9  # seeds only widen it


def test_golden_accuracies_on_glyphs(run: Path) -> None:
    """Pixels are exact up to ties; trained encoders may differ between processors, by less than this."""
    rows = json.loads((run / "report.json").read_text())["rows"]
    found = {(row["extractor"], row["shots"]): row["accuracy"] for row in rows if row["learner"] == "prototypical"}
    assert found["pixels", 1] == pytest.approx(GOLDEN["pixels", 1], abs=0.002)
    assert found["pixels", 5] == pytest.approx(GOLDEN["pixels", 5], abs=0.002)
    for name in ("random", "vae", "guided", "supervised"):
        assert found[name, 5] == pytest.approx(GOLDEN[name, 5], abs=0.04), name


GOLDEN = {
    ("pixels", 1): 0.4440, ("pixels", 5): 0.7103, ("random", 5): 0.5725,
    ("vae", 5): 0.6571, ("guided", 5): 0.6214, ("supervised", 5): 0.7009,
}  # fmt: skip


def test_tensorboard_shows_training_hparams_and_projector(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard" / "guided" / "seed0")).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "train/reconstruction", "train/kl", "train/light", "train/orthogonality"} <= scalars
    assert {"kl_per_latent/rotation", "kl_per_latent/scale"} <= scalars and "kl_per_latent/content_00" not in scalars
    assert any("kl_per_latent/content_00" in row for row in read_metrics(run / "metrics.jsonl"))
    assert "val/accuracy_5w1s" in scalars
    images = set(events.Tags()["images"])
    assert any(name.startswith("reconstruction/image_mean_light") for name in images)
    assert any(name.startswith("traversal/rotation") for name in images)
    assert any(name.startswith("reconstruction/image_mean") for name in pictures(run, "guided/seed0/test"))
    assert list((run / "tensorboard").rglob("projector_config.pbtxt"))
    assert list((run / "tensorboard").rglob("sprite.png"))


def pictures(run: Path, scope: str) -> set[str]:
    return set(EventAccumulator(str(run / "tensorboard" / scope)).Reload().Tags()["images"])


def test_runs_of_one_extractor_stand_together_on_the_board(run: Path) -> None:
    shown = {path.parent.relative_to(run / "tensorboard").as_posix() for path in (run / "tensorboard").rglob("events*")}
    trained = {f"{name}/seed{seed}" for name in ("vae", "guided", "supervised") for seed in (0, 1)}
    every = ("pixels", "random", "vae", "guided", "supervised")
    results = {f"{name}/{learner}/result" for name in every for learner in ("prototypical", "nearest")}
    tested = {f"{name}/seed0/test" for name in ("vae", "guided", "supervised")}
    metrics = {f"test/accuracy_{setting}" for setting in ("5w1s", "5w5s")}
    for result in results:
        assert metrics == set(EventAccumulator(str(run / "tensorboard" / result)).Reload().Tags()["scalars"])
    assert shown == {".", *trained, *results, *tested}
    tags = {tag.split("/")[0] for scope in shown for tag in pictures(run, scope)}
    drawn = {"error", "difference", "shots", "cost", "width"}
    assert tags == {"augmentation", "light", "reconstruction", "traversal", *drawn} & tags
    report = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    text = report.Tensors("report/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text == (run / "report.md").read_text()


def test_again_elsewhere_takes_encoders_and_features_from_the_cache(config: Path, cache: Path, run: Path) -> None:
    again = run.parent / "again"
    done = command("bench", config, "--data-root", cache, "--out", again, "--quiet", cache=cache)
    assert done.returncode == 0, done.stderr
    assert not [row for row in read_metrics(again / "metrics.jsonl") if "train/loss" in row]
    assert pictures(again, "vae/seed0/test") == {"reconstruction/image_mean", "traversal/most_informative"}
    assert "traversal/rotation" in pictures(again, "guided/seed0/test")
    first, second = counts(run), counts(again)
    assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_the_same_command_on_a_finished_run_says_so(config: Path, cache: Path, run: Path) -> None:
    before = (run / "result.json").stat().st_mtime_ns
    done = command("bench", config, "--data-root", cache, "--out", run, cache=cache)
    assert done.returncode == 0 and "complete already" in done.stderr
    assert (run / "result.json").stat().st_mtime_ns == before


def test_killed_in_the_middle_of_training_it_goes_on_to_the_same_numbers(
    config: Path, run: Path, tmp_path: Path
) -> None:
    cold, out = tmp_path / "cache", tmp_path / "run"
    cold.mkdir()
    words = [sys.executable, "-m", "metalearn", "bench", str(config), "--data-root", str(cold), "--out", str(out)]
    process = subprocess.Popen(
        words, env={**os.environ, "METALEARN_CACHE": str(cold)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(cold.glob("encoders/*/state.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists(), "killed too late to test anything"
    done = command("resume", out, "--quiet", cache=cold)
    assert done.returncode == 0, done.stderr
    first, second = counts(run), counts(out)
    assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_the_path_without_gradient_learners_imports_no_learn2learn(config: Path, cache: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from metalearn.cli import main\n"
        f"sys.argv = ['metalearn', 'bench', {str(config)!r}, '--data-root', {str(cache)!r}, "
        f"'--out', {str(tmp_path / 'run')!r}, '--quiet']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert not {'learn2learn', 'gym'} & set(sys.modules)"
    )
    environment = {**os.environ, "METALEARN_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "gym" not in done.stderr.lower()


def test_a_checkpoint_that_saw_a_tested_class_is_refused(config: Path, cache: Path, tmp_path: Path, run: Path) -> None:
    encoder = next(cache.glob("encoders/*/encoder.safetensors"))
    text = CONFIG.replace("  pixels: pixels\n", f"  pixels: pixels\n  leaked: {{kind: checkpoint, path: {encoder}}}\n")
    leaky = tmp_path / "leaky.yaml"
    leaky.write_text(text.replace("classes: 60", "classes: 60, split_seed: 1"))
    done = command("bench", leaky, "--data-root", cache, "--out", tmp_path / "run", cache=cache)
    assert done.returncode == 2
    assert "was trained on" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("known", ["checkpoint", "weights"])
def test_a_leak_that_can_be_known_is_refused_before_any_training(
    known: str, config: Path, cache: Path, tmp_path: Path, run: Path
) -> None:
    """The extractor stands last, behind one that would be pretrained; the others are not begun."""
    if known == "checkpoint":
        encoder = next(cache.glob("encoders/*/encoder.safetensors"))
        leaked = f"{{kind: checkpoint, path: {encoder}}}"
    else:
        glyphs = build_dataset(Kind(kind="glyphs", classes=60, split_seed=1), cache)
        seen = f"training_classes: [{glyphs.test.class_names[0]}]"
        leaked = f"{{kind: torchvision, name: squeezenet1_1, weights: none.pt, size: 32, {seen}}}"
    leaky, cold = tmp_path / "leaky.yaml", tmp_path / "cold"
    text = CONFIG.replace("learners:", f"  leaked: {leaked}\nlearners:", 1)
    leaky.write_text(text.replace("classes: 60", "classes: 60, split_seed: 1"))
    done = command("bench", leaky, "--data-root", cache, "--out", tmp_path / "run", cache=cold)
    assert done.returncode == 2
    assert done.stderr.count("extractor 'leaked' was trained on ") == 1 and "Traceback" not in done.stderr
    assert not (cold / "encoders").exists() and not list((tmp_path / "run").glob("*/*.npz"))


def test_training_features_reach_the_learner_that_asks_and_a_fine_tuned_network_says_so(
    cache: Path, tmp_path: Path
) -> None:
    """SimpleShot gives what the same learner gives by hand; fine-tuning has its own mode and no new labels."""
    path = tmp_path / "heads.yaml"
    path.write_text("""
dataset: {kind: glyphs, classes: 60}
extractors: {pixels: pixels}
learners: {simpleshot: simpleshot, finetune: {kind: finetune, steps: 2}}
episodes: {settings: [5w1s], queries: 10, count: 20}
""")
    done = command("bench", path, "--data-root", cache, "--out", tmp_path / "run", cache=cache)
    assert done.returncode == 0, done.stderr
    rows = {row["learner"]: row for row in json.loads((tmp_path / "run" / "report.json").read_text())["rows"]}
    assert (rows["simpleshot"]["mode"], rows["finetune"]["mode"]) == ("frozen", "finetuned")
    assert rows["finetune"]["labels_used"] == "none"
    found = {load_cell(cell).learner: load_cell(cell) for cell in (tmp_path / "run").glob("episodes-*.npz")}
    dataset = glyphs(cache, classes=60)
    train, test = (torch.from_numpy(part.images()).flatten(1).float() / 255 for part in (dataset.train, dataset.test))
    learner = make_learner("simpleshot")
    learner.fit_base(train)
    sampler = EpisodeSampler(dataset.test.labels, ways=5, shots=1, queries=10, seed=0)
    counts = evaluate_features(test, dataset.test.labels, learner, sampler, 20)
    np.testing.assert_array_equal(found["simpleshot"].correct[0], counts)
