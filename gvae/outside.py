"""Code named as ``package.module:Name`` is called only where it says beforehand that it makes what is asked for."""

import functools
import inspect
import typing
from typing import Any


def gives(found: Any, wanted: type) -> bool:
    """Whether ``found`` is a class of ``wanted``, or a function whose annotation says that it returns one.

    So ``os:system`` or ``subprocess:Popen`` in a config is never called, whatever its options are.
    """
    while isinstance(found, functools.partial):
        found = found.func
    if not inspect.isclass(found):
        try:
            found = typing.get_type_hints(found).get("return")
        except Exception:  # names that are not there, or something that is not called at all
            return False
    return inspect.isclass(found) and issubclass(found, wanted)


def refusal(path: str, wanted: str) -> str:
    """What is wrong with code that does not say that it makes a ``wanted``, such as ``torch.nn.Module``."""
    name = wanted.rpartition(".")[2]
    return (
        f"{path!r} is not called, for it does not say that it makes a {wanted}; allowed: a subclass of that, or a "
        f"function annotated with it, `def ...(...) -> {name}:`"
    )
