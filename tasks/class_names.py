"""What names of classes tell: ``Alphabet/characterNN``, perhaps followed by ``/rotDDD``; the group, and the turn."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

_ROTATION = re.compile(r"/rot(000|090|180|270)$")


def base_class(name: str) -> str:
    """Give a class name without its ``/rotDDD``."""
    return _ROTATION.sub("", name)


def quarter_turns(name: str) -> int | None:
    """Give how many quarter turns a class name says, 0 to 3, None where it says nothing of them."""
    found = _ROTATION.search(name)
    return int(found[1]) // 90 if found else None


def class_groups(class_names: Sequence[str]) -> Int64[np.ndarray, " classes"] | None:
    """Number the group of each class from 0: all of its name but the last part; None where a class has no group.

    The group of ``Latin/character01`` is ``Latin``; that of ``Latin/character01/rot090`` the alphabet, turned alike.
    """
    groups = [(base_class(name).rpartition("/")[0], quarter_turns(name) or 0) for name in class_names]
    if not groups or not all(name for name, _ in groups):
        return None
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    return np.array([numbers[group] for group in groups], np.int64)
