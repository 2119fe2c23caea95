"""The one error a user's data mistake raises, and how unknown names are worded."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """Something about the data or an episode setting is wrong: what was given, what is allowed, the fix."""


def unknown(kind: str, given: object, allowed: Iterable[str]) -> str:
    """Word an unknown name: ``unknown dataset 'glyph'; did you mean 'glyphs'? allowed: glyphs, omniglot``."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(given), names, n=1)
    hint = f" did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {given!r};{hint} allowed: {', '.join(names)}"


def unknown_of_many(kind: str, given: object, allowed: Iterable[str]) -> str:
    """Word an unknown name where there are too many allowed ones to list: up to eight of the closest."""
    names = sorted(allowed)
    if len(names) <= 8:
        return unknown(kind, given, names)
    close = difflib.get_close_matches(str(given), names, n=8, cutoff=0.3)
    nearest = f"the closest of the {len(names)} allowed: {', '.join(close)}" if close else f"{len(names)} are allowed"
    return f"unknown {kind} {given!r}; {nearest}"
