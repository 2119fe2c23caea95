"""Every YAML in configs/: it loads, its kinds exist and build, it round-trips, and its header says how to run it."""

import re
from pathlib import Path

import pytest

from metalearn.config import check, dump, load_config, parse
from metalearn.kinds import resolve
from metalearn.schema import CONFIGS

ROOT = Path(__file__).parents[1] / "configs"
FILES = sorted(ROOT.rglob("*.yaml"))


def command_of(path: Path) -> str:
    """The command named in the header: ``metalearn COMMAND configs/...``."""
    found = re.search(rf"metalearn (\w+) configs/{path.relative_to(ROOT)}", path.read_text())
    assert found, f"{path}: its header does not say how to run it"
    return found[1]


def test_there_are_configs() -> None:
    assert {path.parent.name for path in FILES} >= {"quick", "bench", "pretrain", "learners"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_loads_resolves_and_round_trips(path: Path) -> None:
    model = CONFIGS[command_of(path)]
    config = resolve(load_config(path, model))
    assert check(parse(dump(config), "dump"), model, "dump") == config
    assert resolve(config) == config  # what resolved.yaml says is final


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_header_says_what_to_expect_and_how_long_it_takes(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(r"\d+ (s|min)", header), f"{path}: no time in its header"
