"""Plots of a report: what is drawn stands where the report's numbers are; what makes no sense is left out."""

import json

import numpy as np
import pytest
import torch
from command import Shell
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy import stats as scipy_stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_report import cell, finished

from gvae.checkpoint import save_encoder
from gvae.nets import initialise
from gvae.vae import VAE
from metalearn.cost_plots import draw_costs
from metalearn.data import build_dataset
from metalearn.errors import UserError
from metalearn.measured import Measurement, make_score
from metalearn.merge import merged_cells
from metalearn.plots import COLOURS, MARKERS, draw, line_style
from metalearn.report import build_report
from metalearn.schema import Kind
from metalearn.score_plots import draw_scores
from metalearn.scored import match
from metalearn.stats import mean_interval, rank_correlation

CELLS = [
    cell(name, accuracy, seeds=seeds, shots=shots, learner=learner, labels_used=labels)
    for shots in (1, 5, 20)
    for learner in ("prototypical", "ridge")
    for name, accuracy, seeds, labels in (("pixels", 0.4, 0, "none"), ("vae", 0.5, 3, "none"), ("sup", 0.7, 3, "class"))
]
REPORT = build_report(CELLS, "pixels")


def marks(axes) -> dict[tuple[float, float], tuple[float, float, float, float]]:
    """Each mark (x, y) of error bars with the ends of its bar: low x, low y, high x, high y."""
    found = {}
    for container in axes.containers:
        line, _, (*bars,) = container.lines
        for place, (x, y) in enumerate(zip(*line.get_data(), strict=True)):
            ends = np.concatenate([bar.get_segments()[place] for bar in bars])
            found[float(x), float(y)] = (*ends.min(0), *ends.max(0))
    return found


def names_of(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_error_stands_at_the_rows_numbers_with_their_intervals():
    axes = draw(REPORT).figures["error-glyphs-test-5w5s"].axes[0]
    rows = [row for row in REPORT.rows if row.shots == 5]
    found = marks(axes)
    assert len(found) == len(rows) == 6
    for place, row in enumerate(rows):
        (x, ends) = next((x, ends) for (x, y), ends in found.items() if y == place)
        assert x == pytest.approx(100 * row.error)
        assert (ends[0], ends[2]) == pytest.approx((100 * (row.error - row.ci95), 100 * (row.error + row.ci95)))
        assert names_of(axes)[place].startswith(f"{row.extractor}, {row.learner}")
    assert names_of(axes)[1] == "vae, prototypical (3 seeds)"
    assert axes.get_xlabel() == "error (% of queries)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["none", "class"]
    title = draw(REPORT).figures["error-glyphs-test-5w5s"].get_suptitle().replace("\n", " ")
    assert "glyphs, test classes, 5-way 5-shot" in title and "95 % interval; N = 200 episodes of 15 queries" in title


def test_forest_stands_at_the_differences_and_a_filled_mark_is_significant_after_holm():
    none = cell("twin", 0.4, draw=3)
    report = build_report([cell(), none, cell("vae", 0.6)], "pixels")
    figure = draw(report).figures["difference-glyphs-5w1s"]
    axes, found = figure.axes[0], marks(figure.axes[0])
    assert names_of(axes) == ["twin, prototypical", "vae, prototypical"]
    for place, item in enumerate(report.comparisons):
        (x, ends) = next((x, ends) for (x, y), ends in found.items() if y == place)
        assert x == pytest.approx(100 * item.difference)
        assert (ends[0], ends[2]) == pytest.approx([100 * bound for bound in item.difference_ci95])
    faces = {container.get_label(): container.lines[0].get_markerfacecolor() for container in axes.containers}
    assert faces == {"Holm p >= 0.05": "white", "Holm p < 0.05": COLOURS[0]}
    assert [item.p_value_holm < 0.05 for item in report.comparisons] == [False, True]
    assert [line.get_xdata() for line in axes.lines if line.get_linestyle() == "-"][0] == [0, 0]
    title = figure.get_suptitle().replace("\n", " ")
    assert "minus that of pixels" in title and "N = 200 episodes x 1 seeds; Holm's p over 2 comparisons" in title


def test_accuracy_against_shots_has_a_panel_a_learner_and_a_line_an_extractor():
    figure = draw(REPORT).figures["shots-glyphs-test-5w"]
    assert [axes.get_title() for axes in figure.axes] == ["prototypical", "ridge"]
    for axes in figure.axes:
        rows = [row for row in REPORT.rows if row.learner == axes.get_title()]
        found = marks(axes)
        assert len(found) == len(rows) == 9  # so no two marks are in one place
        for container in axes.containers:
            line = container.lines[0]
            own = [row for row in rows if row.extractor == container.get_label()]
            assert line.get_ydata() == pytest.approx([100 * row.accuracy for row in own])
            assert [round(x) for x in line.get_xdata()] == [0, 1, 2]
            for row, x, y in zip(own, *line.get_data(), strict=True):
                low, high = found[x, y][1], found[x, y][3]
                assert (low, high) == pytest.approx((100 * (row.accuracy - row.ci95), 100 * (row.accuracy + row.ci95)))
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "20"]
        styles = {(one.lines[0].get_color(), one.lines[0].get_marker()) for one in axes.containers}
        assert len(styles) == len({marker for _, marker in styles}) == 3  # told apart without colour too


