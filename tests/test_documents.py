"""Every command and example in README.md and docs/ is run as it stands, or is named here with the reason why not.

Whoever adds a command to a page meets this file: `test_every_block_is_accounted_for` and `test_command` say what to do.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from documents import PAGES, ROOT, Block, Command, Desk, Outcome, blocks, inline
from tiny_images import png

from metalearn import quick
from metalearn.config import dump, load_config, parse, to_yaml
from metalearn.kinds import TABLES, find, options_schema, table_of
from metalearn.learners import LEARNERS
from metalearn.record import read_metrics
from metalearn.schema import CONFIGS
from tasks.datasets import DATASETS

PLACEHOLDERS = {"FOLDER": "{omniglot}", "NAME": "glyphs", "[--set ...]": "--set classes=60"}
"""What stands for a word in capitals; ``{omniglot}`` is a folder with the real images (METALEARN_DATA)."""

SHORT = ["pretraining.training.epochs=1", "pretraining.monitor=null"]
BATCHES = "pretraining.training.batch_size=256"
SMALLER = {
    "configs/bench/omniglot.yaml": [*SHORT, BATCHES, "extractors.guided=random", "episodes.count=20", "seeds=[0]"],
    "configs/bench/omniglot_one_shot.yaml": [*SHORT, BATCHES],
    "quickstart": [*SHORT, "dataset.classes=60", "episodes.count=20"],
    "first.yaml": [*SHORT, "dataset.classes=60", "episodes.count=20", "seeds=[0]"],
    "encoder.yaml": ["dataset.classes=60", "training.epochs=1", "monitor=null"],
    "runs/encoder": ["repeats=2"],
    "features.yaml": ["dataset.classes=60"],
    "readme.yaml": [*SHORT, "dataset={kind: glyphs, classes: 125}", "episodes.count=20", "seeds=[0]"],
    "adding.yaml": [*SHORT, "episodes.count=20"],
    "adding_train.yaml": ["training.iterations=2", "training.eval_episodes=2", "episodes.count=10"],
    "swap.yaml": [],
    "train.yaml": [],
    "folder.yaml": [],
    "csv.yaml": [],
    "vae0.yaml": [],
    "one_shot.yaml": [],
}
"""Settings that make a config cheap enough for a test, appended by --set; none where it is run as documented."""

NOT_RUN: dict[str, tuple[str, "Callable[[Command], None]"]] = {}
"""Pattern of the commands that no test runs -> the reason, and what is checked of them instead; filled below."""

NO_COMMANDS = {("README.md", "gvae/       networks")}
"""Blocks without a language that hold no commands: page, and how they begin."""


class Example(NamedTuple):
    """A YAML block that is no file by itself: the file it is made, what is put beside it, and a command for that."""

    file: str
    beside: dict[str, Any]
    command: str


FEW = {"extractors": {"pixels": "pixels"}, "learners": {"near": "prototypical"}}
TWO_WAYS = {**FEW, "episodes": {"settings": ["2w1s"], "queries": 1, "count": 4}}
FIVE_WAYS = {"episodes": {"settings": ["5w1s"], "queries": 5, "count": 10}}
GLYPHS = {"dataset": {"kind": "glyphs", "classes": 60}}
EXAMPLES = {
    "README.md": [Example("readme.yaml", {}, "PYTHONPATH=. metalearn bench readme.yaml --out runs/readme")],
    "docs/data.md": [
        Example("folder.yaml", TWO_WAYS, "metalearn bench folder.yaml --data-root ."),
        Example("csv.yaml", TWO_WAYS, "metalearn bench csv.yaml --data-root ."),
    ],
    "docs/reports.md": [Example("vae0.yaml", {**GLYPHS, **FEW, **FIVE_WAYS}, "metalearn bench vae0.yaml --out runs/c")],
    "docs/one-shot-runs.md": [
        Example("one_shot.yaml", {"dataset": "omniglot-runs-generated", **FEW},
                "metalearn bench one_shot.yaml --data-root FOLDER"),
    ],
}  # fmt: skip
"""The YAML blocks of a page that name no file, in their order."""


# what must be there before the commands of a page

SHORTEST = {"epochs": 1, "batch_size": 64}
ENCODER = {**GLYPHS, "model": {"latents": 4}, "objective": "vae", "training": SHORTEST, "monitor": None}
NETWORK = """
from torch import nn


