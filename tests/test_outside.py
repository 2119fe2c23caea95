"""Datasets and objectives of one's own, named ``package.module:Name``; docs/adding.md is run by test_documents."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from gvae.errors import ModelError
from gvae.recorder import Recorder
from metalearn import cache
from metalearn.__main__ import main
from metalearn.cache import outside_code
from metalearn.data import build_dataset, check, prepare
from metalearn.encoders import build_objective, encoder_key
from metalearn.errors import UserError
from metalearn.kinds import MAKES, check_kind, resolve
from metalearn.measure import score
from metalearn.schema import BenchConfig, Kind, MeasureConfig, ModelConfig, TrainingConfig
from tasks.datasets import glyphs
from tasks.progress import silent

DATA = """
from tasks.datasets import glyphs
from tasks.splits import Dataset

told = []


def plain(*, classes: int = 10) -> Dataset:
    "Without root and report."
    return glyphs(classes=classes)


def given(root, report, *, classes: int = 10) -> Dataset:
    "With both."
    told.append((root, report))
    return glyphs(classes=classes)


def words() -> Dataset:
    return "no dataset"
"""
OBJECTIVE = """
from gvae.objective import VAEObjective
from gvae.part import Part
from gvae.regularizers import KL


class Zero(Part):
    def __init__(self, *, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def loss(self, batch, seen):
        return self.weight * seen.z.sum() * 0, {}


def whole(image_shape, classes, dataset_size, seed, trunk, latents, *, beta: float = 1.0) -> VAEObjective:
    return VAEObjective(image_shape, classes, dataset_size, seed, trunk, latents, regularizer=KL(beta=beta))


def short(*, beta: float = 1.0) -> VAEObjective:
    return None


def nothing(image_shape, classes, dataset_size, seed, trunk, latents) -> VAEObjective:
    return None
"""
MODEL = ModelConfig(latents=4)
numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of a new name where it can be imported, and gives the name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str, name: str = "") -> str:
        name = name or f"outside_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_a_dataset_is_given_what_its_signature_names(module, tmp_path):
    name = module(DATA)
    plain = build_dataset(Kind(kind=f"{name}:plain", classes=15), tmp_path)
    assert plain.train.fingerprint == glyphs(classes=15).train.fingerprint
    assert plain.settings == {"kind": f"{name}:plain", "classes": 15}
    build_dataset(Kind(kind=f"{name}:given"), tmp_path, silent)
    assert sys.modules[name].told == [(tmp_path, silent)]


def test_the_data_commands_take_it_too(module, tmp_path):
    name = module(DATA)
    assert prepare(f"{name}:plain", tmp_path, silent).startswith("glyphs/random: 10 classes, 200 images of (1, 28, 28)")
    said = check(f"{name}:plain", tmp_path, silent, {"classes": 15})
    assert "train     9 classes x 20 images" in said and "no image in two parts" in said


def test_what_is_no_dataset_or_has_no_such_option_is_said(module, tmp_path):
    name = module(DATA)
    with pytest.raises(UserError, match=r"dataset '.*:words' gives a str; allowed: a function that returns a tasks"):
        build_dataset(Kind(kind=f"{name}:words"), tmp_path)
    with pytest.raises(UserError, match="clases.*did you mean 'classes'"):
        build_dataset(Kind(kind=f"{name}:plain", clases=3), tmp_path)
    with pytest.raises(UserError, match="unknown name 'plan'; did you mean 'plain'"):
        prepare(f"{name}:plan", tmp_path, silent)
    with pytest.raises(UserError, match="cannot import 'no_such_module'.*is its folder on PYTHONPATH"):
        build_dataset(Kind(kind="no_such_module:plain"), tmp_path)
    with pytest.raises(UserError, match="unknown dataset 'glyph'; did you mean 'glyphs'.*; or package.module:function"):
        check("glyph", tmp_path, silent)


def test_an_objective_is_built_and_its_options_are_checked(module):
    name, data = module(OBJECTIVE), glyphs(classes=10)
    built = build_objective(data, Kind(kind=f"{name}:whole", beta=2.0), MODEL, 0)
    assert built.regularizer.beta == 2.0 and built.vae.latents == 4
    with pytest.raises(UserError, match="bta.*did you mean 'beta'"):
        build_objective(data, Kind(kind=f"{name}:whole", bta=2.0), MODEL, 0)
    with pytest.raises(UserError, match=r"objective '.*:short' cannot be called: .*; allowed: image_shape, classes"):
        build_objective(data, Kind(kind=f"{name}:short"), MODEL, 0)
    with pytest.raises(UserError, match=r"objective '.*:nothing' gives a NoneType; allowed: a gvae.objective.VAEObjec"):
        build_objective(data, Kind(kind=f"{name}:nothing"), MODEL, 0)


def test_a_part_of_ones_own_gets_its_defaults_in_resolved_settings(module):
    name = module(OBJECTIVE)
    objective = {"kind": "guided", "parts": [{"kind": f"{name}:Zero"}, "geometry"]}
    config = BenchConfig.model_validate({
        "dataset": "glyphs", "extractors": {"one": {"kind": "pretrain", "objective": objective}},
        "learners": {"near": "prototypical"}, "episodes": {"settings": ["5w1s"]},
    })  # fmt: skip
    parts = resolve(config).extractors["one"].options["objective"]["parts"]
    assert parts[0] == {"kind": f"{name}:Zero", "weight": 1.0} and parts[1]["kind"] == "geometry"


@pytest.mark.parametrize(
    "objective", ["edited:whole", {"kind": "guided", "parts": ["geometry", {"kind": "edited:Zero"}]}]
)
def test_an_edit_of_an_objective_is_another_encoder(module, objective):
    data = glyphs(classes=10)

    def key(text: str) -> str:
        module(text, "edited")
        cache._read.cache_clear()  # a process reads a file once
        return encoder_key(data, Kind.model_validate(objective), MODEL, TrainingConfig(), 0, "cpu")

    assert key(OBJECTIVE) == key(OBJECTIVE) != key(OBJECTIVE + "\n# edited\n")


def test_code_is_only_that_of_kinds_from_outside(module):
    name = module(OBJECTIVE)
    assert outside_code({"kind": "vae", "note": f"{name}:whole"}) == {}
    assert list(outside_code({"kind": "x", "parts": [{"kind": f"{name}:Zero"}, "geometry"]})) == [f"{name}:Zero"]


def test_a_metric_of_ones_own_is_scored(module):
    name = module("""
from gvae.metrics import Result


def largest(codes, generator, *, scale: float = 1.0) -> Result:
    return Result({"largest": scale * float(codes.values.max())}, "all images")
""")
    settings = {"checkpoint": "x", "dataset": "glyphs", "metrics": [{"kind": f"{name}:largest", "scale": 2.0}]}
    codes, factors = np.array([[1.0], [3.0]]), {"shift": np.array([0.0, 1.0])}
    scores, matrices = score(codes, factors, MeasureConfig.model_validate(settings), Recorder())
    assert [(one.name, one.mean) for one in scores] == [("largest", 6.0)] and matrices == {}


@pytest.mark.parametrize("kind", ["os:system", "outside:harm", "outside:Harm", "outside:Wrong", "outside:nothing"])
@pytest.mark.parametrize("what", sorted({*MAKES} - {"network"}))
def test_code_that_does_not_say_what_it_makes_is_not_called(what, kind, module, tmp_path, monkeypatch):
    """A config may come from elsewhere: `os:system` with an option `command` is a command."""
    monkeypatch.chdir(tmp_path)
    module("""
from pathlib import Path


def harm(command):
    Path("proof").mkdir()


class Harm:
    def __init__(self, command):
        Path("proof").mkdir()


def Wrong(command) -> str:
    Path("proof").mkdir()


def nothing(command) -> "NoSuchName":
    Path("proof").mkdir()
""", "outside")
    with pytest.raises(UserError, match=f"{what} '{kind}' is not called, .* makes a .*; allowed"):
        check_kind(what, Kind(kind=kind, command="mkdir proof"), {})
    assert not (tmp_path / "proof").exists()


def test_nor_is_it_within_other_kinds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harm = {"kind": "os:system", "command": "mkdir proof"}
    with pytest.raises(ModelError, match="parts.0: 'os:system' is not called.*gvae.part.Part"):
        build_objective(glyphs(classes=10), Kind(kind="guided", parts=[harm]), MODEL, 0)
    with pytest.raises(ModelError, match="regularizer: 'os:system' is not called.*Regularizer"):
        build_objective(glyphs(classes=10), Kind(kind="guided", regularizer=harm, parts=[]), MODEL, 0)
    (tmp_path / "harm.yaml").write_text(
        "dataset: {kind: glyphs, classes: 60}\n"
        "extractors: {x: {kind: network, network: 'os:system', options: {command: mkdir proof}}}\n"
        "learners: {near: prototypical}\nepisodes: {settings: [5w1s], count: 2}\nbaseline: x\n"
    )
    monkeypatch.setattr(sys, "argv", ["metalearn", "bench", "harm.yaml", "--out", "run", "--data-root", "."])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and not (tmp_path / "proof").exists()