def test_what_makes_no_sense_is_left_out_and_said():
    plots = draw(build_report([cell()], "pixels"))
    assert list(plots.figures) == ["error-glyphs-test-5w1s"]
    assert plots.left_out == [
        "paired differences: nothing is compared with the baseline",
        "accuracy against shots, glyphs 5-way: one number of shots only, 1",
    ]
    assert "Plots: error-glyphs-test-5w1s.png\n\nNo plot of paired differences: nothing" in plots.listed(".png")


def test_error_stands_over_what_training_took_and_over_the_width_of_the_features():
    runs = {"vae": (60.0, 64, 0.5), "vae@twice": (120.0, 64, 0.6), "guided": (80.0, 58, 0.7), "pixels": (0.0, 784, 0.3)}
    cells = [
        cell(name, right, seeds=0 if name == "pixels" else 2, learner=learner, training_seconds=2 * each,
             feature_dim=width, seconds=2 * each + 4)
        for learner in ("prototypical", "ridge") for name, (each, width, right) in runs.items()
    ]  # fmt: skip
    report = build_report(cells, "pixels")
    plots = draw_costs(report)
    assert list(plots.figures) == ["cost-glyphs-test-5w1s", "width-glyphs-test-5w1s"] and not plots.left_out
    for name, place in (("cost-glyphs-test-5w1s", 0), ("width-glyphs-test-5w1s", 1)):
        panels = plots.figures[name].axes
        assert [panel.get_title() for panel in panels] == ["prototypical", "ridge"]
        for panel in panels:
            rows = {row.extractor: row for row in report.rows if row.learner == panel.get_title()}
            lines = {one.get_label(): one.lines[0].get_xydata().tolist() for one in panel.containers}
            expected = {key: [[runs[key][place], 100 * row.error]] for key, row in rows.items() if runs[key][place]}
            expected["vae"] += expected.pop("vae@twice")  # one extractor, two runs: a line
            assert {key: np.asarray(line) for key, line in lines.items()} == {
                key: pytest.approx(np.asarray(line)) for key, line in expected.items()
            }


def test_costs_that_are_not_known_or_all_the_same_are_not_drawn():
    plots = draw_costs(build_report([cell(), cell("vae", training_seconds=3.0, feature_dim=64, seconds=4.0)], "pixels"))
    assert not plots.figures
    assert plots.left_out == [
        "error against seconds of training, one seed, glyphs 5w1s: all that say it, 1 of 2 rows, say the same",
        "error against features (numbers an image), glyphs 5w1s: all that say it, 1 of 2 rows, say the same",
    ]


