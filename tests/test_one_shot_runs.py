"""One-shot runs as an evaluation: made by the published recipe or official, reported as what they are."""

import csv
import io
import json
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from command import Shell
from scipy import stats as scipy_stats
from test_oneshot import WAYS, as_zip
from tiny_omniglot import BACKGROUND, DRAWINGS, part, write_zip

from gvae.checkpoint import save_encoder
from gvae.nets import initialise
from gvae.vae import VAE
from metalearn import testing
from metalearn.cells import load_cell
from metalearn.errors import UserError
from metalearn.learners import make_learner
from metalearn.merge import merge
from metalearn.one_shot import PUBLISHED
from metalearn.render import FORMATS, render
from metalearn.report import build_report
from metalearn.schema import EpisodesConfig
from tasks import oneshot
from tasks.datasets import DATASETS, omniglot, omniglot_runs_generated
from tasks.episodes import EpisodeIndices, EpisodeSampler
from tasks.errors import DataError
from tasks.fixed import FixedEpisodes
from tasks.made_runs import PUBLISHED as RECIPE
from tasks.made_runs import Recipe, made_runs
from tasks.splits import Dataset, Partition
from tasks.store import Store

SMALL = Recipe(alphabets=2, runs=2, ways=3)


def drawn(alphabets=4, characters=5, drawers=6, name="{:04d}_{:02d}.png") -> Store:
    """A store of random drawings named as Omniglot's are."""
    kinds = [f"Alphabet{a}/character{c:02d}" for a in range(alphabets) for c in range(1, characters + 1)]
    names = [f"x/{kind}/{name.format(k, d)}" for k, kind in enumerate(kinds) for d in range(1, drawers + 1)]
    images = np.random.default_rng(0).integers(0, 256, (len(names), 1, 28, 28), np.uint8)
    return Store("drawn", images, np.arange(len(kinds) + 1) * drawers, tuple(kinds), image_names=names)


def everything(store=None) -> Partition:
    store = store or drawn()
    return Partition.of_classes(store, "test", store.class_names)


def who(partition: Partition, positions: np.ndarray) -> tuple[set[str], set[str], list[str]]:
    """Alphabets, drawers and characters of positions."""
    names = [partition.store.image_names[row] for row in partition.index[positions.ravel()].tolist()]
    kinds = [partition.class_names[label] for label in partition.labels[positions.ravel()].tolist()]
    return {kind.split("/")[0] for kind in kinds}, {name[-6:-4] for name in names}, kinds


def check_recipe(partition: Partition, runs: EpisodeIndices, recipe: Recipe) -> None:
    count = recipe.alphabets * recipe.runs
    assert runs.support.shape == runs.query.shape == (count, recipe.ways, 1)
    assert runs.classes.shape == (count, recipe.ways)
    alphabets, pairs = [], {}
    for run in range(count):
        learned, tested = who(partition, runs.support[run]), who(partition, runs.query[run])
        assert learned[0] == tested[0] and len(learned[0]) == 1  # within one alphabet
        assert len(learned[1]) == len(tested[1]) == 1 and learned[1] != tested[1]  # two drawers
        assert learned[2] == tested[2] and len(set(learned[2])) == recipe.ways  # distinct characters, way by way
        assert learned[2] == [partition.class_names[label] for label in runs.classes[run]]
        alphabets.append(*learned[0])
        pairs.setdefault(alphabets[-1], []).extend([*learned[1], *tested[1]])
    assert alphabets == alphabets[: recipe.alphabets] * recipe.runs and len(set(alphabets)) == recipe.alphabets
    assert all(len(set(drawers)) == 2 * recipe.runs for drawers in pairs.values())
    every = np.concatenate([runs.support.ravel(), runs.query.ravel()])
    assert len(np.unique(every)) == len(every)  # so no drawing serves twice


def test_runs_are_made_by_the_recipe():
    partition = everything()
    check_recipe(partition, made_runs(partition, 0, SMALL), SMALL)


def test_runs_are_those_of_a_seed():
    partition = everything()
    first, again, other = (made_runs(partition, seed, SMALL) for seed in (0, 0, 1))
    assert (first.support == again.support).all() and (first.query == again.query).all()
    assert not (first.support == other.support).all()


