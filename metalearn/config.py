"""YAML in, checked settings out; the only module that knows YAML.

A config is read as plain data, overridden by ``--set a.b=c``, then checked by a pydantic model of
:mod:`metalearn.schema`; whatever is wrong comes back as one `UserError` that names every key at fault.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from metalearn.errors import UserError
from metalearn.problems import explain

Config = TypeVar("Config", bound=BaseModel)

_FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the floats of YAML 1.2 (``1e-3``) and without silently repeated keys."""

    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if tag != _FLOAT_TAG]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else str(key.start_mark)
            if name in seen and name != "<<":
                raise UserError(f"duplicate key {name!r} on line {key.start_mark.line + 1}; keep one of them")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))


def parse(text: str, source: str) -> Any:
    """Plain data of YAML `text`. Raises `UserError` with `source` and the line for syntax and repeated keys."""
    try:
        return yaml.load(text, Loader=_Loader)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{source}{where}: not valid YAML: {problem}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Mapping in the YAML file `path`. Raises `UserError` if it is absent, unreadable, empty or no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"config {path} does not exist; give the path of a YAML file, such as one in configs/"
        ) from None
    except IsADirectoryError:
        raise UserError(f"config {path} is a directory; give a YAML file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} cannot be read as text: {error}") from None
    data = parse(text, str(path))
    if data is None:
        raise UserError(f"config {path} is empty; it must hold a mapping of keys, such as `dataset: {{kind: glyphs}}`")
    if not isinstance(data, dict):
        raise UserError(f"config {path} holds a {type(data).__name__}; allowed: a mapping of keys to values")
    return data


def override(data: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Copy of `data` with every ``path=value`` of `assignments` set; values are YAML, list items are numbers.

    A path that no setting has is left for the check by the model, which names the closest one.
    Raises `UserError` for text without ``=`` and for a path that runs through a value.
    """
    result = _copy(data)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {assignment!r}: allowed: path=value, such as training.epochs=3")
        _assign(result, keys, parse(text, f"--set {assignment!r}"), assignment)
    return result


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _assign(data: dict[str, Any], keys: list[str], value: Any, assignment: str) -> None:
    parent: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(parent, list):
            if not key.isdigit() or int(key) >= len(parent):
                allowed = f"0 to {len(parent) - 1}" if parent else "none, the list is empty"
                raise UserError(
                    f"--set {assignment!r}: {'.'.join(keys[:depth])} has no item {key!r}; allowed: {allowed}"
                )
            place: Any = int(key)
        else:
            place = key
        if last:
            parent[place] = value
            return
        child = parent[place] if isinstance(parent, list) else parent.get(place)
        if isinstance(child, str):  # `dataset: glyphs` is short for `dataset: {kind: glyphs}`
            child = {"kind": child}
        elif child is None:
            child = {}
        elif not isinstance(child, dict | list):
            raise UserError(f"--set {assignment!r}: {'.'.join(keys[: depth + 1])} is {child!r}, which has no keys")
        parent[place] = child
        parent = child


def check(data: Mapping[str, Any], model: type[Config], source: str) -> Config:
    """Settings in `data` as a `model`. Raises one `UserError` that lists every key at fault."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise UserError(explain(error, model, source)) from None


def load_config(path: Path, model: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read the YAML file `path`, apply `overrides` (``a.b=c``), check by `model`. Raises `UserError`."""
    source = str(path) + (f" with --set {' '.join(overrides)}" if overrides else "")
    return check(override(read_mapping(path), overrides), model, source)


def dump(config: BaseModel) -> str:
    """YAML text of every setting of `config`, defaults included; loads back to an equal config."""
    return to_yaml(config.model_dump(mode="json"))


def to_yaml(data: Any) -> str:
    """YAML text of plain data, keys in their order. `parse` gives the same data back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=False)


class _Dumper(yaml.SafeDumper):
    """Safe dumper whose scalars `_Loader` reads back as they were: the text ``1e-3`` is quoted."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True
