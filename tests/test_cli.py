"""The command line: every command is there, hands over the right things, and ends with the right status."""

import errno
import subprocess
import sys

import pytest
from command import Shell

from metalearn import __version__, data
from metalearn.cli import JOBS
from metalearn.config import dump
from metalearn.given import choose_device, find_data_root
from metalearn.listing import KINDS, listing, summary
from metalearn.report import build_report
from metalearn.run import open_run
from metalearn.schema import CONFIGS, BenchConfig

COMMANDS = ["quickstart", "data", "pretrain", "train", "bench", "measure", "extract", "report", "resume", "list"]
COMMON = ["--set", "--out", "--data-root", "--device", "--seed", "--quiet", "--debug"]


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


class TestSurface:
    def test_every_command_has_a_line_of_help(self, shell):
        outcome = shell("--help")
        assert outcome.status == 0
        lines = outcome.out.splitlines()
        for command in COMMANDS:
            assert any(line.split()[:1] == [command] and len(line.split()) > 3 for line in lines), command

    @pytest.mark.parametrize("command", JOBS)
    def test_commands_with_a_config_share_their_options(self, shell, command):
        text = shell(command, "--help").out
        assert all(option in text for option in COMMON)

    def test_jobs_and_configs_are_of_the_same_commands(self):
        assert set(JOBS) == set(CONFIGS)

    def test_version(self, shell):
        assert shell("--version").out == f"metalearn {__version__}\n"

    def test_as_a_module(self):
        done = subprocess.run([sys.executable, "-m", "metalearn", "--version"], capture_output=True, text=True)
        assert done.stdout == f"metalearn {__version__}\n"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["bensh"], "No such command 'bensh'"),
            (["bench", "--epochs", "3"], "No such option: --epochs"),
            (["bench"], "Missing argument"),
            (["bench", "b.yaml", "--seed", "x"], "--seed"),
            (["data"], ""),
            ([], ""),
        ],
    )
    def test_misuse_ends_with_2(self, shell, arguments, words):
        outcome = shell(*arguments)
        assert outcome.status == 2
        assert words in outcome.err
        assert "Traceback" not in outcome.err


class TestHandingOver:
    def test_config_run_device_and_data_root(self, shell):
        shell.job()
        outcome = shell("bench", "bench.yaml", "--data-root", "data", "--device", "cpu")
        assert outcome.status == 0, outcome
        [(_, config, run, options)] = shell.calls
        assert isinstance(config, BenchConfig)
        assert config.dataset.options["classes"] == 60
        assert config.dataset.options["instances"] == 20  # a default, filled in
        assert options == {"data_root": shell.folder / "data", "device": "cpu"}
        assert str(run.path) == "runs/bench"
        assert (run.path / "resolved.yaml").read_text() == dump(config)

    def test_set_seed_and_out(self, shell):
        shell.job()
        shell("bench", "bench.yaml", "--set", "episodes.count=7", "--set", "baseline=random", "--seed", 3, "--out", "o")
        [(_, config, run, _)] = shell.calls
        assert (config.episodes.count, config.baseline, config.seeds, str(run.path)) == (7, "random", [3], "o")

    def test_seed_of_another_command(self, shell):
        (shell.folder / "x.yaml").write_text("{dataset: glyphs, extractor: pixels}")
        shell.job(module="metalearn.jobs", name="extract")
        assert shell("extract", "x.yaml", "--seed", 5).status == 0
        assert shell.calls[0][1].seed == 5

    def test_data_root_from_the_environment(self, shell, monkeypatch):
        shell.job()
        monkeypatch.setenv("METALEARN_DATA", str(shell.folder / "data"))
        shell("bench", "bench.yaml")
        assert shell.calls[0][3]["data_root"] == shell.folder / "data"

    def test_the_default_data_root_is_made(self, shell):
        assert find_data_root(None) == shell.folder / ".cache" / "metalearn"
        assert find_data_root(None).is_dir()

    def test_the_report_goes_to_stdout_unless_quiet(self, shell):
        shell.job(lambda config, run: run.write_text("report.md", "| the report |"))
        assert shell("bench", "bench.yaml").out == "| the report |\n"
        outcome = shell("bench", "bench.yaml", "--quiet", "--out", "q")
        assert (outcome.out, outcome.err) == ("", "")

    def test_a_complete_run_is_shown_and_not_done_again(self, shell):
        def work(config, run):
            run.write_text("report.md", "| the report |")
            run.finish({})

        shell.job(work)
        shell("bench", "bench.yaml")
        outcome = shell("bench", "bench.yaml")
        assert len(shell.calls) == 1
        assert outcome.out == "| the report |\n"
        assert "runs/bench is complete already" in outcome.err

    def test_quickstart(self, shell, monkeypatch):
        shell.job(module="metalearn.jobs", name="quickstart")
        monkeypatch.setattr(
            sys.modules["metalearn.jobs"], "quickstart", lambda *call: shell.calls.append(call), raising=False
        )
        assert shell("quickstart", "--out", "q", "--device", "cpu", "--quiet").status == 0
        assert [tuple(map(str, call)) for call in shell.calls] == [("q", "cpu", "True")]

    @pytest.mark.parametrize(("command", "arguments"), [("list", []), ("prepare", ["glyphs"]), ("check", ["glyphs"])])
    def test_data(self, shell, monkeypatch, command, arguments):
        made = {name: lambda *call, name=name: f"{name} {len(call)}" for name in ("overview", "prepare", "check")}
        for name, job in made.items():
            monkeypatch.setattr(data, name, job)
        outcome = shell("data", command, *arguments, "--data-root", "data")
        assert outcome.out == ("overview 1\n" if command == "list" else f"{command} 4\n")

    @pytest.mark.parametrize("command", ["prepare", "check"])
    def test_options_of_a_dataset(self, shell, monkeypatch, command):
        monkeypatch.setattr(data, command, lambda *call: f"{call[0]} {call[3]}")
        outcome = shell("data", command, "glyphs", "--set", "image_size=64", "--set", "source=x", "--data-root", "data")
        assert outcome.out == "glyphs {'image_size': 64, 'source': 'x'}\n"

    def test_data_prepare_makes_the_data_root(self, shell, monkeypatch):
        monkeypatch.setattr(data, "prepare", lambda *call: "done")
        assert shell("data", "prepare", "glyphs", "--data-root", "new").status == 0
        assert (shell.folder / "new").is_dir()