def test_many_rows_do_not_overlap_and_nothing_leaves_the_picture():
    many = [cell(f"an extractor with a long name {k}", 0.4 + k / 200) for k in range(60)]
    plots = draw(build_report(many, many[0].extractor))
    for figure in plots.figures.values():
        FigureCanvasAgg(figure).draw()
        axes = figure.axes[0]
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        edges = sorted((box.y0, box.y1) for box in boxes)
        assert all(above <= below for (_, above), (below, _) in zip(edges, edges[1:], strict=False))
        title = figure._suptitle.get_window_extent()
        shown = [*boxes, axes.get_legend().get_window_extent(), title]
        assert min(box.x0 for box in shown) >= 0 and max(box.x1 for box in shown) <= figure.bbox.x1
        assert axes.get_window_extent().y1 < title.y0 and title.y1 <= figure.bbox.y1


def test_a_legend_of_many_series_stands_below_the_panels():
    many = [cell(f"extractor number {k}", 0.4 + k / 100, shots=shots) for k in range(20) for shots in (1, 5)]
    figure = draw(build_report(many, many[0].extractor)).figures["shots-glyphs-test-5w"]
    FigureCanvasAgg(figure).draw()
    legend, title = figure.legends[0].get_window_extent(), figure._suptitle.get_window_extent()
    assert legend.y0 >= 0 and legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
    assert legend.y1 < figure.axes[0].get_window_extent().y0 < figure.axes[0].get_window_extent().y1 < title.y0


def test_no_two_of_many_series_look_alike():
    styles = [(line_style(k)["color"], line_style(k)["marker"]) for k in range(len(COLOURS) * len(MARKERS))]
    assert len(set(styles)) == len(styles)


def test_a_run_has_its_plots_as_files_and_on_its_board(tmp_path):
    run = finished(tmp_path / "r", CELLS)
    names = sorted(draw(REPORT).figures)
    assert sorted(path.stem for path in run.glob("*.png")) == names and len(names) == 7
    for name in names:
        with Image.open(run / f"{name}.png") as picture:
            assert picture.format == "PNG" and np.ptp(np.asarray(picture.convert("L"))) > 100
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert set(events.Tags()["images"]) == {name.replace("-", "/", 1) for name in names}  # grouped by their kind
    assert all(f"{name}.png" in (run / "report.md").read_text() for name in names)


# scores of measured encoders


def measured(path, encoder, values, *, finish=True, **changes):
    scores = [make_score(name, value, "80 images", {}) for name, value in values.items()]
    found = Measurement(**{
        "checkpoint": f"runs/{encoder}", "encoder": encoder, "objective": "vae", "labels_used": "none",
        "dataset": "glyphs/random", "part": "test", "images": 80, "fingerprint": "g", "repeats": 2, "seed": 0,
        "kl_per_latent": {}, "factors": ["scale"], "unvarying": [], "scores": scores, "matrices": {}, **changes,
    })  # fmt: skip
    path.mkdir()
    (path / "measure.json").write_text(json.dumps(found.to_dict()))
    if finish:
        (path / "result.json").write_text("{}")
    return path


def benched():
    """Two extractors of three seeds each, whose weights are known, and one of unknown ones."""
    vae = cell("vae", 0.5, seeds=3, encoders=("v0", "v1", "v2"))
    guided = cell("guided", 0.6, seeds=3, encoders=("g0", "g1", "g2"))
    return [cell(), vae, guided]


def scores_of(tmp_path, names=("v0", "v1", "g0", "g1", "g2")):
    values = {name: [0.1 * place, 0.1 * place + 0.02] for place, name in enumerate(names)}
    return values, [measured(tmp_path / f"m{name}", name, {"mig": value}) for name, value in values.items()]