class Encoder(nn.Sequential):
    def __init__(self, width: int):
        super().__init__(nn.Flatten(), nn.Linear(784, width))
"""


def done(desk: Desk, command: str) -> None:
    outcome = desk.run(shlex.split(command))
    assert outcome.status == 0, outcome


def own_encoder_and_network(desk: Desk) -> None:
    data = {"kind": "glyphs", "classes": 125}
    desk.write({"your_package/networks.py": NETWORK, "mine.yaml": to_yaml({**ENCODER, "dataset": data})})
    done(desk, "metalearn pretrain mine.yaml --out runs/mine")


def birds(desk: Desk) -> None:
    draw, lines = np.random.default_rng(0), ["picture,species"]
    for species in (f"species{number}" for number in range(10)):
        for number in range(3):
            place = desk.folder / "birds" / species / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(png(draw.integers(0, 256, (8, 8, 3)).astype(np.uint8)))
            lines.append(f"{species}/{number}.png,{species}")
    desk.write({"birds/birds.csv": "\n".join(lines)})


def reported_runs(desk: Desk) -> None:
    desk.write({"encoder.yaml": to_yaml(ENCODER)})
    names = [f"vae{seed}" for seed in range(3)]
    for seed, name in enumerate(names):
        done(desk, f"metalearn pretrain encoder.yaml --out runs/{name} --seed {seed}")
        done(desk, f"metalearn measure runs/{name} --set 'metrics=[sap]' --set repeats=2")
    measured = {name: {"kind": "checkpoint", "path": f"runs/{name}"} for name in names}
    both = {"pixels": "pixels", "vae": measured["vae0"]}
    desk.write({
        "a.yaml": to_yaml({**GLYPHS, **FEW, **FIVE_WAYS, "extractors": {**measured, **both}}),
        "b.yaml": to_yaml({**GLYPHS, **FEW, **FIVE_WAYS, "extractors": {"random": "random", **both}}),
    })  # fmt: skip
    done(desk, "metalearn bench a.yaml --out runs/a")
    done(desk, "metalearn bench b.yaml --out runs/b")


SAME_RUNS = {"docs/results.md": "README.md"}
"""Pages that go on in the folder of another, as they have its command."""
BEFORE = {"README.md": own_encoder_and_network, "docs/data.md": birds, "docs/reports.md": reported_runs}


# what is checked of commands that are not run


def only_its_options(command: Command) -> None:
    """Every option behind `metalearn` is one of the command's; what is before it is another program's."""
    words = command.called[command.called.index("metalearn") + 1 :]
    if command.program == "torchrun":
        from torch.distributed.run import get_args_parser

        get_args_parser().parse_args(command.called[1 : command.called.index("-m")] + ["x"])
    options_exist(words, command.where)


def a_target(command: Command) -> None:
    assert re.search(rf"^{command.called[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


def an_extra(command: Command) -> None:
    (name,) = re.findall(r"metalearn\[(\w+)\]", command.text)
    assert re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), command


def its_help(command: Command) -> None:
    """It starts, and knows the options that are given."""
    words = [sys.executable, ROOT / command.called[1], "--help"]
    said = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert said.returncode == 0, said
    assert all(word in said.stdout for word in command.called if word.startswith("--")), said


def a_board(command: Command) -> None:
    from tensorboard import program

    program.TensorBoard().configure(argv=command.called)


def nothing(command: Command) -> None:
    """Nothing can be checked here."""


NOT_RUN |= {
    r"make \w+": ("installs; tests/test_install.py and .ci run it", a_target),
    r"pip install 'metalearn\[\w+\]'": ("installs", an_extra),
    r"apt-get install ": ("installs", nothing),
    r"source \.venv/bin/activate": ("is for a shell", nothing),
    r"tensorboard --logdir": ("a server that does not end", a_board),
    r"torchrun ": ("several processes or machines; tests/test_torchrun.py and test_meta_torchrun.py", only_its_options),
    r"ray (start|stop|status)\b": ("makes a cluster of machines", nothing),
    r"metalearn data check omniglot": ("looks at 32,460 images; the page on data checks glyphs", only_its_options),
    r"metalearn .*--ray": ("needs a Ray cluster; the tests of --ray make one", only_its_options),
    r"metalearn .*dataset\.kind=omniglot-runs$": ("the official runs are not among the test data", only_its_options),
    r"python benchmarks/disentanglement\.py": ("trains 18 encoders or more", its_help),
    r"python scripts/screenshots\.py": ("needs a browser; tests/test_screenshots.py", its_help),
}


def options_exist(words: list[str], where: str) -> None:
    """The words after `metalearn` name a command, and options that it has."""
    import typer

    from metalearn.cli import app

    at: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and (more := getattr(at, "commands", {}).get(rest[0])):
        at, rest = more, rest[1:]
    assert not hasattr(at, "commands") or not rest or rest[0].startswith("-"), f"{where}: no command {rest[0]!r}"
    known = {option for parameter in at.params for option in parameter.opts} | {"--help"}
    asked = {word.partition("=")[0] for word in rest if re.match(r"--\w", word)}
    assert asked <= known, f"{where}: metalearn {at.name} has no {sorted(asked - known)}; it has {sorted(known)}"


# the pages, run


def commands_of(page: str) -> list[Command]:
    """All commands of a page, and those that try its YAML blocks without a name."""
    extra = [Command(page, 0, one.command, shlex.split(one.command)) for one in EXAMPLES.get(page, [])]
    return [*(command for block in blocks(page) for command in block.commands), *extra]


def unnamed(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("yaml", "python") and block.file is None]


def why_not_run(command: Command) -> str | None:
    """The pattern in `NOT_RUN` that a command fits."""
    return next((one for one in NOT_RUN if re.match(one, command.text.removeprefix(".venv/bin/"))), None)


def made_small(command: Command) -> list[str]:
    """The words to run: placeholders filled in, smaller settings appended. Fails for what is in no table."""
    text = " ".join(shlex.quote(word) for word in command.called)
    for placeholder, given in PLACEHOLDERS.items():
        quoted = " ".join(map(shlex.quote, placeholder.split())) if " " in placeholder else placeholder
        text = re.sub(rf"(?<![\w-]){re.escape(quoted)}(?!\w)", lambda _, given=given: given, text)
    words = shlex.split(text)
    words[0] = command.program
    left = [word for word in words if re.fullmatch(r"[A-Z_]{2,}(\.\.\.)?|\[.*", word)]
    assert not left, f"{command.where}: {left[0]} stands for something; say for what in PLACEHOLDERS"
    assert words[0] in ("metalearn", "python"), (
        f"{command.where}: `{command.text}` is in no table of tests/test_documents.py. If a test cannot run it, add a "
        "pattern, the reason and what is checked instead to NOT_RUN"
    )
    if words[0] == "metalearn" and words[1] in ("quickstart", *CONFIGS):
        of = words[1] if words[1] == "quickstart" else words[2]
        assert of in SMALLER, (
            f"{command.where}: `{command.text}` would be run at its full budget. Name {of} in SMALLER of "
            "tests/test_documents.py, with settings that make it take seconds, or none if it does already"
        )
        words += [word for setting in SMALLER[of] if of != "quickstart" for word in ("--set", setting)]
    return words


class Pages:
    """Runs the commands of a page in their order, each once, when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path):
        self.request, self.folder = request, folder
        self.desks: dict[str, Desk] = {}
        self.outcomes: dict[str, list[Outcome | pytest.skip.Exception]] = {}

    def desk(self, page: str) -> Desk:
        """The folder of a page, with its files and what must be there before."""
        page = SAME_RUNS.get(page, page)
        if page not in self.desks:
            desk = Desk(self.folder / page.replace("/", "_"), self.folder / "cache")
            desk.write({block.file: block.text for block in blocks(page) if block.file})
            for block, example in zip(unnamed(page), EXAMPLES.get(page, []), strict=True):
                desk.write({example.file: to_yaml({**example.beside, **parse(block.text, page)})})
            BEFORE.get(page, lambda desk: None)(desk)
            self.desks[page] = desk
        return self.desks[page]

    def outcome(self, page: str, index: int) -> Outcome:
        """What came of a command. Skips where it needs data that is not there."""
        known = self.outcomes.setdefault(page, [])
        for command in commands_of(page)[len(known) : index + 1]:
            known.append(self.carried_out(command))
        found = known[index]
        if isinstance(found, pytest.skip.Exception):
            raise found
        return found

    def ran(self, page: str) -> Path:
        """The folder of a page after all its commands."""
        for index, command in enumerate(commands_of(page)):
            assert self.outcome(page, index).status == 0, command.where
        return self.desk(page).folder

    def carried_out(self, command: Command) -> Outcome | pytest.skip.Exception:
        if pattern := why_not_run(command):
            NOT_RUN[pattern][1](command)
            return Outcome(0, "", "")
        words = made_small(command)
        if "{omniglot}" in words:
            try:
                real = str(self.request.getfixturevalue("omniglot_root"))
            except pytest.skip.Exception as missing:
                return missing
            words = [real if word == "{omniglot}" else word for word in words]
        return self.desk(command.page).run(words, command.environment)