def test_alphabets_and_characters_are_drawn_evenly():
    partition, alphabets, kinds = everything(), np.zeros(4), np.zeros(20)
    for seed in range(300):
        runs = made_runs(partition, seed, SMALL)
        kinds += np.bincount(runs.classes.ravel(), minlength=20)
        alphabets += np.bincount(runs.classes[:2, 0] // 5, minlength=4)
    assert scipy_stats.chisquare(alphabets).pvalue > 1e-3 and alphabets.sum() == 600
    assert scipy_stats.chisquare(kinds).pvalue > 1e-3


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (drawn(alphabets=1), "part 'test' has 1 alphabets of 3 characters or more; one-shot runs are made of 2: give"),
        (drawn(characters=2), "has 0 alphabets of 3 characters or more"),
        (drawn(drawers=3), "alphabet Alphabet. has 3 drawers of all its characters, one-shot runs need 4"),
        (drawn(name="{:04d}/{:02d}"), "x/Alphabet0/character01/0000/01 of Alphabet0/character01 does not tell who"),
    ],
)
def test_what_runs_cannot_be_made_of(store, words):
    with pytest.raises(DataError, match=words):
        made_runs(everything(store), 0, SMALL)


# given episodes in place of drawn ones


def test_fixed_episodes_are_a_sampler_of_what_is_given():
    given = made_runs(everything(), 0, SMALL)
    fixed = FixedEpisodes(given)
    assert (fixed.ways, fixed.shots, fixed.queries, len(fixed)) == (3, 1, 1, 4)
    assert (fixed[1:3].query == given.query[1:3]).all() and (fixed[2].support == given.support[2:3]).all()
    assert (fixed.of_each(2, range(1, 2))[0:2].classes == given.classes[1::2]).all()
    assert isinstance(fixed, EpisodeSampler)
    with pytest.raises(DataError, match="episode 4: the dataset prescribes 4, 0 to 3"):
        fixed[2:5]


def small_dataset(fixed=SMALL) -> Dataset:
    """Six alphabets: two to train, two to validate on, two tested on runs."""
    store = drawn(alphabets=6)
    names = store.class_names
    dataset = Dataset.of_classes(
        "omniglot-runs-generated", "lake", store, {"train": names[:10], "val": names[10:20], "test": names[20:]}
    )
    return replace(dataset, fixed=partial(made_runs, dataset.test, recipe=fixed))


def the_test_of(dataset=None, **changes) -> testing.Tested:
    episodes = EpisodesConfig(**{"settings": ["3w1s"], "queries": 1, "count": 4, **changes})
    return testing.Tested(dataset or small_dataset(), episodes, "cpu", lambda done, total, text: None)


@pytest.mark.parametrize("change", [{"settings": ["5w1s"]}, {"settings": ["3w2s"]}, {"queries": 2}, {"count": 5}])
def test_settings_that_are_not_theirs_are_refused(change):
    one = the_test_of(**change)
    with pytest.raises(UserError) as caught:
        one.sampler(one.episodes.settings[0])
    words = str(caught.value)
    assert "are 4 given ones, 3w1s with 1 queries a class; given" in words
    assert "write episodes: {settings: [3w1s], queries: 1, count: 4}, or draw them from part: val" in words


def test_validation_episodes_are_drawn_as_ever():
    one = the_test_of(part="val", settings=["5w2s"], queries=3, count=9)
    assert not isinstance(one.sampler(one.episodes.settings[0]), FixedEpisodes)
    assert one.fingerprint == one.partition.fingerprint


def test_runs_of_another_seed_or_drawn_episodes_are_not_paired():
    dataset = small_dataset()
    prints = {the_test_of(dataset).fingerprint, the_test_of(dataset, seed=1).fingerprint, dataset.test.fingerprint}
    assert len(prints) == 3 and the_test_of(dataset).fingerprint == the_test_of(small_dataset()).fingerprint


def test_a_dataset_goes_to_another_process_with_its_runs():
    dataset = small_dataset()
    there = pickle.loads(pickle.dumps(dataset)).fixed(0)
    assert (there.support == dataset.fixed(0).support).all()


# the whole way


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(DATASETS, "omniglot-runs-generated", lambda root, **_: small_dataset())
    return Shell(tmp_path, monkeypatch, capsys)


