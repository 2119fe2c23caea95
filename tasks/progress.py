"""How slow data work tells a caller that it moves, without knowing a terminal."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as ``report(what, done, total)``; total is 0 where it is not known."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing: the default."""