@pytest.fixture(scope="module")
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "quick.yaml").write_text(dump(load_config(quick.CONFIG, CONFIGS["bench"], SMALLER["quickstart"])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "CONFIG", folder / "quick.yaml")  # quickstart has no --set
        yield Pages(request, folder)


ALL = [(page, index, command) for page in PAGES for index, command in enumerate(commands_of(page))]


@pytest.mark.parametrize(("page", "index", "command"), ALL, ids=[f"{one.where} {one.text[:50]}" for *_, one in ALL])
def test_command(page: str, index: int, command: Command, pages: Pages) -> None:
    outcome = pages.outcome(page, index)
    assert outcome.status == 0 and "Traceback" not in outcome.err, f"{command.where}: {command.text}\n{outcome.err}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_accounted_for(page: str) -> None:
    files = [block.file for block in blocks(page) if block.file]
    assert len(set(files)) == len(files), f"{page}: two blocks are the same file; give them names of their own"
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.language in ("yaml", "python"):
            assert block.file or block.language == "yaml", f"{where}: name the file above the block, as in `name.py`:"
        elif not block.commands:
            assert (page, block.text[:20].splitlines()[0].rstrip()) in NO_COMMANDS, (
                f"{where}: not every line is a command of a known program; write one command a line, begin output and "
                "drawings in NO_COMMANDS of tests/test_documents.py, or add the program to PROGRAMS of documents.py"
            )
    assert len(unnamed(page)) == len(EXAMPLES.get(page, [])), (
        f"{page} has {len(unnamed(page))} YAML blocks without the name of a file above; say in EXAMPLES how to try each"
    )


def test_no_entry_of_a_table_is_left_over() -> None:
    """What is named here is still in the documents."""
    run = [command for *_, command in ALL if not why_not_run(command)]
    called = {word for command in run for word in command.called}
    assert set(SMALLER) <= called
    assert {word for name in PLACEHOLDERS for word in name.split()} <= called
    assert {*EXAMPLES, *BEFORE} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_a_text_have_these_options(page: str) -> None:
    for text in inline(page):
        if text.startswith("metalearn "):
            options_exist(shlex.split(text)[1:], f"{page}: `{text}`")
        elif text.startswith("python "):
            assert (ROOT / text.split()[1]).is_file(), f"{page}: `{text}`"


def headings(file: Path) -> set[str]:
    """Headings of a page as links name them."""
    found = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES)