CONFIG = {
    "dataset": "omniglot-runs-generated",
    "extractors": {"pixels": "pixels", "random": "random"},
    "learners": {
        "prototypical": "prototypical", "nearest": "nearest_neighbour", "finetune": {"kind": "finetune", "steps": 2}
    },
    "episodes": {"settings": ["3w1s"], "queries": 1, "count": 4},
    "seeds": [0, 1],
    "pretraining": {"model": {"latents": 8}},
}  # fmt: skip


def ran(shell, config, out, status=0):
    (shell.folder / f"{out}.yaml").write_text(json.dumps(config))
    outcome = shell("bench", f"{out}.yaml", "--data-root", "data", "--out", out, "--quiet")
    assert outcome.status == status, outcome.err
    return outcome.err


def test_pixels_answer_as_a_nearest_image_by_hand(shell, tmp_path):
    ran(shell, CONFIG, "r")
    partition, runs = small_dataset().test, small_dataset().fixed(0)
    expected = []
    for support, query in zip(runs.support[..., 0], runs.query[..., 0], strict=True):
        learned, asked = (partition.gather(at).reshape(3, -1).astype(float) for at in (support, query))
        nearest = np.square(asked[:, None] - learned).sum(-1).argmin(1)
        expected.append((nearest == np.arange(3)).sum())
    for learner in ("prototypical", "nearest"):
        cell = load_cell(next((tmp_path / "r").glob(f"episodes-*pixels-{learner}*.npz")))
        assert cell.correct.tolist() == [expected]
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert len(report["rows"]) == 6 and {row["dataset"] for row in report["rows"]} == {"omniglot-runs-generated/lake"}
    (pixels,) = [
        one for one in report["one_shot_runs"]["errors"] if (one["extractor"], one["learner"]) == ("pixels", "nearest")
    ]
    assert pixels["error_of_run"] == pytest.approx([1 - right / 3 for right in expected])
    assert pixels["runs"] == "generated" and (pixels["n_runs"], pixels["n_seeds"]) == (4, 1)
    assert {one["method"]: one["error"] for one in report["one_shot_runs"]["published"]} == {
        "modified Hausdorff distance": 0.388, "Siamese network": 0.08, "humans": 0.045, "BPL": 0.033
    }  # fmt: skip
    assert json.loads(render(merge([tmp_path / "r"]), "json")) == report


def test_the_report_is_paired_over_runs_and_says_whose_runs_they_are(shell, tmp_path):
    ran(shell, CONFIG, "r")
    cells = [load_cell(path) for path in sorted((tmp_path / "r").glob("episodes-*prototypical*.npz"))]
    report = build_report(cells, "pixels")
    pixels, random = (next(cell for cell in cells if cell.extractor == name) for name in ("pixels", "random"))
    (found,) = report.comparisons
    assert (found.n_episodes, found.n_seeds) == (4, 2)
    assert found.difference == pytest.approx(pixels.accuracy().mean() - random.accuracy().mean())
    assert [one.error_of_run for one in report.runs if one.extractor == "random"] == [
        pytest.approx((1 - random.accuracy()).mean(0).tolist())
    ]
    text = render(report, "md")
    assert "runs generated by the published recipe (Lake et al. 2015), not the official ones: other tasks" in text
    assert "which no published error is of; seed 0." in text and "the official runs of Lake" not in text
    assert "Published errors in percent, not measured here" in text
    for one in PUBLISHED:
        assert f"| {one.method} | {100 * one.error:.1f} | Lake et al. 2015, official runs |" in text
    (row,) = [one for one in report.runs if one.extractor == "random"]
    assert f"| random | prototypical | {100 * row.error:.2f} ± {100 * row.ci95:.2f} | 4 | 2 |" in text
    lines = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    assert [line["runs"] for line in lines] == ["generated"] * 2
    assert [float(lines[1][f"error_run{n:02d}"]) for n in range(1, 5)] == row.error_of_run
    official = build_report([replace(cell, dataset="omniglot-runs/lake") for cell in cells], "pixels")
    assert "the official runs of Lake et al. 2015. Error" in render(official, "md")
    assert {one.runs for one in official.runs} == {"official"}
    other = build_report([replace(cell, dataset="omniglot/lake") for cell in cells], "pixels")
    assert not other.runs and "one_shot_runs" not in other.to_dict()
    for format in FORMATS:
        assert ("Hausdorff" in render(other, format)) is False