def test_scores_stand_against_the_error_of_the_same_weights(tmp_path):
    values, runs = scores_of(tmp_path)
    cells = benched()
    figure = draw_scores(match(cells, runs)).figures["scores-glyphs-test-5w1s-prototypical"]
    (axes,) = figure.axes
    expected = {}
    for extractor, row, name in [(1, 0, "v0"), (1, 1, "v1"), (2, 0, "g0"), (2, 1, "g1"), (2, 2, "g2")]:
        errors = 1 - cells[extractor].correct[row] / 75
        half = scipy_stats.t.ppf(0.975, 199) * scipy_stats.sem(errors)
        score = mean_interval(np.array([values[name]]))
        expected[np.mean(values[name]), 100 * errors.mean()] = (score.half_width, 100 * half)
    found = marks(axes)
    assert sorted(found) == pytest.approx(np.array(sorted(expected)))
    for (x, y), (wide, high) in expected.items():
        ends = next(ends for place, ends in found.items() if place == pytest.approx((x, y)))
        assert ends == pytest.approx((x - wide, y - high, x + wide, y + high))
    x, y = np.array(sorted(expected)).T
    rho = scipy_stats.spearmanr(x, y).statistic
    assert axes.get_title().startswith(f"rank correlation {rho:+.2f} [") and axes.get_title().endswith("N = 5")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("mig (score)", "error (% of queries)")
    assert [one.get_label() for one in axes.containers] == ["vae", "guided"]


def test_the_interval_of_a_rank_correlation_is_that_of_bonett_and_wright_and_covers():
    x, y = np.arange(10.0), np.array([1, 0, 3, 2, 5, 4, 7, 9, 8, 6.0])
    found = rank_correlation(x, y)
    rho = scipy_stats.spearmanr(x, y).statistic
    z = np.arctanh(found.ci95)
    assert found.rho == pytest.approx(rho) and z.mean() == pytest.approx(np.arctanh(rho))
    assert np.ptp(z) / 2 == pytest.approx(scipy_stats.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / 7))
    generator, r = np.random.default_rng(0), 0.6
    truth = 6 / np.pi * np.arcsin(r / 2)  # Spearman's of a normal pair of correlation r
    draws = generator.multivariate_normal([0, 0], [[1, r], [r, 1]], (600, 20))
    inside = [low <= truth <= high for low, high in (rank_correlation(*pair.T).ci95 for pair in draws)]
    assert 0.92 <= np.mean(inside) <= 0.98


def test_a_correlation_without_an_interval_has_none():
    assert rank_correlation(np.arange(3.0), np.array([0.0, 2, 1])).ci95 is None
    assert rank_correlation(np.arange(5.0), -np.arange(5.0)) == rank_correlation(np.arange(5.0), -np.arange(5.0) ** 3)
    assert rank_correlation(np.arange(5.0), -np.arange(5.0)).ci95 is None


def test_too_few_encoders_are_left_out(tmp_path):
    _, runs = scores_of(tmp_path, ("v0", "g0"))
    plots = draw_scores(match(benched(), runs))
    assert not plots.figures
    assert plots.left_out == [
        "mig against few-shot error, glyphs 5w1s, prototypical: a rank correlation needs at least 3 pairs that differ "
        "in both numbers, given 2"
    ]
    assert draw_scores([]).left_out == ["scores against few-shot error: no run of metalearn measure is given"]


def test_scores_on_other_images_or_with_other_options_are_not_mixed(tmp_path):
    runs = [measured(tmp_path / name, name, {"mig": [0.1, 0.2]}) for name in ("v0", "v1")]
    runs.append(measured(tmp_path / "other", "v2", {"mig": [0.1, 0.3]}, fingerprint="h", dataset="sprites/images"))
    panels = match(benched(), runs)
    assert sorted(len(panel.points) for panel in panels) == [1, 2]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"encoder": "x"}, "measured runs/x, whose weights are none of those that these benchmarks tested frozen;"),
        ({"encoder": "v0", "finish": False}, r"holds no finished run \(no result.json\); finish it by"),
        ({"encoder": "v0", "values": {}}, "holds no score of runs/v0; leave it out, or measure it with metrics"),
    ],
)
def test_runs_that_do_not_match_are_refused(tmp_path, how, words):
    run = measured(tmp_path / "m", how.pop("encoder"), how.pop("values", {"mig": [0.1, 0.2]}), **how)
    with pytest.raises(UserError, match=words):
        match(benched(), [run])