def test_what_it_points_to_is_there(page: str) -> None:
    """Files that are linked or named, headings that are linked, and tests that are named."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, heading = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), f"{page} links {target}"
        assert not heading or heading in headings(file), f"{page} links {target}, whose headings are {headings(file)}"
    for path in re.findall(r"`((?:tests|docs|configs|benchmarks|metalearn|gvae|tasks|scripts)/[\w./-]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page} names {path}"
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for name in {*re.findall(r"`(test_\w+)(?:\.py)?`", text)} - {"test_dataset"}:  # a variable of learn2learn's
        assert f"def {name}(" in tests or (ROOT / "tests" / f"{name}.py").is_file(), f"{page} names {name}"


def named(page: str, before: str) -> dict[str, str]:
    """Names in backquotes that begin the lines of a page's tables, as far as ``before`` -> the rest of the line."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(before)[0]
    lines = re.findall(r"^\| (`[^|]+`) \|(.*)\|$", text, re.MULTILINE)
    return {name: rest for names, rest in lines for name in re.findall(r"`([^`]+)`", names)}


def test_the_table_of_datasets_is_that_of_the_program() -> None:
    told = named("docs/data.md", "## Forms that are read")
    assert set(told) == set(DATASETS)
    for name, rest in told.items():
        known = options_schema(DATASETS[name], TABLES["dataset"].skip).model_fields
        assert set(re.findall(r"`(\w+)`", rest.split("|")[1])) <= set(known), name


