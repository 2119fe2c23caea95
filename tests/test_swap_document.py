"""docs/swap-an-extractor.md: its files written as they stand, its commands run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "swap-an-extractor.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swap")
    (code,), configs, commands = blocks("python"), blocks("yaml"), blocks("bash")
    assert len(configs) == 2 and len(commands) == 3
    (folder / "my_net.py").write_text(code)
    for name, config in zip(("swap.yaml", "train.yaml"), configs, strict=True):
        (folder / name).write_text(config)
    here = f'PYTHONPATH="$PYTHONPATH:{ROOT}" {sys.executable}'
    script = f'set -e\npython() {{ {here} "$@"; }}\nmetalearn() {{ {here} -m metalearn "$@"; }}\n' + "".join(commands)
    environment = {**os.environ, "METALEARN_CACHE": str(folder / "cache"), "METALEARN_DATA": str(folder)}
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


def rows(folder: Path, run: str) -> dict[str, dict[str, object]]:
    report = json.loads((folder / "runs" / run / "report.json").read_text())
    return {row["extractor"]: row for row in report["rows"]}


def test_the_benchmark_says_what_was_swapped(folder: Path) -> None:
    found = rows(folder, "swap")
    assert {name: row["labels_used"] for name, row in found.items()} == {
        "pixels": "none", "mine": "none", "trained": "external", "layer": "external", "squeezenet": "none"
    }  # fmt: skip
    said = {name: str(row["extractor_settings"]) for name, row in found.items()}
    assert said["pixels"] == "" and said["mine"].startswith("network my_net:Net; weights drawn by the seed; images")
    assert "weights my_net.pt (sha256 " in said["layer"] and said["layer"].endswith("layer 2, pool mean; 16 wide")
    assert "repeated to 3 channels, resized to 32x32" in said["squeezenet"]
    assert found["mine"]["extractor_seeds"] == [0] and found["trained"]["extractor_seeds"] == []


def test_the_fine_tuned_one_stays_external(folder: Path) -> None:
    (row,) = rows(folder, "train").values()
    assert (row["mode"], row["labels_used"], row["extractor"]) == ("finetuned", "external", "network")


def test_every_option_in_its_table_is_one_of_the_kinds(folder: Path) -> None:
    from metalearn.kinds import TABLES, find, options_schema, table_of

    build = find("extractor", "network", table_of("extractor"))
    known = set(options_schema(build, TABLES["extractor"].skip).model_fields) - {"network", "options"}
    told = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT.partition("| option |")[2].partition("\n\n")[0], re.MULTILINE)
    assert {name for line in told for name in re.findall(r"\w+", line)} == known