class TestResume:
    def test_goes_on_with_the_recorded_command_config_and_data(self, shell):
        shell.job()
        shell("bench", "bench.yaml", "--data-root", "data", "--set", "episodes.count=9", "--out", "r")
        (shell.folder / "bench.yaml").unlink()
        outcome = shell("resume", "r")
        assert outcome.status == 0, outcome
        (_, first, _, given), (_, again, run, options) = shell.calls
        assert again == first
        assert options == given
        assert run.started_before

    def test_not_a_run(self, shell):
        assert "data holds no run (no resolved.yaml and environment.json)" in shell.refused("resume", "data")


class TestEnds:
    def test_an_interrupt_says_how_to_go_on(self, shell):
        def work(config, run):
            raise KeyboardInterrupt

        shell.job(work)
        outcome = shell("bench", "bench.yaml")
        assert outcome.status == 130
        assert outcome.err == "\ninterrupted; go on by: metalearn resume runs/bench\n"

    def test_a_full_disk_names_the_file_and_how_to_go_on(self, shell):
        def work(config, run):
            raise OSError(errno.ENOSPC, "No space left on device", "runs/bench/checkpoints/state.pt")

        shell.job(work)
        assert shell.refused("bench", "bench.yaml") == (
            "error: disk full while writing runs/bench/checkpoints/state.pt; the previous checkpoint is safe; "
            "free space, go on by: metalearn resume runs/bench\n"
        )

    def test_a_full_disk_behind_another_error(self, shell):
        def work(config, run):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (as torch.save does)

        shell.job(work)
        assert "error: disk full while writing runs/bench; the previous" in shell.refused("bench", "bench.yaml")

    def test_a_folder_that_may_not_be_written(self, shell):
        def work(config, run):
            raise PermissionError(errno.EACCES, "Permission denied", "locked/x")

        shell.job(work)
        assert shell.refused("bench", "bench.yaml") == "error: locked/x: Permission denied\n"

    def test_memory_of_the_device(self, shell):
        def work(config, run):
            raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried\nmore")

        shell.job(work)
        assert "out of device memory (CUDA out of memory. Tried); give a smaller batch_size" in shell.refused(
            "bench", "bench.yaml"
        )

    def test_a_bug_is_not_dressed_up(self, shell):
        def work(config, run):
            raise ZeroDivisionError

        shell.job(work)
        with pytest.raises(ZeroDivisionError):
            shell("bench", "bench.yaml")

    def test_debug_shows_the_traceback_and_keeps_the_status(self, shell):
        outcome = shell("bench", "none.yaml", "--debug")
        assert outcome.status == 2
        assert "Traceback" in outcome.err
        assert "error: config none.yaml does not exist" in outcome.err

    def test_a_failed_run_gives_its_directory_free(self, shell):
        shell.job(lambda config, run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            shell("bench", "bench.yaml")
        shell.job()
        assert shell("bench", "bench.yaml").status == 0


class TestList:
    @pytest.mark.parametrize("kinds", KINDS)
    def test_every_entry_has_a_description(self, kinds):
        head, *lines = listing(kinds).splitlines()
        assert head == kinds
        for line in lines:
            assert len(line.split()) > 3, line

    def test_all(self, shell):
        out = shell("list").out
        assert [line for line in out.splitlines() if line and not line.startswith(" ")] == KINDS

    def test_an_entry_that_is_only_named_is_described_without_import(self):
        assert summary("antigravity:fly") == ""
        assert summary("json.decoder:JSONDecoder") == "Simple JSON <https://json.org> decoder"
        assert "antigravity" not in sys.modules

    def test_unknown(self, shell):
        assert "unknown list 'learner'; did you mean 'learners'?" in shell.refused("list", "learner")


def test_report_prints_a_merged_table(shell):
    from test_report import cell

    for name in ("a", "b"):
        with open_run(shell.folder / name, "bench", BenchConfig.model_construct(), quiet=True) as run:
            cells = [cell(), cell(f"vae_{name}", 0.6)]
            for one in cells:
                run.write_cell(one)
            run.write_report(build_report(cells, "pixels"))
            run.finish({})
    assert shell("report", "a", "b").out.count("vae_b") == 2
    assert shell("report", "a", "--format", "csv").out.startswith("dataset,split,ways,")
    assert "unknown format 'pdf'" in shell.refused("report", "a", "--format", "pdf")
    assert "unknown baseline 'vae'" in shell.refused("report", "a", "--baseline", "vae")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_device_without_a_gpu(monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device(device) == "cpu"


def test_auto_takes_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
