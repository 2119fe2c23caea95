"""What the documents say can be run: their fenced blocks, commands and files; and a folder in which to run a page."""

import contextlib
import glob
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from metalearn.cli import main

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
PROGRAMS = ("metalearn", "python", "torchrun", "make", "pip", "tensorboard", "source", "git", "apt-get", "ray")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block; `before`: the last line with text above it."""

    page: str
    line: int
    language: str
    text: str
    before: str

    @property
    def file(self) -> str | None:
        """Name of the file that it is, by the last such name in backquotes in the line before."""
        names = re.findall(r"`([\w./-]+\.(?:py|yaml|txt|csv))`", self.before)
        return names[-1] if names else None

    @property
    def commands(self) -> list["Command"]:
        """Its commands, if every line of it is one."""
        if self.language not in ("", "bash", "sh", "console"):
            return []
        found = []
        for number, line in enumerate(self.text.replace("\\\n", "  ").splitlines(), self.line + 1):
            words = shlex.split(line, comments=True)
            if words:
                found.append(Command(self.page, number, line.strip(), words))
        return found if all(one.program in PROGRAMS for one in found) else []


class Command(NamedTuple):
    """A line of a block, in words, without its comment."""

    page: str
    line: int
    text: str
    words: list[str]

    @property
    def environment(self) -> dict[str, str]:
        """Assignments in front of it."""
        given = (word.partition("=") for word in self.words[: len(self.words) - len(self.called)])
        return {name: value for name, _, value in given}

    @property
    def called(self) -> list[str]:
        """Program and arguments."""
        start = next((k for k, word in enumerate(self.words) if not re.match(r"[A-Z_]+=", word)), len(self.words))
        return self.words[start:]

    @property
    def program(self) -> str:
        """Name of the program, without the folder of an environment."""
        return self.called[0].removeprefix(".venv/bin/") if self.called else ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        above = [line for line in text[: match.start()].splitlines() if line.strip()]
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page, line, match[2], match[3], above[-1] if above else ""))
    return found


def inline(page: str) -> list[str]:
    """All text between single backquotes, fenced blocks left out."""
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


class Desk:
    """A folder in which the commands of one page are run, one after the other, most of them in this process."""

    def __init__(self, folder: Path, cache: Path):
        self.folder, self.cache = folder, cache
        folder.mkdir()
        for name in ("configs", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)

    def run(self, words: Sequence[str], environment: Mapping[str, str] = {}) -> Outcome:
        """Run a command: `metalearn` here, `python` as itself."""
        with self.entered(environment):
            words = [found for word in words for found in (sorted(glob.glob(word)) or [word])]
            if words[0] == "metalearn":
                return self.metalearn(words)
            assert words[0] == "python", words
            paths = os.pathsep.join([*environment.get("PYTHONPATH", "").split(os.pathsep), str(ROOT)])
            given = {**os.environ, "PYTHONPATH": paths}
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, env=given)
            return Outcome(done.returncode, done.stdout, done.stderr)

    def metalearn(self, words: Sequence[str]) -> Outcome:
        """What the console script does."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", list(words))
            try:
                main()
                status = 0
            except SystemExit as stop:
                status = int(stop.code or 0)
        return Outcome(status, out.getvalue(), err.getvalue())

    @contextlib.contextmanager
    def entered(self, environment: Mapping[str, str]) -> Iterator[None]:
        """Inside, this is the present folder, with home, cache and path of its own; what it imports goes again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.delenv("METALEARN_DATA", raising=False)
            patch.setenv("HOME", str(self.cache / "home"))
            patch.setenv("METALEARN_CACHE", str(self.cache))
            for name, value in environment.items():
                patch.setenv(name, value)
            for path in reversed(environment.get("PYTHONPATH", "").split(os.pathsep)):
                if path:
                    patch.syspath_prepend(str((self.folder / path).resolve()))
            try:
                yield
            finally:
                self.forget()

    def forget(self) -> None:
        """Take out of this process the modules that lie in the folder."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(f"{self.folder}{os.sep}"):
                del sys.modules[name]

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")

