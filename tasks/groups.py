"""Groups of classes that are alike, as the names of classes tell them: ``Alphabet/characterNN``."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


def class_groups(class_names: Sequence[str]) -> Int64[np.ndarray, " classes"] | None:
    """Number the group of each class from 0, by its name without the class's own part; None where a class has none.

    The group of ``Latin/character01`` is ``Latin``; that of ``Latin/character01/rot090`` the alphabet turned as well.
    """
    split = [name.split("/") for name in class_names]
    if not split or any(len(parts) < 2 for parts in split):
        return None
    groups = [(parts[0], *parts[2:]) for parts in split]
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    return np.array([numbers[group] for group in groups], np.int64)