def test_nothing_is_guessed(tmp_path):
    runs = [measured(tmp_path / name, "v0", {"mig": [0.1, 0.2]}) for name in ("a", "b")]
    with pytest.raises(UserError, match="runs/v0 is measured by two of these runs in the same way; leave one out"):
        match(benched(), runs)
    with pytest.raises(UserError, match="none of them says which encoders it tested, as earlier versions did not"):
        match([cell(), cell("vae", seeds=3)], runs[:1])
    with pytest.raises(UserError, match="whose weights are none of those that these benchmarks tested frozen; leave"):
        match([cell("vae", seeds=1, encoders=("v0",), mode="finetuned"), *benched()[2:]], runs[:1])
    data = json.loads((runs[0] / "measure.json").read_text())
    del data["encoder"]
    (runs[0] / "measure.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="does not say which weights it measured, as earlier versions did not"):
        match(benched(), runs[:1])
    (runs[0] / "measure.json").write_text("{")
    with pytest.raises(UserError, match="measure.json is damaged: .*; measure the checkpoint again"):
        match(benched(), runs[:1])


# the command


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


def test_the_command_draws_where_it_is_told(shell, tmp_path):
    finished(tmp_path / "a", benched())
    _, runs = scores_of(tmp_path)
    outcome = shell("report", "a", *[run.name for run in runs], "--plots", "p")
    assert outcome.status == 0 and outcome.out == shell("report", "a").out
    names = ["difference-glyphs-5w1s", "error-glyphs-test-5w1s", "scores-glyphs-test-5w1s-prototypical"]
    files = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert files == [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    assert all(f"{name}.svg" in outcome.err for name in names) and outcome.err.startswith("written to p\n")
    assert "No plot of accuracy against shots, glyphs 5-way: one number of shots only, 1" in outcome.err
    assert "<svg" in (tmp_path / "p" / f"{names[0]}.svg").read_text()


def test_a_measured_checkpoint_is_found_in_the_benchmark_of_it(shell, tmp_path, monkeypatch):
    """All the way: three encoders on disk, measured and benchmarked by commands, meet by their weights."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    glyphs = {"kind": "glyphs", "classes": 40, "instances": 10}
    classes = sorted(build_dataset(Kind(**glyphs), tmp_path / "data").train.base_classes)
    for seed in range(3):
        vae = VAE((1, 28, 28), latents=5, slots={"content": 5})
        initialise(vae, torch.Generator().manual_seed(seed))
        info = {"labels_used": "none", "training_classes": classes, "dataset_settings": glyphs}
        save_encoder(tmp_path / f"e{seed}", vae, info)
        words = ("measure", f"e{seed}", "--set", "metrics=[mig]", "--set", "repeats=2", "--out", f"m{seed}")
        assert shell(*words, "--data-root", "data", "--quiet").status == 0
    extractors = {f"e{seed}": {"kind": "checkpoint", "path": f"e{seed}"} for seed in range(3)}
    config = {
        "dataset": glyphs, "extractors": extractors, "learners": {"prototypical": "prototypical"},
        "episodes": {"settings": ["5w1s"], "queries": 5, "count": 20},
    }  # fmt: skip
    (tmp_path / "three.yaml").write_text(json.dumps(config))
    assert shell("bench", "three.yaml", "--data-root", "data", "--out", "r", "--quiet").status == 0
    panels = match(merged_cells([tmp_path / "r"])[0], [tmp_path / f"m{seed}" for seed in range(3)])
    assert [[point.extractor for point in panel.points] for panel in panels] == [["e0", "e1", "e2"]]
    for seed, point in enumerate(panels[0].points):
        found = json.loads((tmp_path / f"m{seed}" / "measure.json").read_text())
        assert point.score.mean == found["scores"][0]["mean"]
        row = json.loads((tmp_path / "r" / "report.json").read_text())["rows"][seed]
        assert point.error.mean == pytest.approx(row["error"])


def test_misuse_of_the_command(shell, tmp_path):
    finished(tmp_path / "a", benched())
    scores_of(tmp_path)
    assert "mv0 holds scores, which are only drawn; add --plots FOLDER" in shell.refused("report", "a", "mv0")
    assert "mv0 is a run of metalearn measure; give a finished run of" in shell.refused("report", "mv0", "--plots", "p")
    assert "--plots bench.yaml is a file; give a folder" in shell.refused("report", "a", "--plots", "bench.yaml")
