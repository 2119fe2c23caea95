"""From ``kind: name`` and options to a constructor: its signature is the schema of the options.

`TABLES` says where the tables of names are; nothing registers itself.
"""

import functools
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from gvae.outside import gives, refusal
from metalearn.errors import UserError, unknown
from metalearn.problems import explain
from metalearn.schema import Kind

Model = TypeVar("Model", bound=BaseModel)


class Choice(NamedTuple):
    """A resolved `Kind`: the constructor, its options with defaults filled in, and the kind that says all that."""

    build: Callable[..., Any]
    options: dict[str, Any]
    kind: Kind


class Table(NamedTuple):
    """Where a table of kinds is (``module:ATTRIBUTE``) and which parameters the program supplies itself."""

    path: str
    skip: frozenset[str]


TABLES = {
    "dataset": Table("tasks.datasets:DATASETS", frozenset({"root", "cache", "report"})),
    "objective": Table(
        "gvae.objectives:OBJECTIVES",
        frozenset({"image_shape", "classes", "dataset_size", "seed", "trunk", "latents"}),
    ),
    "extractor": Table("metalearn.extractor_table:EXTRACTORS", frozenset({"image_shape", "seed", "model"})),
    "regularizer": Table("gvae.regularizers:REGULARIZERS", frozenset()),
    "part": Table("gvae.objectives:PARTS", frozenset()),
    "learner": Table("metalearn.learners:LEARNERS", frozenset({"extractor", "ways", "seed"})),
    "metric": Table("gvae.metrics:METRICS", frozenset({"codes", "generator"})),
}

MAKES = {
    "dataset": "tasks.splits:Dataset",
    "objective": "gvae.objective:VAEObjective",
    "extractor": "torch.nn:Module",
    "network": "torch.nn:Module",
    "regularizer": "gvae.regularizers:Regularizer",
    "part": "gvae.part:Part",
    "learner": "metalearn.learners.base:Learner",
    "metric": "gvae.metrics:Result",
}
"""What code from outside the tables has to say that it makes."""

NESTED = {"objective": "objective", "regularizer": "regularizer", "parts": "part"}
"""Options that are kinds themselves, or lists of them, and which."""


