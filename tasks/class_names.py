"""What names of classes tell: the group, as the alphabet in ``Alphabet/characterNN``, and how images are turned.

A name may end in ``/rotDDD``, turned by DDD degrees counter-clockwise, or ``/mirDDD``, mirrored and then turned.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

MIRRORED = 4  # what an orientation has above the quarter turns that follow: 0 to 3 turned, 4 to 7 mirrored, then turned
_TURNED = re.compile(r"/(rot|mir)(000|090|180|270)$")


def base_class(name: str) -> str:
    """Give a class name without its ``/rotDDD`` or ``/mirDDD``."""
    return _TURNED.sub("", name)


def orientation(name: str) -> int | None:
    """Give the quarter turns that a class name says, 0 to 3, with ``MIRRORED`` added where left and right change places
    before; None where it says nothing of them.
    """
    found = _TURNED.search(name)
    return int(found[2]) // 90 + (MIRRORED if found[1] == "mir" else 0) if found else None


def turned_name(name: str, orientation: int) -> str:
    """Give the name of a class turned so: ``orientation`` as above."""
    return f"{name}/{'mir' if orientation >= MIRRORED else 'rot'}{orientation % MIRRORED * 90:03d}"


def class_groups(class_names: Sequence[str]) -> Int64[np.ndarray, " classes"] | None:
    """Number the group of each class from 0: all of its name but the last part; None where a class has no group.

    The group of ``Latin/character01`` is ``Latin``; that of ``Latin/character01/rot090`` the alphabet, turned alike.
    """
    groups = [(base_class(name).rpartition("/")[0], orientation(name) or 0) for name in class_names]
    if not groups or not all(name for name, _ in groups):
        return None
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    return np.array([numbers[group] for group in groups], np.int64)