def test_the_tables_of_learners_are_those_of_the_program() -> None:
    assert set(named("docs/learners.md", "## What meta-training shows")) == set(LEARNERS)


class TestWhatIsNew:
    """A command or block that no table has is met with words that say what to do."""

    def command(self, text: str) -> Command:
        return Command("docs/new.md", 7, text, shlex.split(text))

    def test_another_program(self) -> None:
        assert why_not_run(self.command("curl -O file")) is None
        with pytest.raises(AssertionError, match="docs/new.md:7: `curl -O file` is in no table .* to NOT_RUN"):
            made_small(self.command("curl -O file"))

    def test_another_config(self) -> None:
        with pytest.raises(AssertionError, match=r"docs/new.md:7: .* full budget. Name new.yaml in SMALLER .* seconds"):
            made_small(self.command("metalearn bench new.yaml"))

    def test_another_placeholder(self) -> None:
        with pytest.raises(AssertionError, match="docs/new.md:7: PLACE stands for something; say for what in PLACE"):
            made_small(self.command("metalearn data list --data-root PLACE"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [("metalearn bench x --jbos 2", r"metalearn bench has no \['--jbos'\]; it has .*--jobs"),
         ("torchrun --nproc-per-node 2 -m metalearn train x --ways 5", r"metalearn train has no \['--ways'\]"),
         ("metalearn bnech x", "no command 'bnech'"), ("metalearn data lst", "no command 'lst'")],
    )  # fmt: skip
    def test_an_option_that_does_not_exist(self, text: str, words: str) -> None:
        with pytest.raises(AssertionError, match=f"docs/new.md:7: {words}"):
            only_its_options(self.command(text))

    def test_a_block_of_something_else_has_no_commands(self) -> None:
        assert not Block("docs/new.md", 7, "", "metalearn list\nextractors: pixels\n", "").commands
        (command,) = Block("docs/new.md", 7, "bash", "A=1 metalearn list \\\n  metrics  # all\n", "").commands
        assert (command.called, command.environment) == (["metalearn", "list", "metrics"], {"A": "1"})

    def test_what_a_command_imports_from_its_folder_goes_again(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path / "desk", tmp_path / "cache")
        desk.write({"one.py": "def kind():\n    return 3\n"})
        words = ["metalearn", "data", "check", "one:kind"]
        assert "gives a int" in desk.run(words, {"PYTHONPATH": "."}).err and "one" not in sys.modules
        assert "is its folder on PYTHONPATH?" in desk.run(words).err


# what the pages say of what comes out


def rows(run: Path) -> dict[str, dict[str, Any]]:
    """The first row of each extractor in a run's report."""
    found = json.loads((run / "report.json").read_text())["rows"]
    return {row["extractor"]: row for row in reversed(found)}


class TestSwapAnExtractor:
    PAGE = "docs/swap-an-extractor.md"

    def test_the_benchmark_says_what_was_swapped(self, pages: Pages) -> None:
        found = rows(pages.ran(self.PAGE) / "runs/swap")
        assert {name: row["labels_used"] for name, row in found.items()} == {
            "pixels": "none", "mine": "none", "trained": "external", "layer": "external", "squeezenet": "none"
        }  # fmt: skip
        said = {name: str(row["extractor_settings"]) for name, row in found.items()}
        assert said["pixels"] == "" and said["mine"].startswith("network my_net:Net; weights drawn by the seed; images")
        assert "weights my_net.pt (sha256 " in said["layer"] and said["layer"].endswith("layer 2, pool mean; 16 wide")
        assert "repeated to 3 channels, resized to 32x32" in said["squeezenet"]
        assert found["mine"]["extractor_seeds"] == [0] and found["trained"]["extractor_seeds"] == []

    def test_the_fine_tuned_one_stays_external(self, pages: Pages) -> None:
        (row,) = rows(pages.ran(self.PAGE) / "runs/train").values()
        assert (row["mode"], row["labels_used"], row["extractor"]) == ("finetuned", "external", "network")

    def test_every_option_in_its_table_is_one_of_the_kinds(self) -> None:
        build = find("extractor", "network", table_of("extractor"))
        known = set(options_schema(build, TABLES["extractor"].skip).model_fields) - {"network", "options"}
        text = (ROOT / self.PAGE).read_text(encoding="utf-8").partition("| option |")[2].partition("\n\n")[0]
        told = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
        assert {name for line in told for name in re.findall(r"\w+", line)} == known


class TestAdding:
    PAGE = "docs/adding.md"

    def test_the_benchmark_has_every_addition(self, pages: Pages) -> None:
        run = pages.ran(self.PAGE) / "runs/adding"
        found = json.loads((run / "report.json").read_text())
        assert {row["dataset"] for row in found["rows"]} == {"stripes/random"}
        assert {row["learner"] for row in found["rows"]} == {"prototypical", "median"}
        assert {(row["extractor"], row["labels_used"]) for row in found["rows"]} == {
            ("vae", "none"), ("sparse", "none"), ("sparse_tc", "none")
        }  # fmt: skip
        assert all(row["accuracy"] > 0.3 for row in found["rows"])
        told = [name for row in read_metrics(run / "metrics.jsonl") for name in row if name.endswith("sparse")]
        assert told, "the term of the part is not recorded"

    def test_the_learner_is_meta_trained(self, pages: Pages) -> None:
        (row,) = rows(pages.ran(self.PAGE) / "runs/adding_train").values()
        assert (row["learner"], row["mode"], row["labels_used"]) == ("my_learner:Median", "end_to_end", "class")


class TestGettingStarted:
    PAGE = "docs/getting-started.md"

    def test_the_quickstart_says_what_was_found(self, pages: Pages) -> None:
        index = next(i for i, one in enumerate(commands_of(self.PAGE)) if one.called[:2] == ["metalearn", "quickstart"])
        said = pages.outcome(self.PAGE, index).out
        assert re.search(r"guided, ridge, 5-way 1-shot: (fewer errors|more errors|undecided) than vae", said), said

    def test_features_for_other_programs(self, pages: Pages) -> None:
        with np.load(pages.ran(self.PAGE) / "runs/features/features-test.npz") as found:
            assert found["features"].shape == (240, 32) and found["labels"].shape == (240,)
            assert len(found["class_names"]) == 12

    def test_another_baseline(self, pages: Pages) -> None:
        index = next(i for i, one in enumerate(commands_of(self.PAGE)) if "--baseline pixels" in one.text)
        assert "Compared with pixels" in pages.outcome(self.PAGE, index).out

    def test_every_message_is_one_that_is_said(self, pages: Pages) -> None:
        """Some are provoked; the words of the others are in the source."""
        desk = pages.desk(self.PAGE)
        pages.ran(self.PAGE)
        mistakes = [
            "metalearn bench first.yaml --set extractors.vae=pixel",
            "metalearn bench first.yaml --set extractors.vae=my_net:Net",
            "metalearn bench first.yaml --data-root nowhere",
            "metalearn bench first.yaml --out runs/first --set episodes.count=7",
        ]
        said = "".join(desk.run(shlex.split(command)).err for command in mistakes)
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "metalearn").glob("*.py"))
        table = (ROOT / self.PAGE).read_text(encoding="utf-8").partition("| message |")[2]
        messages = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        assert len(messages) > 5
        for message in messages:
            for words in re.findall(r"`([^`]+)`", message):
                assert words in said or words in source, f"nothing says {words!r}"


def test_measured_encoders_are_drawn_against_their_error(pages: Pages) -> None:
    plots = pages.ran("docs/reports.md") / "plots"
    assert list(plots.glob("scores-*.png")) and list(plots.glob("difference-*.svg"))
