"""Images and features of a batch of tasks, as a network's own code sees them: a tensor (tasks * each, ...).

Every torch function that meets one is looked up in a table (metalearn/batched/rules.py). What is not in it raises
`NoRule`: nothing is guessed. A rule works on every image alone, or knows which images are of one task.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Later = Callable[[bool], Tensor]
"""Computes a value when it is needed, with ReLU or without."""


class NoRule(Exception):
    """The network does something that the table has no rule for, or not with these arguments."""


class Tasks(Tensor):
    """Maps (tasks * each, c, h, w), channels last in memory, or features (tasks * each, d), of some tasks.

    ``run``: the `Run` they are in. ``source``: the `Layer` whose value this is. ``kept``: what is kept of images
    between passes.
    """

    run: Any
    source: Any
    kept: Any
    _value: Tensor | Later

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], run: Any, value: Tensor | Later, source: Any = None) -> "Tasks":
        """A value, or what computes it when it is needed."""
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=run.dtype, device=run.device)
        made.run, made._value, made.source, made.kept = run, value, source, None
        return made

    @property
    def computed(self) -> bool:
        """Whether the value is there."""
        return isinstance(self._value, Tensor)

    @property
    def plain(self) -> Tensor:
        """The value, an ordinary tensor of this shape."""
        if not isinstance(self._value, Tensor):
            self._value = self._value(False)
        return self._value

    def relu(self) -> "Tasks":
        """ReLU, computed together with the value where that is not there yet."""
        value = self._value.relu() if isinstance(self._value, Tensor) else self._value(True)
        return Tasks(tuple(self.shape), self.run, value)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look the function up. NoRule when it is not there."""
        from metalearn.batched.rules import RULES  # the rules make values

        rule = RULES.get(func)
        if rule is None:
            raise NoRule(f"no rule for {name_of(func)}")
        with torch._C.DisableTorchFunctionSubclass():
            return rule(func, *args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Whatever comes here went past the table."""
        raise NoRule(f"no rule for {func}")


def name_of(func: Any) -> str:
    """Words for a torch function."""
    return getattr(func, "__qualname__", None) or getattr(func, "__name__", None) or repr(func)
