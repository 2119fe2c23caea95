"""Reports: rows and comparisons against scipy, the schema of report.json, merging, and every format."""

import csv
import io
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from metalearn.cells import Cell, load_cell, save_cell, slug
from metalearn.config import check, parse
from metalearn.errors import UserError
from metalearn.merge import merge, merged_cells
from metalearn.render import FORMATS, render
from metalearn.report import Comparison, Row, build_report
from metalearn.run import open_run
from metalearn.schema import BenchConfig

ROW_KEYS = [
    "dataset",
    "split",
    "ways",
    "shots",
    "queries",
    "episodes",
    "episode_seed",
    "extractor",
    "extractor_seeds",
    "labels_used",
    "learner",
    "mode",
    "transductive",
    "accuracy",
    "ci95",
    "error",
    "seconds",
]
COMPARISON_KEYS = [
    "baseline",
    "candidate",
    "learner",
    "dataset",
    "ways",
    "shots",
    "error_baseline",
    "error_candidate",
    "difference",
    "difference_ci95",
    "relative_reduction",
    "relative_reduction_ci95",
    "p_value",
    "p_value_holm",
    "n_episodes",
    "n_seeds",
]
ROW_MORE = ("batch_norm", "extractor_settings", "feature_dim", "training_seconds")
CONFIG = """
dataset: glyphs
extractors: {pixels: pixels}
learners: {prototypical: prototypical}
episodes: {settings: [5w1s]}
"""
VAE = CONFIG.replace("pixels: pixels", "pixels: pixels, vae: {kind: pretrain, objective: vae}")


def cell(extractor="pixels", accuracy=0.4, *, seeds=0, episodes=200, draw=0, **changes) -> Cell:
    values = {
        "dataset": "glyphs", "split": "test", "ways": 5, "shots": 1, "queries": 15, "episode_seed": 0,
        "extractor": extractor, "extractor_seeds": tuple(range(seeds)), "labels_used": "none",
        "learner": "prototypical", "mode": "frozen", "transductive": False, "batch_norm": "none", "seconds": 1.5,
        "fingerprint": "f" * 8, **changes,
    }  # fmt: skip
    generator = np.random.default_rng([draw, *extractor.encode()])
    shape = (max(1, seeds), episodes)
    correct = generator.binomial(values["ways"] * values["queries"], accuracy, shape).astype(np.int32)
    return Cell(**{"correct": correct, **values})


def finished(path, cells, baseline="pixels", finish=True, text=CONFIG):
    config = check(parse(text, "c"), BenchConfig, "c")
    with open_run(path, "bench", config, quiet=True) as run:
        for one in cells:
            run.write_cell(one)
        run.write_report(build_report(cells, baseline))
        if finish:
            run.finish({})
    return path


class TestRows:
    def test_one_seed_against_scipy(self):
        one = cell()
        row = build_report([one], "pixels").rows[0]
        accuracy = one.correct[0] / 75
        low, high = scipy_stats.t.interval(0.95, 199, accuracy.mean(), scipy_stats.sem(accuracy))
        assert row.accuracy == pytest.approx(accuracy.mean())
        assert row.ci95 == pytest.approx((high - low) / 2)
        assert row.error == pytest.approx(1 - accuracy.mean())
        assert (row.episodes, row.extractor_seeds, row.seconds) == (200, [], 1.5)

    def test_the_schema_is_the_published_one_and_batch_norm(self):
        report = build_report([cell(), cell("vae", 0.6, seeds=3)], "pixels").to_dict()
        assert list(report) == ["schema", "rows", "comparisons"]
        assert report["schema"] == 1
        assert set(report["rows"][1]) == {*ROW_KEYS, *ROW_MORE}
        assert list(report["comparisons"][0]) == COMPARISON_KEYS
        assert [field.name for field in fields(Comparison)] == COMPARISON_KEYS
        assert {field.name for field in fields(Row)} == {*ROW_KEYS, *ROW_MORE}
        json.dumps(report, allow_nan=False)