def written(folder, classes, seed=0):
    vae = VAE((1, 28, 28), latents=5, slots={"content": 5})
    initialise(vae, torch.Generator().manual_seed(seed))
    return save_encoder(folder, vae, {"labels_used": "none", "training_classes": classes})


def test_an_encoder_that_saw_a_tested_character_is_refused(shell, tmp_path):
    seen = {**CONFIG, "extractors": {"leaky": {"kind": "checkpoint", "path": "leaky"}}}
    written(tmp_path / "leaky", [small_dataset().test.class_names[0]])
    said = ran(shell, seen, "leak", status=2)
    assert "extractor 'leaky' was trained on 1 of the classes it would be tested on (Alphabet4/character01)" in said
    written(tmp_path / "leaky", list(small_dataset().train.class_names))
    ran(shell, seen, "clean")


@pytest.fixture
def official(monkeypatch, tmp_path):
    small = partial(oneshot.listing, runs=oneshot.Runs(2, WAYS), background=part("images_background", 4))
    monkeypatch.setattr(oneshot, "listing", small)
    write_zip(tmp_path / "data" / "images_background.zip", BACKGROUND)
    as_zip(tmp_path / "data")


def test_official_runs_are_tested_as_such_and_drawn_episodes_refused(shell, official, tmp_path):
    config = {**CONFIG, "dataset": "omniglot-runs", "seeds": [0], "learners": {"nearest": "nearest_neighbour"}}
    said = ran(shell, config, "no", status=2)
    assert "the test episodes of omniglot-runs/lake are 2 given ones, 3w1s with 1 queries a class; given 4" in said
    config["episodes"] = {"settings": ["3w1s"], "queries": 1, "count": 2}
    ran(shell, config, "r")
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert {one["runs"] for one in report["one_shot_runs"]["errors"]} == {"official"}
    said = ran(shell, {**config, "episodes": {**config["episodes"], "seed": 1}}, "seeded", status=2)
    assert "episode seed 1: the official one-shot runs are what they are; give seed 0" in said


def test_official_runs_refuse_an_encoder_of_the_evaluation_set_whose_names_are_others(shell, official, tmp_path):
    config = {
        **CONFIG, "dataset": "omniglot-runs", "seeds": [0], "learners": {"nearest": "nearest_neighbour"},
        "extractors": {"it": {"kind": "checkpoint", "path": "it"}},
        "episodes": {"settings": ["3w1s"], "queries": 1, "count": 2},
    }  # fmt: skip
    written(tmp_path / "it", ["Greek/character01", "Tengwar/character07", "Syriac_(Serto)/character01"])
    said = ran(shell, config, "leak", status=2)
    assert "trained on 2 of the classes it would be tested on (Syriac_(Serto)/character01, Tengwar/character07)" in said
    written(tmp_path / "it", ["Greek/character01", "glyph00007"])
    ran(shell, config, "clean")
    assert DRAWINGS == 3


# real data


def test_runs_of_the_real_evaluation_set(omniglot_root, monkeypatch, tmp_path):
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    dataset = omniglot_runs_generated(omniglot_root)
    runs = dataset.fixed(0)
    check_recipe(dataset.test, runs, RECIPE)
    assert {name.split("/")[0] for name in dataset.test.class_names} == oneshot.ALPHABETS
    assert dataset.train.fingerprint == omniglot(omniglot_root).train.fingerprint  # so encoders are shared
    fewer = omniglot_runs_generated(omniglot_root, validation_alphabets=2)
    assert len({name.split("/")[0] for name in fewer.val.class_names}) == 2
    assert fewer.val.base_classes < dataset.val.base_classes and fewer.train.base_classes > dataset.train.base_classes
    assert fewer.test.fingerprint == dataset.test.fingerprint
    turned = omniglot_runs_generated(omniglot_root, rotations=True)
    assert len(turned.train.class_names) == 4 * len(dataset.train.class_names)
    assert (turned.fixed(0).query == runs.query).all() and turned.test.fingerprint == dataset.test.fingerprint
    one = the_test_of(dataset, settings=["20w1s"], count=20)
    pixels = torch.from_numpy(dataset.test.images()).flatten(1).float() / 255
    correct = one.on_features(make_learner("nearest_neighbour"), pixels, one.episodes.settings[0], "pixels")
    assert correct.shape == (20,) and 0.05 < correct.mean() / 20 < 0.5