def load_attribute(path: str) -> Any:
    """Object at ``package.module:Name``. Raises `UserError` naming what is not there."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{path!r}: cannot import {module_name!r}: {error}; is its folder on PYTHONPATH?") from None
    try:
        return getattr(module, name)
    except AttributeError:
        own = [word for word, item in vars(module).items() if getattr(item, "__module__", None) == module_name]
        raise UserError(f"{path!r}: {unknown('name', name, own)}") from None


def load_outside(what: str, path: str) -> Callable[..., Any]:
    """The same for code that a config names to make a `what`. `UserError` too where it does not say that it does."""
    found = load_attribute(path)
    if what in MAKES and not gives(found, load_attribute(MAKES[what])):
        raise UserError(f"{what} {refusal(path, MAKES[what].replace(':', '.'))}")
    return found


def table_of(what: str) -> Mapping[str, Any]:
    """Table of the kinds of `what`: one of `TABLES`."""
    module, _, name = TABLES[what].path.partition(":")
    return getattr(importlib.import_module(module), name)


def find(what: str, name: str, table: Mapping[str, Any]) -> Callable[..., Any]:
    """Constructor that `name` stands for: an entry of `table` or ``package.module:Class``. Raises `UserError`."""
    if ":" in name:
        return load_outside(what, name)
    if name not in table:
        raise UserError(unknown(what, name, table) + "; or package.module:Class")
    entry = table[name]
    return load_attribute(entry) if isinstance(entry, str) else entry


def check_kind(what: str, kind: Kind, table: Mapping[str, Any], skip: Collection[str] = ()) -> Choice:
    """Resolve `kind` in `table`; check its options by the constructor's signature; fill in the defaults.

    `table` maps names to callables or ``module:attribute`` strings; parameters named in `skip` are supplied
    by the program and are no options. Raises `UserError` for unknown kinds and options (with the closest
    name), wrong types and missing options; `what` ("learner", or a config key) leads the message.
    """
    build = find(what, kind.kind, table)
    options = check_options(build, kind.options, skip, f"{what} {kind.kind!r}")
    return Choice(build, options, Kind(kind=kind.kind, **{name: _plain(value) for name, value in options.items()}))


def check_options(
    build: Callable[..., Any], options: Mapping[str, Any], skip: Collection[str] = (), source: str = ""
) -> dict[str, Any]:
    """Options of `build` with its defaults filled in. Raises `UserError`, led by `source`, as `check_kind` does."""
    schema = options_schema(build, skip)
    try:
        filled = schema.model_validate_json(json.dumps(options, default=str))
    except ValidationError as error:
        raise UserError(explain(error, schema, source)) from None
    return {name: value for name, value in filled if _is_plain(value)}


def resolve(config: Model) -> Model:
    """`config` with every kind in it checked and its defaults filled in: what resolved.yaml says.

    Imports what the kinds name. Raises `UserError` led by the key of the kind at fault.
    """
    changed: dict[str, Any] = {}
    for name, value in config:
        what = name.removesuffix("s")
        if isinstance(value, Kind):
            changed[name] = _resolved(name, what, value)
        elif isinstance(value, dict) and what in TABLES:
            changed[name] = {key: _resolved(f"{name}.{key}", what, item) for key, item in value.items()}
        elif isinstance(value, list) and what in TABLES:
            changed[name] = [_resolved(f"{name}.{place}", what, item) for place, item in enumerate(value)]
    return config.model_copy(update=changed)


def _resolved(key: str, what: str, kind: Kind) -> Kind:
    """`kind` with defaults, and the same for what in its options is a kind (an extractor's objective) or a warp."""
    try:
        choice = check_kind(what, kind, table_of(what), TABLES[what].skip)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    filled = choice.kind.options
    inner = {
        name: _resolved_option(f"{key}.{name}", name, value)
        for name, value in filled.items()
        if value is not None and (name in NESTED or name == "warp") and _takes_mappings(choice.build, name)
    }
    return Kind(kind=choice.kind.kind, **{**filled, **inner})


def _resolved_option(key: str, name: str, value: Any) -> Any:
    if name == "warp":
        from metalearn.augmentation import filled_in  # it imports this module

        try:
            return filled_in(value)
        except ValueError as error:
            raise UserError(f"{key}: {error}") from None
    if isinstance(value, list):
        return [_resolved_option(f"{key}.{number}", name, item) for number, item in enumerate(value)]
    return _resolved(key, NESTED[name], Kind.model_validate(value)).model_dump(mode="json")


def _takes_mappings(build: Callable[..., Any], name: str) -> bool:
    """Whether option `name` of `build` can hold a mapping or a `Kind`; else it is a plain choice of the same name."""
    return "dict" in str(annotation := _types(build).get(name, Any)) or annotation is Kind


def options_schema(build: Callable[..., Any], skip: Collection[str] = ()) -> type[BaseModel]:
    """Pydantic model of the keyword options of `build`: its named parameters less `skip`, types where stated."""
    parameters = inspect.signature(build).parameters.values()
    types = _types(build)
    fields: dict[str, Any] = {}
    free = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            free = True
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY) and parameter.name not in skip:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (_checkable(types.get(parameter.name, Any)), default)
    settings = ConfigDict(
        extra="allow" if free else "forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    return create_model("Options", __config__=settings, **fields)


def _types(build: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(build, functools.partial):
        build = build.func
    function = build.__init__ if inspect.isclass(build) else build
    try:
        return typing.get_type_hints(function)
    except Exception:  # names that exist only for the type checker: the constructor itself will judge the values
        return {}


def _checkable(annotation: Any) -> Any:
    """`annotation` if a YAML value can be checked against it, else Any."""
    try:
        TypeAdapter(annotation).json_schema()
    except Exception:  # pydantic raises many kinds; a class of one's own, say, is for the constructor to judge
        return Any
    return annotation


def _is_plain(value: Any) -> bool:
    """Whether `value` can stand in resolved.yaml: no objects but settings."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | Path | BaseModel)


def _plain(value: Any) -> Any:
    """`value` as YAML holds it: lists for tuples, text for paths, mappings for settings."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