class TestComparisons:
    def test_paired_against_scipy(self):
        baseline, candidate = cell(), cell("vae", 0.6)
        found = build_report([baseline, candidate], "pixels").comparisons[0]
        a, b = 1 - baseline.correct[0] / 75, 1 - candidate.correct[0] / 75
        assert found.p_value == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)
        low, high = scipy_stats.ttest_rel(b, a).confidence_interval(0.95)
        assert found.difference_ci95 == pytest.approx((low, high))
        assert found.difference == pytest.approx(b.mean() - a.mean())
        assert found.relative_reduction == pytest.approx(1 - b.mean() / a.mean())
        assert (found.baseline, found.candidate, found.n_episodes, found.n_seeds) == ("pixels", "vae", 200, 1)

    def test_holm_is_over_the_whole_table(self):
        cells = [cell(), *(cell(name, accuracy) for name, accuracy in [("a", 0.41), ("b", 0.42), ("c", 0.4)])]
        found = build_report(cells, "pixels").comparisons
        p = [item.p_value for item in found]
        rank = np.argsort(np.argsort(p))
        assert [item.p_value_holm for item in found] == pytest.approx(
            [max(min(1, (3 - rank[j]) * p[j]) for j in range(3) if rank[j] <= rank[i]) for i in range(3)]
        )

    def test_only_equal_learner_and_setting_are_compared(self):
        cells = [cell(), cell(ways=20), cell("vae"), cell("vae", ways=20), cell("vae", learner="ridge")]
        found = build_report(cells, "pixels").comparisons
        assert [(item.ways, item.learner) for item in found] == [(5, "prototypical"), (20, "prototypical")]

    def test_a_shorter_cell_is_compared_on_the_shared_episodes(self):
        baseline, candidate = cell(), cell("vae", 0.6, episodes=50)
        found = build_report([baseline, candidate], "pixels").comparisons[0]
        assert found.n_episodes == 50
        assert found.error_baseline == pytest.approx(1 - baseline.correct[:, :50].mean() / 75)

    def test_an_unknown_baseline_offers_the_closest(self):
        with pytest.raises(UserError, match="unknown baseline 'pixel'; did you mean 'pixels'. allowed: pixels, vae"):
            build_report([cell(), cell("vae")], "pixel")

    def test_seeds_that_cannot_be_paired_are_named(self):
        with pytest.raises(UserError, match="vae against random, prototypical, 5w1s: .* 2 seeds and candidate 3"):
            build_report([cell("random", seeds=2), cell("vae", seeds=3)], "random")

    def test_a_baseline_without_error_has_no_reduction(self):
        full = np.full((1, 200), 75, dtype=np.int32)
        report = build_report([cell(correct=full), cell("vae")], "pixels")
        assert report.comparisons[0].relative_reduction is None
        for format in FORMATS:
            render(report, format)


class TestCells:
    def test_read_back(self, tmp_path):
        one = cell("vae", seeds=2)
        with (tmp_path / "c.npz").open("wb") as stream:
            save_cell(stream, one)
        again = load_cell(tmp_path / "c.npz")
        assert (again.correct == one.correct).all()
        assert {**vars(again), "correct": 0} == {**vars(one), "correct": 0}

    def test_numpy_alone_can_read_it(self, tmp_path):
        with (tmp_path / "c.npz").open("wb") as stream:
            save_cell(stream, cell(seeds=2))
        with np.load(tmp_path / "c.npz", allow_pickle=False) as data:
            assert data["correct"].shape == (2, 200)
            assert json.loads(str(data["row"]))["extractor_seeds"] == [0, 1]

    @pytest.mark.parametrize("size", [0, 10, 400])
    def test_a_truncated_file_is_named(self, tmp_path, size):
        with (tmp_path / "c.npz").open("wb") as stream:
            save_cell(stream, cell())
        (tmp_path / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:size])
        with pytest.raises(
            UserError, match=r"c.npz is damaged or holds no episode counts: .*; run the benchmark again"
        ):
            load_cell(tmp_path / "c.npz")

    def test_another_npz_is_refused(self, tmp_path):
        np.savez(tmp_path / "c.npz", a=np.zeros(3))
        with pytest.raises(UserError, match="holds no episode counts"):
            load_cell(tmp_path / "c.npz")

    def test_counts_must_fit(self):
        with pytest.raises(UserError, match=r"counts of shape \(1, 3\); allowed: \(seeds, episodes\) with 2 seeds"):
            cell(extractor_seeds=(0, 1), correct=np.zeros((1, 3), dtype=np.int32))
        with pytest.raises(UserError, match="counts outside 0 to ways \\* queries = 75"):
            cell(correct=np.full((1, 3), 76, dtype=np.int32))

    def test_different_names_have_different_files(self):
        names = ["a b", "a_b", "a/b", "a-b", "é", "è", "a@b"]
        assert len({slug(name, "x") for name in names}) == len(names)
        assert len({slug("a-b", "c"), slug("a", "b-c")}) == 2
        assert (
            slug("omniglot/lake", "test", "5w1s", "guided_vae", "ridge") == "omniglot+lake-test-5w1s-guided_vae-ridge"
        )


