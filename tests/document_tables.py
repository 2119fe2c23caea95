"""How each command and example of the documents is tried: what stands for its placeholders, which settings make it
small, what must be there before, and which commands are not run, with the reason. test_documents.py does the rest.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from documents import ROOT, Block, Command, Desk, blocks
from tiny_images import png

from metalearn.config import to_yaml
from metalearn.schema import CONFIGS

PLACEHOLDERS = {"FOLDER": "{omniglot}", "NAME": "glyphs", "[--set ...]": "--set classes=60"}
"""What stands for a word in capitals; ``{omniglot}`` is a folder with the real images (METALEARN_DATA)."""

SHORT = ["pretraining.training.epochs=1", "pretraining.monitor=null"]
BATCHES = "pretraining.training.batch_size=256"
EMBEDDED = ["dataset={kind: glyphs, classes: 125}", "pretraining.training.epochs=1", BATCHES]
FEW_EPISODES = [*EMBEDDED, "episodes.count=20", "seeds=[0]"]
META = [*EMBEDDED, "training.ways=5", "training.iterations=2", "training.eval_episodes=2", "episodes.count=10"]
SMALLER = {
    "configs/bench/omniglot_guidance.yaml": FEW_EPISODES,
    "configs/bench/omniglot_guidance_parts.yaml": FEW_EPISODES,
    "configs/bench/glyphs_guidance.yaml": FEW_EPISODES,
    "configs/bench/mini_imagenet_guidance.yaml": [
        *FEW_EPISODES, "extractors={pixels: pixels, vae: {kind: pretrain, objective: vae}}",
    ],
    "configs/bench/mini_imagenet_any_vae.yaml": FEW_EPISODES,
    "configs/learners/mini_imagenet_prototypical.yaml": META,
    "configs/bench/omniglot_cost.yaml": FEW_EPISODES,
    "configs/bench/omniglot_labels.yaml": FEW_EPISODES,
    "configs/bench/omniglot_labels_conv4.yaml": FEW_EPISODES,
    "configs/bench/omniglot_no_labels.yaml": FEW_EPISODES,
    "configs/bench/omniglot_no_labels_conv4.yaml": FEW_EPISODES,
    "configs/learners/omniglot_prototypical.yaml": META,
    "configs/learners/omniglot_prototypical_guided.yaml": META,
    "configs/learners/omniglot_prototypical_warped.yaml": META,
    "configs/learners/omniglot_prototypical_mirrored.yaml": META,
    "configs/learners/omniglot_one_shot_prototypical.yaml": [
        "training.ways=5", "training.queries=2", "training.iterations=2", "training.eval_episodes=2",
    ],
    "configs/bench/omniglot_one_shot_meta_trained.yaml": ["extractors.views=pixels"],
    "configs/bench/omniglot_meta_trained.yaml": [EMBEDDED[0], "episodes.count=20"],
    "configs/bench/omniglot.yaml": [*SHORT, BATCHES, "extractors.guided=random", "episodes.count=20", "seeds=[0]"],
    "configs/bench/omniglot_one_shot_labels.yaml": [
        *SHORT, BATCHES, "dataset.rotations=false", "dataset.image_size=28", "pretraining.model.trunk=conv",
    ],
    "configs/bench/omniglot_one_shot.yaml": [*SHORT, BATCHES],
    "configs/quick/glyphs.yaml": [*SHORT, "dataset.classes=60", "episodes.count=20"],
    "quickstart": [*SHORT, "dataset.classes=60", "episodes.count=20"],
    "first.yaml": [*SHORT, "dataset.classes=60", "episodes.count=20", "seeds=[0]"],
    "encoder.yaml": ["dataset.classes=60", "training.epochs=1", "monitor=null"],
    "runs/encoder": ["repeats=2"],
    "combined.yaml": ["dataset.classes=60", "training.epochs=1", "monitor=null"],
    "runs/combined": ["repeats=2"],
    "features.yaml": ["dataset.classes=60"],
    "readme.yaml": [*SHORT, "dataset={kind: glyphs, classes: 125}", "episodes.count=20", "seeds=[0]"],
    "adding.yaml": [*SHORT, "episodes.count=20"],
    "adding_train.yaml": ["training.iterations=2", "training.eval_episodes=2", "episodes.count=10"],
    "swap.yaml": [],
    "protonet.yaml": [],
    "heads.yaml": [],
    "views.yaml": [],
    "train.yaml": [],
    "folder.yaml": [],
    "csv.yaml": [],
    "vae0.yaml": [],
    "one_shot.yaml": [],
}
"""Settings that make a config cheap enough for a test, appended by --set; none where it is run as documented."""

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


NOT_RUN: dict[str, tuple[str, Callable[[Command], None]]] = {
    r"make \w+": ("installs; tests/test_install.py and .ci run it", a_target),
    r"pip install 'metalearn\[\w+\]'": ("installs", an_extra),
    r"apt-get install ": ("installs", nothing),
    r"source \.venv/bin/activate": ("is for a shell", nothing),
    r"tensorboard --logdir": ("a server that does not end", a_board),
    r"torchrun ": ("several processes or machines; tests/test_torchrun.py and test_meta_torchrun.py", only_its_options),
    r"(METALEARN_DATA=\S+ )?ray (start|stop|status)\b": ("makes a cluster of machines", nothing),
    r"metalearn data check omniglot": ("looks at 32,460 images; the page on data checks glyphs", only_its_options),
    r"metalearn .*--ray": ("needs a Ray cluster; the tests of --ray make one", only_its_options),
    r"metalearn .*dataset\.kind=omniglot-runs$": ("the official runs are not among the test data", only_its_options),
    r"python benchmarks/disentanglement\.py": ("trains 18 encoders or more", its_help),
    r"python benchmarks/one_shot_hausdorff\.py": ("tests/test_one_shot_hausdorff.py tests it", its_help),
    r"python benchmarks/scores_against_error\.py": ("tests/test_scores_against_error.py runs it", its_help),
    r"python scripts/screenshots\.py": ("needs a browser; tests/test_screenshots.py", its_help),
}
"""Pattern of the commands that no test runs -> the reason, and what is checked of them instead."""


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


# from the pages to what is run


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
        f"{command.where}: `{command.text}` is in no table of tests/document_tables.py. If a test cannot run it, add a "
        "pattern, the reason and what is checked instead to NOT_RUN"
    )
    if words[0] == "metalearn" and words[1] in ("quickstart", *CONFIGS):
        of = words[1] if words[1] == "quickstart" else words[2]
        assert of in SMALLER, (
            f"{command.where}: `{command.text}` would be run at its full budget. Name {of} in SMALLER of "
            "tests/document_tables.py, with settings that make it take seconds, or none if it does already"
        )
        words += [word for setting in SMALLER[of] if of != "quickstart" for word in ("--set", setting)]
    return words
