"""Run directories: what is in one, whose it is, how it goes on, and that the record never says anything twice."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metalearn.config import check, dump, parse
from metalearn.errors import UserError
from metalearn.progress import Lines, Progress, make_progress
from metalearn.record import Record, read_metrics
from metalearn.run import Run, is_run, open_run, read_start
from metalearn.schema import ExtractConfig
from metalearn.standing import duration

TEXT = "# as given\ndataset: glyphs\nextractor: pixels\n"
CONFIG = check(parse(TEXT, "x"), ExtractConfig, "x")


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def start(out: Path, config: ExtractConfig = CONFIG, command: str = "extract", **options: object) -> Run:
    return open_run(out, command, config, quiet=True, **options)


class TestOpen:
    def test_a_new_directory_gets_its_heads(self, tmp_path, source):
        with start(tmp_path / "a" / "b", source=source, data_root=tmp_path) as run:
            assert not run.complete
            assert not run.started_before
        assert (run.path / "config.yaml").read_text() == TEXT
        assert (run.path / "resolved.yaml").read_text() == dump(CONFIG)
        about = read_start(run.path)
        assert about["command"] == "extract"
        assert about["data_root"] == str(tmp_path)
        assert about["starts"][0]["device"] == "cpu"
        assert about["starts"][0]["packages"]["torch"] == torch.__version__.split("+")[0]
        assert not (run.path / "result.json").exists()

    def test_the_default_directory_is_named_after_the_config(self, tmp_path, source, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with open_run(None, "extract", CONFIG, source=source, quiet=True) as run:
            assert run.path == Path("runs/mine")

    def test_an_unfinished_run_goes_on_and_keeps_every_start(self, tmp_path, source):
        start(tmp_path / "r", source=source).close()
        with start(tmp_path / "r") as run:
            assert run.started_before
            assert not run.complete
        assert len(read_start(run.path)["starts"]) == 2
        assert (run.path / "config.yaml").read_text() == TEXT

    def test_what_a_kill_left_in_the_middle_of_a_write_goes_at_the_next_start(self, tmp_path, monkeypatch):
        monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
        start(tmp_path / "r").close()
        folders = ["r/checkpoints", "r/steps", "cache/encoders/k", "cache/features"]
        left = [tmp_path / folder / ".meta.pt.0123abcd" for folder in folders]
        for path in left:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        with start(tmp_path / "r") as run:
            assert not any(path.exists() for path in left)
            assert (run.path / ".lock").exists()

    def test_a_finished_run_is_complete(self, tmp_path):
        with start(tmp_path / "r") as run:
            run.finish({"accuracy": 0.5})
        result = json.loads((run.path / "result.json").read_text())
        assert (result["schema"], result["command"], result["accuracy"]) == (1, "extract", 0.5)
        with start(tmp_path / "r") as again:
            assert again.complete
        assert len(read_start(run.path)["starts"]) == 1

    def test_a_different_config_is_refused_by_key(self, tmp_path):
        start(tmp_path / "r").close()
        other = CONFIG.model_copy(update={"part": "val", "seed": 3})
        with pytest.raises(UserError, match=r"holds a different run: part \(test there, val here\), seed \(0 there, 3"):
            start(tmp_path / "r", other)

    def test_only_the_first_differences_are_named(self, tmp_path):
        start(tmp_path / "r").close()
        text = "{dataset: {kind: omniglot, split: lake}, extractor: {kind: random, a: 1}, part: val, seed: 2}"
        with pytest.raises(UserError, match=r"dataset.kind \(glyphs there, omniglot here\).* and 3 more; give another"):
            start(tmp_path / "r", check(parse(text, "x"), ExtractConfig, "x"))

    def test_another_command_is_refused(self, tmp_path):
        start(tmp_path / "r").close()
        with pytest.raises(UserError, match="holds a run of `metalearn extract`, not of bench; give another --out"):
            start(tmp_path / "r", command="bench")

    def test_a_directory_that_is_no_run_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("precious")
        with pytest.raises(UserError, match="is not empty and holds no run; give a new or empty directory"):
            start(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "f").write_text("")
        with pytest.raises(UserError, match="f is a file; give a directory"):
            start(tmp_path / "f")

    def test_a_start_cut_short_before_the_heads_starts_again(self, tmp_path):
        (tmp_path / ".lock").write_text("process 1 on gone\n")
        with start(tmp_path) as run:
            assert not run.started_before
        assert is_run(tmp_path)

    def test_damaged_environment_is_named(self, tmp_path):
        start(tmp_path / "r").close()
        (tmp_path / "r" / "environment.json").write_text('{"command"')
        with pytest.raises(UserError, match="environment.json is damaged"):
            start(tmp_path / "r")

    def test_no_run_to_read(self, tmp_path):
        with pytest.raises(UserError, match=r"holds no run \(no resolved.yaml and environment.json\)"):
            read_start(tmp_path)


class TestLock:
    def test_a_second_process_is_refused_by_name_of_the_first(self, tmp_path):
        code = (
            "import sys, fcntl, os; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); "
            "f.write(f'process {os.getpid()} on far\\n'); f.flush(); print('held', flush=True); sys.stdin.read()"
        )
        start(tmp_path / "r").close()
        command = [sys.executable, "-c", code, str(tmp_path / "r" / ".lock")]
        (tmp_path / "r" / ".lock").write_text("")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=f"r is in use by process {owner.pid} on far; wait for it, end it"):
                start(tmp_path / "r")
            owner.communicate("")
        start(tmp_path / "r").close()

    def test_a_failed_open_gives_the_directory_free(self, tmp_path):
        start(tmp_path / "r").close()
        with pytest.raises(UserError, match="different run"):
            start(tmp_path / "r", CONFIG.model_copy(update={"seed": 1}))
        start(tmp_path / "r").close()


class TestRecord:
    def test_rows_are_json_and_non_finite_values_null(self, tmp_path):
        record = Record(tmp_path / "m.jsonl")
        record.append("a", 0, {"loss": 1.5, "bad": float("nan"), "worse": float("inf")})
        rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
        assert [(row["scope"], row["step"], row["loss"], row["bad"], row["worse"]) for row in rows] == [
            ("a", 0, 1.5, None, None)
        ]

    def test_a_torn_last_line_is_dropped(self, tmp_path):
        path = tmp_path / "m.jsonl"
        Record(path).append("a", 0, {"loss": 1.0})
        with path.open("a") as stream:
            stream.write('{"scope": "a", "st')
        assert [row["step"] for row in read_metrics(path)] == [0]
        Record(path).append("a", 1, {"loss": 2.0})
        assert [row["step"] for row in read_metrics(path)] == [0, 1]

    def test_a_resumed_scope_writes_again_what_it_had_written_and_nothing_is_there_twice(self, tmp_path):
        with start(tmp_path / "r") as run:
            for step in range(0, 60, 10):
                run.scope("vae").scalars(step, {"loss": 1.0})
            run.scope("other").scalars(40, {"loss": 1.0})
        with start(tmp_path / "r") as run:  # goes on from a checkpoint at step 25
            for step in range(30, 60, 10):
                run.scope("vae").scalars(step, {"loss": 2.0})
        rows = read_metrics(run.path / "metrics.jsonl")
        assert [(row["step"], row["loss"]) for row in rows if row["scope"] == "vae"] == [
            (0, 1.0), (10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)
        ]  # fmt: skip
        assert [row["step"] for row in rows if row["scope"] == "other"] == [40]

    def test_a_full_disk_names_the_file(self, tmp_path):
        record = Record(tmp_path / "m.jsonl")
        record.path.symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as caught:
            record.append("a", 0, {"loss": 1.0})
        assert caught.value.filename == str(record.path)


class TestFiles:
    def test_json_is_finite(self, tmp_path):
        with start(tmp_path / "r") as run, pytest.raises(ValueError, match="not JSON compliant"):
            run.write_json("x.json", {"a": float("nan")})
        assert not (run.path / "x.json").exists()

    def test_nothing_temporary_is_left(self, tmp_path):
        with start(tmp_path / "r") as run:
            run.checkpoints.joinpath("c").write_text("")
            run.scope("s").scalars(0, {"a": 1.0})
            run.finish({})
        assert sorted(path.name for path in run.path.iterdir()) == [
            ".lock", "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "resolved.yaml", "result.json",
            "tensorboard",
        ]  # fmt: skip

    def test_scopes_are_kept_by_name(self, tmp_path):
        with start(tmp_path / "r") as run:
            assert run.scope("a") is run.scope("a")
            assert run.scope("a") is not run.scope("b")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestProgress:
    @pytest.fixture(autouse=True)
    def _captured(self, capsys):
        self.captured = capsys

    def lines(self, calls):
        clock = Clock()
        show = Lines(10.0, clock)
        for now, *call in calls:
            clock.now = float(now)
            show(*call)
        return self.captured.readouterr().err.splitlines()

    def test_a_line_at_intervals_with_the_time_left_and_one_at_the_end(self):
        calls = [(second, second, 100, "vae") for second in range(101)]
        lines = self.lines(calls)
        assert lines[0] == "vae: 10/100, 10 %, 1 min 30 s left"
        assert lines[-1] == "vae: 100/100, 100 %"
        assert len(lines) == 10

    def test_a_resumed_job_is_timed_from_where_it_goes_on(self):
        assert self.lines([(0, 90, 100, "vae"), (20, 92, 100, "vae")]) == ["vae: 92/100, 92 %, 1 min 20 s left"]

    def test_a_new_job_is_timed_anew(self):
        calls = [(0, 0, 10, "a"), (1, 10, 10, "a"), (2, 0, 20, "b"), (12, 10, 20, "b")]
        assert self.lines(calls) == ["a: 10/10, 100 %", "b: 10/20, 50 %, 10 s left"]

    def test_a_brief_job_gets_no_line(self):
        assert self.lines([(0, 0, 1, "a"), (0.5, 1, 1, "a"), (1, 3, 3, "b")]) == []

    def test_an_unknown_total(self):
        assert self.lines([(0, 0, 0, "fetch"), (11, 5, 0, "fetch")]) == ["fetch: 5"]

    def test_data_code_reports_in_its_own_order(self):
        show = Lines(0.0, Clock())
        show.report("fetch", 1, 4)
        assert self.captured.readouterr().err == "fetch: 1/4, 25 %\n"

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (130.0, "2 min 10 s"), (3600 * 3 + 300.0, "3 h 5 min")]
    )
    def test_duration(self, seconds, text):
        assert duration(seconds) == text

    def test_quiet_shows_nothing_and_no_terminal_gets_lines(self, capsys):
        assert type(make_progress(quiet=True)) is Progress
        assert type(make_progress(quiet=False)) is Lines
        make_progress(quiet=True)(1, 1, "x")
        assert capsys.readouterr() == ("", "")

    def test_a_terminal_gets_a_bar_that_goes_away(self, monkeypatch):
        terminal = io.StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        show = make_progress(quiet=False)
        for done in range(4):
            show(done, 3, "vae [bold]")
        show(0, 2, "next")
        show.close()
        assert "vae [bold]" in terminal.getvalue()

    def test_a_scope_leads_the_text(self, tmp_path, monkeypatch):
        told = []
        with start(tmp_path / "r") as run:
            monkeypatch.setattr(Progress, "__call__", lambda self, *call: told.append(call))
            run.scope("vae").progress(1, 2, "epoch 1")
            run.progress(1, 2, "all")
        assert told == [(1, 2, "vae: epoch 1"), (1, 2, "all")]