class TestMerge:
    def test_one_run_gives_its_own_report(self, tmp_path):
        cells = [cell(), cell("vae", seeds=3), cell(ways=20), cell("vae", seeds=3, ways=20)]
        finished(tmp_path / "r", cells)
        assert merge([tmp_path / "r"]).to_dict() == build_report(cells, "pixels").to_dict()

    def test_two_runs_are_one_table_and_a_repeated_cell_one_row(self, tmp_path):
        finished(tmp_path / "a", [cell(), cell("vae")])
        finished(tmp_path / "b", [cell(), cell("guided")])
        report = merge([tmp_path / "a", tmp_path / "b"])
        assert [row.extractor for row in report.rows] == ["pixels", "vae", "guided"]
        assert [item.candidate for item in report.comparisons] == ["vae", "guided"]
        assert report.to_dict() == build_report([cell(), cell("vae"), cell("guided")], "pixels").to_dict()

    def test_different_extractors_of_one_name_are_told_apart(self, tmp_path):
        finished(tmp_path / "a", [cell(), cell("vae")])
        finished(tmp_path / "b", [cell(), cell("vae", 0.7, draw=1)])
        report = merge([tmp_path / "a", tmp_path / "b"])
        assert [row.extractor for row in report.rows] == ["pixels", "vae", "vae@b"]

    def test_seeds_that_were_run_apart_are_one_row(self, tmp_path):
        whole = cell("vae", seeds=3, training_seconds=30.0, encoders=("e0", "e1", "e2"))
        parts = [
            replace(
                whole, extractor_seeds=seeds, correct=whole.correct[list(seeds)], seconds=0.5 * len(seeds),
                training_seconds=10.0 * len(seeds), encoders=tuple(f"e{seed}" for seed in seeds),
            )
            for seeds in ((2,), (0, 1))
        ]  # fmt: skip
        for name, part, text in zip("ab", parts, (VAE, VAE.replace("vae}", "vae, slots: null}")), strict=True):
            finished(tmp_path / name, [cell(), part], text=text)
        report = merge([tmp_path / "a", tmp_path / "b"])
        assert report.to_dict() == build_report([cell(), whole], "pixels").to_dict()
        (cells, _) = merged_cells([tmp_path / "a", tmp_path / "b"])
        assert cells[1].encoders == ("e0", "e1", "e2") and (cells[1].correct == whole.correct).all()

    @pytest.mark.parametrize(
        ("text", "changes"),
        [
            (VAE.replace("objective: vae", "objective: beta_vae"), {}),
            (VAE.replace("vae: {", "other: {"), {}),
            (VAE + "pretraining: {training: {epochs: 3}}", {}),
            (VAE, {"extractor_settings": "another"}),
            (VAE, {"extractor_seeds": (1, 2)}),
        ],
        ids=["objective", "no such extractor", "budget", "what it makes of an image", "a seed twice"],
    )
    def test_seeds_of_other_settings_are_told_apart(self, tmp_path, text, changes):
        finished(tmp_path / "a", [cell(), cell("vae", seeds=2)], text=VAE)
        other = replace(cell("vae", seeds=2, draw=1), **{"extractor_seeds": (2, 3), **changes})
        finished(tmp_path / "b", [cell(), other], text=text)
        report = merge([tmp_path / "a", tmp_path / "b"])
        assert [row.extractor for row in report.rows] == ["pixels", "vae", "vae@b"]

    def test_another_baseline(self, tmp_path):
        finished(tmp_path / "a", [cell(), cell("vae")])
        assert merge([tmp_path / "a"], "vae").comparisons[0].candidate == "pixels"

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"queries": 10}, "glyphs 5w1s has queries 15 in the one, 10 in the other"),
            ({"episode_seed": 7}, "glyphs 5w1s has episode seed 0 in the one, 7 in the other"),
            ({"fingerprint": "g"}, r"glyphs 5w1s has images \(fingerprint\) ffffffff in the one, g in the other"),
        ],
    )
    def test_other_episodes_are_refused(self, tmp_path, change, words):
        finished(tmp_path / "a", [cell(), cell("vae")])
        finished(tmp_path / "b", [cell(**change), cell("guided", **change)])
        with pytest.raises(UserError, match=words):
            merge([tmp_path / "a", tmp_path / "b"])

    def test_a_run_with_nothing_in_common_is_refused(self, tmp_path):
        finished(tmp_path / "a", [cell(), cell("vae")])
        finished(tmp_path / "b", [cell("vae", ways=20)], baseline="vae")
        with pytest.raises(UserError, match="nothing in .*b can be compared with baseline 'pixels'"):
            merge([tmp_path / "a", tmp_path / "b"])

    def test_an_unfinished_run_is_refused(self, tmp_path):
        finished(tmp_path / "a", [cell()], finish=False)
        with pytest.raises(
            UserError, match=r"holds no finished run \(no result.json\); finish it by `metalearn resume"
        ):
            merge([tmp_path / "a"])

    def test_no_directory(self, tmp_path):
        with pytest.raises(UserError, match="is not a directory; give finished run directories"):
            merge([tmp_path / "none"])

    def test_a_run_without_episodes_is_refused(self, tmp_path):
        (tmp_path / "result.json").write_text("{}")
        with pytest.raises(UserError, match=r"holds no episode counts \(episodes-\*.npz\); give a run of"):
            merge([tmp_path])


