"""TensorBoard: what is written is read back by TensorBoard's own reader."""

import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from metalearn.board import PROJECTOR_POINTS, Board, NullBoard
from metalearn.progress import Progress
from metalearn.record import Record
from metalearn.recorder import ScopedRecorder

matplotlib.use("Agg")
from matplotlib.figure import Figure


def events(path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    return reader.Reload()


def test_everything_is_read_back(tmp_path):
    board = Board(tmp_path)
    figure = Figure()
    figure.subplots().plot([0, 1])
    board.scalars(3, {"loss": 0.5, "kl/z0": 2.0})
    board.images(3, "reconstructions", torch.rand(4, 1, 8, 8))
    board.images(3, "colour", torch.rand(4, 3, 8, 8) * 2 - 0.5)
    board.text(0, "report", "| a |\n| --- |")
    board.figure(3, "curve", figure)
    board.histogram(3, "latents", torch.randn(100))
    board.close()
    found = events(tmp_path)
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(3, 0.5)]
    assert found.Scalars("kl/z0")[0].value == 2.0
    assert set(found.Tags()["images"]) == {"reconstructions", "colour", "curve"}
    assert found.Images("reconstructions")[0].encoded_image_string.startswith(b"\x89PNG")
    assert found.Tags()["histograms"] == ["latents"]
    assert b"| a |" in found.Tensors("report/text_summary")[0].tensor_proto.string_val[0]


def test_hparams_carry_settings_and_metrics(tmp_path):
    board = Board(tmp_path)
    board.hparams("vae", {"extractor": "vae", "beta": 1.0, "flag": True, "seeds": [0, 1]}, {"accuracy/5w1s": 0.67})
    board.close()
    found = events(tmp_path / "vae")
    assert found.Scalars("accuracy/5w1s")[0].value == pytest.approx(0.67)
    plugin = found.summary_metadata["_hparams_/session_start_info"].plugin_data
    assert plugin.plugin_name == "hparams"
    assert b"[0, 1]" in plugin.content


def test_hparams_have_a_column_for_each_setting_of_any_line(tmp_path):
    """By TensorBoard's own reading of all lines: it takes columns from one summary where it finds one."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    board, here = Board(tmp_path), RequestContext()
    board.hparams("vae/ridge/result", {"extractor": "vae", "learner.l2": 0.5}, {"accuracy/5w1s": 0.6})
    board.hparams("guided/maml/result", {"extractor": "guided", "objective.weight": 3.0}, {"accuracy/5w5s": 0.7})
    board.close()
    trained = Board(tmp_path / "guided/maml/5w1s/seed0")
    trained.scalars(1, {"train/loss": 1.0})
    trained.close()
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    found = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path))))
    lines = found.hparams_metadata(here, "")
    columns = found.experiment_from_metadata(here, "", True, lines, found.hparams_from_data_provider(here, "", None))
    assert {one.name for one in columns.hparam_infos} == {"extractor", "learner.l2", "objective.weight"}
    assert {one.name.tag for one in columns.metric_infos} == {"accuracy/5w1s", "accuracy/5w5s"}  # not train/loss
    assert set(lines) == {"vae/ridge/result", "guided/maml/result"}


def test_projector_has_features_labels_and_thumbnails(tmp_path):
    board = Board(tmp_path)
    features = torch.arange(12, dtype=torch.float32).reshape(6, 2)
    board.embedding("test", features, torch.rand(6, 1, 8, 8), [f"class {i}" for i in range(6)])
    board.close()
    folder = next(tmp_path.rglob("tensors.tsv")).parent
    assert np.allclose(np.loadtxt(folder / "tensors.tsv"), features)
    assert (folder / "metadata.tsv").read_text().splitlines() == [f"class {i}" for i in range(6)]
    assert (folder / "sprite.png").read_bytes().startswith(b"\x89PNG")
    assert "tensors.tsv" in (tmp_path / "projector_config.pbtxt").read_text()


def test_a_projector_shown_again_replaces_the_earlier_one(tmp_path, capsys):
    for label in ("old", "new"):
        board = Board(tmp_path)
        board.embedding("test", torch.rand(4, 2), torch.rand(4, 1, 8, 8), [label] * 4)
        board.close()
    assert [path.read_text().split() for path in tmp_path.rglob("metadata.tsv")] == [["new"] * 4]
    assert (tmp_path / "projector_config.pbtxt").read_text().count("tensors.tsv") == 1
    assert "warning" not in capsys.readouterr().out


def test_many_points_are_thinned_evenly(tmp_path):
    count = PROJECTOR_POINTS * 2 + 1
    board = Board(tmp_path)
    board.embedding("test", torch.arange(count, dtype=torch.float32)[:, None], None, [str(i) for i in range(count)])
    board.close()
    kept = [int(line) for line in next(tmp_path.rglob("metadata.tsv")).read_text().split()]
    assert len(kept) == PROJECTOR_POINTS
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert set(np.diff(kept)) <= {2, 3}


def test_a_resumed_run_voids_the_events_that_it_tells_again(tmp_path):
    def tell(steps, value):
        recorder = ScopedRecorder(tmp_path, "vae", Record(tmp_path / "metrics.jsonl"), Progress())
        for step in steps:
            recorder.scalars(step, {"loss": value})
        recorder.close()

    tell(range(5), 1.0)
    time.sleep(1.1)  # TensorBoard orders event files by the second in their names
    tell(range(3, 6), 2.0)
    found = events(tmp_path / "tensorboard" / "vae").Scalars("loss")
    assert [(event.step, event.value) for event in found] == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_a_recorder_passes_everything_on(tmp_path):
    recorder = ScopedRecorder(tmp_path, "", Record(tmp_path / "metrics.jsonl"), Progress())
    recorder.images(1, "i", torch.rand(1, 1, 8, 8))
    recorder.text(1, "t", "x")
    recorder.histogram(1, "h", torch.randn(9))
    recorder.figure(1, "f", Figure())
    recorder.board.hparams("p", {"a": 1}, {"b": 2.0})
    recorder.close()
    tags = events(tmp_path / "tensorboard").Tags()
    assert set(tags["images"]) == {"i", "f"}
    assert tags["histograms"] == ["h"]
    assert "t/text_summary" in tags["tensors"]


def test_the_null_board_has_the_same_methods_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = NullBoard()
    board.scalars(0, {"a": 1.0})
    board.images(0, "i", torch.rand(1, 1, 2, 2))
    board.embedding("e", torch.rand(2, 2), None, ["a", "b"])
    board.close()
    assert not list(tmp_path.iterdir())
    assert {name for name in vars(Board) if name[0] != "_"} == {name for name in vars(NullBoard) if name[0] != "_"}
