"""What a user can get wrong on the command line: status 2, one message, its words, no traceback."""

import pytest
from command import BENCH, Shell


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    shell = Shell(tmp_path, monkeypatch, capsys)
    shell.job()
    return shell


def changed(shell: Shell, *assignments: str) -> str:
    """What bench.yaml with `assignments` is refused with; no run directory is left behind."""
    words = shell.refused("bench", "bench.yaml", *(word for text in assignments for word in ("--set", text)))
    assert not (shell.folder / "runs").exists()
    assert not shell.calls
    return words


def test_missing_config(shell):
    assert shell.refused("bench", "configs/none.yaml") == (
        "error: config configs/none.yaml does not exist; give the path of a YAML file, such as one in configs/\n"
    )


def test_empty_config(shell):
    (shell.folder / "bench.yaml").write_text("# nothing yet\n")
    assert "error: config bench.yaml is empty; it must hold a mapping of keys" in changed(shell)


def test_config_of_a_wrong_syntax(shell):
    (shell.folder / "bench.yaml").write_text(BENCH + "seeds: [0, 1\n")
    assert "error: bench.yaml, line 7: not valid YAML" in changed(shell)


def test_repeated_key(shell):
    (shell.folder / "bench.yaml").write_text(BENCH + "dataset: omniglot\n")
    assert "error: bench.yaml: duplicate key 'dataset' on line 6; keep one of them" in changed(shell)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("seed=3", "unknown key 'seed'; did you mean 'seeds'? allowed: baseline, dataset, episodes,"),
        ("pretraining.training.epoch=3", "pretraining.training: unknown key 'epoch'; did you mean 'epochs'?"),
        ("dataset.clases=3", "dataset: dataset 'glyphs': unknown key 'clases'; did you mean 'classes'? allowed:"),
        ("dataset.kind=omniglt", "dataset: unknown dataset 'omniglt'; did you mean 'omniglot'? allowed: cifar-fs, csv"),
        (
            "learners.proto.kind=protypical",
            "learners.proto: unknown learner 'protypical'; did you mean 'prototypical'?",
        ),
        ("extractors.random.kind=randm", "extractors.random: unknown extractor 'randm'; did you mean 'random'?"),
        ("extractors.random.kind=mine:Net", "extractors.random: 'mine:Net': cannot import 'mine'"),
        ("baseline=pixel", "unknown baseline 'pixel'; did you mean 'pixels'? allowed: pixels, random"),
        ("episodes.count='10'", "episodes.count: given '10' (text); allowed: a valid integer"),
        ("episodes.count=true", "episodes.count: given True (true or false); allowed: a valid integer"),
        ("dataset.classes=many", "dataset: dataset 'glyphs': classes: given 'many' (text); allowed: a valid integer"),
        ("episodes.queries=0", "episodes.queries: given 0 (integer); allowed: greater than 0"),
        ("pretraining.training.learning_rate=1e-3x", "given '1e-3x' (text); allowed: a valid number"),
        ("pretraining.training.precision=float16", "unknown value 'float16'; did you mean 'bfloat16'? allowed: auto,"),
    ],
)
def test_settings(shell, assignment, words):
    assert words in changed(shell, assignment)


def test_objective_inside_an_extractor(shell):
    words = changed(shell, "extractors.vae={kind: pretrain, objective: {kind: guided_vea}}")
    assert "extractors.vae.objective: unknown objective 'guided_vea'; did you mean 'guided_vae'?" in words
    words = changed(shell, "extractors.vae={kind: pretrain, objective: {kind: vae, betta: 2}}")
    assert "extractors.vae.objective: objective 'vae': unknown key 'betta'; did you mean 'beta'?" in words


def test_several_mistakes_are_told_at_once(shell):
    words = changed(shell, "seeds=3", "episodes.count=x")
    assert "2 problems\n" in words
    assert "seeds: given 3" in words
    assert "episodes.count: given 'x'" in words


@pytest.mark.parametrize("option", [["--data-root", "none"], []])
def test_data_root_absent(shell, monkeypatch, option):
    if not option:
        monkeypatch.setenv("METALEARN_DATA", "none")
    words = shell.refused("bench", "bench.yaml", *option)
    assert f"data root {shell.folder / 'none'} does not exist; give an existing folder by --data-root or" in words
    assert "metalearn data prepare NAME --data-root none" in words


def test_data_root_that_is_a_file(shell):
    assert "bench.yaml is not a folder" in shell.refused("bench", "bench.yaml", "--data-root", "bench.yaml")


def test_cuda_asked_for_and_absent(shell, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert shell.refused("bench", "bench.yaml", "--device", "cuda") == (
        "error: --device cuda: no CUDA device is available here; give --device auto or --device cpu\n"
    )


def test_unknown_device(shell):
    assert "unknown device 'gpu'; did you mean 'cpu'? allowed: auto, cpu, cuda" in shell.refused(
        "bench", "bench.yaml", "--device", "gpu"
    )


def test_output_directory_with_a_different_run(shell):
    assert shell("bench", "bench.yaml", "--out", "r").status == 0
    words = shell.refused("bench", "bench.yaml", "--out", "r", "--set", "episodes.count=11")
    assert words == (
        "error: r holds a different run: episodes.count (10 there, 11 here); give another --out or the same config\n"
    )


def test_output_directory_that_is_no_run(shell):
    assert "--out data is not empty and holds no run; give a new or empty directory" in (
        (shell.folder / "data" / "thesis").write_text("") or shell.refused("bench", "bench.yaml", "--out", "data")
    )


def test_output_directory_in_use(shell):
    words = []
    shell.job(lambda config, run: words.append(shell.refused("bench", "bench.yaml")))
    shell("bench", "bench.yaml")
    assert "runs/bench is in use by process" in words[0]


@pytest.mark.parametrize("package", ["tasks", "gvae", "metalearn"])
def test_errors_of_every_package_are_told_alike(shell, package):
    errors = {"tasks": "DataError", "gvae": "ModelError", "metalearn": "UserError"}
    error = getattr(__import__(f"{package}.errors", fromlist=["errors"]), errors[package])

    def work(config, run):
        raise error("loss is nan at step 3; give a smaller learning_rate")

    shell.job(work)
    assert shell.refused("bench", "bench.yaml") == "error: loss is nan at step 3; give a smaller learning_rate\n"
    assert not (shell.folder / "runs" / "bench" / "result.json").exists()