class TestFormats:
    report = build_report(
        [cell(), cell("guided_vae", 0.6, seeds=3), cell(ways=20), cell("guided_vae", ways=20)], "pixels"
    )

    def test_markdown_says_what_stands_behind_a_number(self):
        text = render(self.report, "md")
        row = self.report.rows[1]
        assert f"{100 * row.accuracy:.2f} ± {100 * row.ci95:.2f}" in text
        assert "accuracy over 200 episodes, 15 queries a class, episode seed 0" in text
        for word in ["labels", "transductive", "batch norm", "seeds", "Holm p", "95 % interval", "5-way 1-shot"]:
            assert word in text
        assert "[-" in text
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in tables[:4]}) == 1

    def test_markdown_says_under_the_rows_what_an_extractor_adapted_and_nothing_where_it_did_not(self):
        said = "resnet18; images repeated to 3 channels, resized to 64x64; layer 2; 128 wide"
        cells = [cell(), *(cell("net", learner=name, extractor_settings=said) for name in ("prototypical", "ridge"))]
        text = render(build_report(cells, "pixels"), "md")
        rows, told, compared = (text.index(words) for words in ("| net | ridge", f"- net: {said}\n", "Compared with"))
        assert rows < told < compared and text.count(said) == 1 and "- pixels" not in text
        assert "What extractors make of an image:\n\n- net" in text
        assert "What extractors make" not in render(self.report, "md")

    def test_csv_is_one_table(self):
        lines = list(csv.DictReader(io.StringIO(render(self.report, "csv"))))
        assert [line["extractor"] for line in lines] == ["pixels", "guided_vae", "pixels", "guided_vae"]
        assert float(lines[1]["accuracy"]) == self.report.rows[1].accuracy
        assert float(lines[1]["difference_ci95_low"]) == self.report.comparisons[0].difference_ci95[0]
        assert (lines[0]["baseline"], lines[1]["baseline"], lines[1]["extractor_seeds"]) == ("", "pixels", "0 1 2")

    def test_latex_is_escaped(self):
        text = render(self.report, "tex")
        body = [line for line in text.splitlines() if not line.startswith("%")]
        assert any("guided\\_vae" in line for line in body)
        assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 2
        assert all(line.replace("\\_", "").count("_") == 0 for line in body)

    def test_json_is_the_report(self):
        assert json.loads(render(self.report, "json")) == json.loads(json.dumps(self.report.to_dict()))

    def test_unknown_format(self):
        with pytest.raises(UserError, match="unknown format 'html'; allowed: csv, json, md, tex"):
            render(self.report, "html")
