"""What a reader of a file format finds: which images there are, of which classes, in which parts, and where."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8


class Source(ABC):
    """A file, archive or folder that holds images. It is opened when first read.

    ``path`` is what messages name. Reading is cheap or sequential: decoding happens elsewhere.
    """

    path: Path

    @abstractmethod
    def read(self, key: Any) -> bytes | UInt8[np.ndarray, "h w *c"]:
        """Bytes of an image file, or decoded pixels. Raises DataError naming the image when it cannot be read."""

    def rank(self, key: Any) -> int:
        """Where in the source an image lies, for sources that are much faster read in order."""
        return 0

    def close(self) -> None:  # noqa: B027
        """Let go of memory and files; a later read opens the source again."""


class Image(NamedTuple):
    """One image of a listing: its name (unique within the dataset, as messages give it) and where it is."""

    name: str
    source: Source
    key: Hashable


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a dataset as found, before any is decoded.

    ``format``: in words, for messages. ``path``: the file or folder that messages name. ``classes``: class name to its
    images, in the order they shall have. ``parts``: ``train``, ``val``, ``test`` to class names, empty where the
    format does not say. ``stamp``: changes whenever the content may have. ``notes``: what a user should know.
    ``label``: how reports call the dataset, where that is not its name. ``factors``: name -> (n,) float32, where known,
    classes in sorted order, and within a class as listed. ``info``: what else Store.info shall say.
    """

    format: str
    path: Path
    classes: Mapping[str, Sequence[Image]]
    stamp: str
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    label: str = ""
    factors: Mapping[str, Float32[np.ndarray, " _"]] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
