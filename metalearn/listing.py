"""What can be named in a config: the tables of kinds with a line on each."""

import ast
import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metalearn.errors import UserError, unknown
from metalearn.kinds import TABLES, table_of

KINDS = [f"{what}s" for what in TABLES]


def listing(kinds: str | None = None) -> str:
    """Text of the table `kinds` ("learners"), or of all: a name and its description a line. Raises `UserError`."""
    if kinds is not None and kinds not in KINDS:
        raise UserError(unknown("list", kinds, KINDS))
    chosen = KINDS if kinds is None else [kinds]
    return "\n\n".join("\n".join([name, *_lines(name.removesuffix("s"))]) for name in chosen)


def _lines(what: str) -> Iterator[str]:
    table = table_of(what)
    width = max((len(name) for name in table), default=0)
    for name, entry in table.items():
        yield f"  {name:{width}}  {summary(entry)}".rstrip()


def summary(entry: Callable[..., Any] | str) -> str:
    """First line of the docstring of a table's entry; one that is only named (``module:attribute``) is not imported."""
    if isinstance(entry, str):
        return _first_line(_docstring(*entry.split(":")))
    if isinstance(entry, functools.partial):
        bound = ", ".join(f"{name}={value!r}" for name, value in entry.keywords.items())
        return f"{summary(entry.func)} With {bound}."
    return _first_line(inspect.getdoc(entry) or "")


def _docstring(module: str, attribute: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return f"({module} cannot be found)"
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return ast.get_docstring(node) or ""
    return ""


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
