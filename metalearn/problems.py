"""What pydantic found wrong, in words a user can act on: the key, what was given, what is allowed."""

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from metalearn.errors import unknown

_LIMIT = 10


def explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """All problems of `error` as one text: ``source: key: given ...; allowed: ...``, one a line if several.

    An empty `source` is left out: who asked says where.
    """
    lead = f"{source}: " if source else ""
    lines = [describe(dict(item), model) for item in error.errors(include_url=False)]
    if len(lines) == 1:
        return lead + lines[0]
    more = [f"... and {len(lines) - _LIMIT} more"] if len(lines) > _LIMIT else []
    return "\n  ".join([f"{lead}{len(lines)} problems", *lines[:_LIMIT], *more])


def describe(item: dict[str, Any], model: type[BaseModel]) -> str:
    """One problem of pydantic's ``errors()`` in words: ``training.epochs: given 'x' (text); allowed: ...``."""
    location = item["loc"]
    key = dotted(location)
    where = f"{key}: " if key else ""
    context = item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            names = _names_at(model, location[:-1])
            parent = dotted(location[:-1])
            return f"{parent}: " * bool(parent) + unknown("key", location[-1], names)
        case "missing":
            return f"{where}missing; it has no default and must be given"
        case "literal_error":
            allowed = [name.strip(" '") for name in context["expected"].replace(" or ", ", ").split(",")]
            return where + unknown("value", item["input"], allowed)
        case "value_error":
            return where + str(context["error"])
        case "model_type" | "dict_type":
            return f"{where}given {shown(item['input'])}; allowed: a mapping of keys to values"
    return f"{where}given {shown(item['input'])}; allowed: {_allowed(item)}"


def _allowed(item: dict[str, Any]) -> str:
    """What pydantic would have taken, in a config's words."""
    text = item["msg"].replace("Input should be ", "")
    if item["type"] == "too_short":
        return f"at least {item['ctx']['min_length']} of them"
    if item["type"] == "too_long":
        return f"at most {item['ctx']['max_length']} of them"
    return {"a valid array": "a list", "a valid list": "a list", "a valid string": "text"}.get(text, text)


def dotted(location: tuple[int | str, ...]) -> str:
    """``('a', 0, 'b')`` as ``a.0.b``, the spelling that ``--set`` takes."""
    return ".".join(str(part) for part in location if part != "[key]")


def shown(value: object) -> str:
    """Value and its type in a config's words: ``'3' (text)``, ``True (true or false)``, ``2.5 (number)``."""
    kinds = {
        str: "text",
        bool: "true or false",
        int: "integer",
        float: "number",
        list: "list",
        dict: "mapping",
    }
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kinds.get(type(value), type(value).__name__)})"


def _names_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the keys allowed at `location` inside `model`."""
    annotation: Any = model
    for part in location:
        annotation = _inner(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[str(part)].annotation
        else:  # a list's item or a dict's value
            annotation = get_args(annotation)[-1]
    annotation = _inner(annotation)
    return list(annotation.model_fields)


def _inner(annotation: Any) -> Any:
    """``X`` of ``X | None``; other annotations as they are."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(choice for choice in get_args(annotation) if choice is not type(None))
    return annotation
