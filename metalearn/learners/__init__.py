"""Few-shot learners by name. A new one is one entry here, or ``package.module:Class`` in a config."""

import difflib
import importlib
import inspect
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from torch import nn

from metalearn.errors import UserError, unknown
from metalearn.learners.base import Classifier, FeatureLearner, Learner
from metalearn.learners.logistic import Logistic
from metalearn.learners.nearest_neighbour import NearestNeighbour
from metalearn.learners.prototypical import Prototypical
from metalearn.learners.ridge import Ridge

__all__ = [
    "LEARNERS",
    "Classifier",
    "FeatureLearner",
    "Learner",
    "learner_class",
    "learner_options",
    "make_learner",
]

LEARNERS: dict[str, type[Learner] | str] = {
    "prototypical": Prototypical,
    "nearest_neighbour": NearestNeighbour,
    "ridge": Ridge,
    "logistic": Logistic,
    "maml": "metalearn.gradient:MAML",  # by name: learn2learn is imported only when used
    "anil": "metalearn.gradient:ANIL",
}


def learner_class(kind: str) -> type[Learner]:
    """Class of a learner: a name of ``LEARNERS``, or ``package.module:Class`` for code that lives elsewhere.

    Raises UserError for an unknown name, a module that cannot be imported, or a class that is no Learner.
    """
    found = LEARNERS.get(kind, kind)
    if isinstance(found, str):
        if ":" not in found:
            raise UserError(unknown("learner", kind, LEARNERS) + ", or package.module:Class")
        module, _, name = found.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"learner {kind!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Learner)):
        raise UserError(f"learner {kind!r} is not a subclass of metalearn.learners.Learner")
    return found


def learner_options(kind: str) -> dict[str, inspect.Parameter]:
    """Options of a learner and their defaults: its constructor's parameters besides the extractor."""
    parameters = inspect.signature(learner_class(kind)).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: p for p in named if p.name != "extractor"}


def make_learner(kind: str, extractor: nn.Module | None = None, **options: object) -> Learner:
    """Build a learner on an extractor (None: the learner is given features).

    Raises UserError for an unknown kind, for an option its constructor does not have (naming the closest),
    for a missing one, and for a value of another type or one that it refuses.
    """
    found, allowed = learner_class(kind), learner_options(kind)
    for name in options:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f" did you mean {close[0]!r}?" if close else ""
            known = ", ".join(sorted(allowed)) or "none"
            raise UserError(f"learner {kind!r} has no option {name!r};{hint} allowed: {known}")
    for name, parameter in allowed.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"learner {kind!r} needs option {name!r}")
    values: dict[str, Any] = {name: _checked(kind, allowed[name], value) for name, value in options.items()}
    return found(extractor, **values)


def _checked(kind: str, option: inspect.Parameter, value: object) -> object:
    """The value, if it is what the annotation says; a whole number becomes a float where one is asked for."""
    wanted = option.annotation
    if get_origin(wanted) is Literal and value not in get_args(wanted):
        raise UserError(f"learner {kind!r}: " + unknown(option.name, value, map(str, get_args(wanted))))
    kinds = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    if set(kinds) <= {bool, int, float, str, NoneType} and type(value) not in kinds:
        names = " or ".join("None" if one is NoneType else one.__name__ for one in kinds)
        raise UserError(f"learner {kind!r}: {option.name}={value!r} is not of type {names}")
    return value
