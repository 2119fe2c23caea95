"""Whether a run directory holds the run that a command would start: the same command with the same config."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from metalearn import config as yaml_config
from metalearn.errors import UserError

DIFFERENCES_SHOWN = 3


def check_same(path: Path, there: str, command: str, config: BaseModel) -> None:
    """Raise `UserError` unless the run in `path`, of the command `there`, is of `command` and `config`."""
    if there != command:
        raise UserError(f"{path} holds a run of `metalearn {there}`, not of {command}; give another --out")
    old = _flat(yaml_config.read_mapping(path / "resolved.yaml"))
    new = _flat(config.model_dump(mode="json"))
    keys = [key for key in {**old, **new} if old.get(key, "not set") != new.get(key, "not set")]
    if keys:
        shown = [f"{key} ({old.get(key, 'not set')} there, {new.get(key, 'not set')} here)" for key in keys]
        more = f" and {len(keys) - DIFFERENCES_SHOWN} more" if len(keys) > DIFFERENCES_SHOWN else ""
        differences = ", ".join(shown[:DIFFERENCES_SHOWN]) + more
        raise UserError(f"{path} holds a different run: {differences}; give another --out or the same config")


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as ``{dotted key: value}``; an empty one is a value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    flat = {key: value for name, item in items for key, value in _flat(item, f"{prefix}{name}.").items()}
    return flat or {prefix.removesuffix("."): data}
