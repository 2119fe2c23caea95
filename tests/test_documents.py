"""Every command and example in README.md and docs/ is run as it stands, or is named in document_tables.py with the
reason why not.

Whoever adds a command to a page meets this file: `test_every_block_is_accounted_for` and `test_command` say what to do.
"""

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from document_tables import (
    BEFORE,
    EXAMPLES,
    NO_COMMANDS,
    NOT_RUN,
    PLACEHOLDERS,
    SAME_RUNS,
    SMALLER,
    commands_of,
    made_small,
    only_its_options,
    options_exist,
    unnamed,
    why_not_run,
)
from documents import PAGES, ROOT, Block, Command, Desk, Outcome, blocks, inline

from metalearn import quick
from metalearn.config import dump, load_config, parse, to_yaml
from metalearn.kinds import TABLES, find, options_schema, table_of
from metalearn.learners import LEARNERS
from metalearn.record import read_metrics
from metalearn.schema import CONFIGS
from tasks.datasets import DATASETS


class Pages:
    """Runs the commands of a page in their order, each once, when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path):
        self.request, self.folder = request, folder
        self.desks: dict[str, Desk] = {}
        self.outcomes: dict[str, list[Outcome | pytest.skip.Exception]] = {}
        self.unmade: dict[tuple[str, str], pytest.skip.Exception] = {}

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
        """The folder of a page after all its commands but those whose data is not there."""
        for index, command in enumerate(commands_of(page)):
            with contextlib.suppress(pytest.skip.Exception):
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
                if "--out" in words:
                    self.unmade[command.page, words[words.index("--out") + 1]] = missing
                return missing
            words = [real if word == "{omniglot}" else word for word in words]
        for word in words:
            if (command.page, word) in self.unmade:  # a run of a command whose data is not there
                return self.unmade[command.page, word]
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
                "drawings in NO_COMMANDS of document_tables.py, or add the program to PROGRAMS of documents.py"
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
        assert "'one:kind' is not called" in desk.run(words, {"PYTHONPATH": "."}).err and "one" not in sys.modules
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

    def test_the_views_are_told(self, pages: Pages) -> None:
        found = rows(pages.ran(self.PAGE) / "runs/views")
        assert str(found["views"]["extractor_settings"]).startswith("mean over the image and 4 views of it (rotation 9")

    def test_the_fine_tuned_one_stays_external(self, pages: Pages) -> None:
        (row,) = rows(pages.ran(self.PAGE) / "runs/train").values()
        assert (row["mode"], row["labels_used"], row["extractor"]) == ("finetuned", "external", "network")

    def test_the_meta_trained_one_is_told(self, pages: Pages) -> None:
        found = rows(pages.ran(self.PAGE) / "runs/heads")
        assert found["after"]["extractor_settings"] == "encoder meta-trained by prototypical"
        assert (found["after"]["mode"], found["after"]["labels_used"]) == ("frozen", "class")

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
        verdict = "(fewer errors than|more errors than|undecided against)"
        assert re.search(rf"guided, ridge, 5-way 1-shot: {verdict} vae", said), said

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
