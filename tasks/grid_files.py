"""Published datasets of known factors that are one file: found under the root, compared with their grid, packed."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.folders import existing, walk
from tasks.grids import Draw, Grid
from tasks.listing import Image, Listing, Source
from tasks.packing import packed, stores
from tasks.progress import Progress, silent
from tasks.splits import Dataset
from tasks.store import Store, open_store
from tasks.tree_base import digest


class Opened(NamedTuple):
    """An opened file whose layout and labels are those of the grid: images by key (array, row), and its stamp."""

    source: Source
    array: str
    stamp: str


@dataclass(frozen=True)
class GridFile:
    """A published file of one image a combination of factors: ``name``, ``title``, its ``grid``, how it is called.

    ``open(path, grid, last)`` opens it, ``last`` being the last row that will be read, and raises DataError for
    whatever differs from the grid. ``form``: what it is, in words. ``obtain``: how to get it, in words.
    """

    name: str
    title: str
    grid: Grid
    files: re.Pattern[str]
    form: str
    decoder: Decoder
    open_file: Callable[[Path, Grid, int], Opened]
    obtain: str

    def find(self, root: Path) -> list[tuple[Path, str]]:
        """Where it lies below the root, and what it is."""
        found = (at / name for at, _, names in walk(root) for name in names if self.files.fullmatch(name))
        return [(path, self.form) for path in sorted(found, key=lambda path: (len(path.parts), path))]

    def listing(self, root: Path, source: str | None, draw: Draw) -> Listing:
        """List the images of a draw. Raises DataError when the file is not there, and for whatever is wrong with it."""
        path = self._path(root, source)
        if path is None:
            raise self._absent(root)
        return self._listed(path, draw)

    def open(
        self, root: Path, *, images: int, seed: int, split: str, split_seed: int, source: str | None, **_: object
    ) -> tuple[Listing, Decoder]:
        """Find its images, with the options of the dataset; nothing is decoded."""
        return self.listing(existing(root), source, Draw(images, seed, split, split_seed)), self.decoder

    def build(
        self, root: Path, draw: Draw, source: str | None, cache: Path | None = None, report: Progress = silent
    ) -> Dataset:
        """Open the packed images of a draw, packed first where they are not; they serve when the file is gone."""
        root = existing(root)
        path = self._path(root, source)
        if path is None:
            store = self._kept(root, draw, cache)
        else:
            store = packed(self.name, self._listed(path, draw), self.decoder, root=root, cache=cache, report=report)
        return Dataset.of_classes(self.name, draw.split, store, self.grid.parts(store.class_names, draw))

    def _path(self, root: Path, source: str | None) -> Path | None:
        """The file: the one of its name below root, or ``source``, relative to root or absolute; None without any."""
        if source is not None:
            path = root / source
            if not path.is_file():
                raise DataError(f"source {source!r}: {path} is no file; give {self.title}'s file")
            return path
        found = [path for path, _ in self.find(root)]
        if len(found) > 1:
            raise DataError(
                f"{len(found)} files under {root} are named as {self.title}'s: {', '.join(map(str, found))}; say which "
                "by source (--set source=PATH, or source: PATH under dataset)"
            )
        return found[0] if found else None

    def _listed(self, path: Path, draw: Draw) -> Listing:
        rows = self.grid.drawn(draw)
        drawn = np.concatenate(list(rows.values()))
        source, array, stamp = self.open_file(path, self.grid, int(drawn.max()))
        width = len(str(self.grid.count - 1))
        classes = {
            name: [Image(f"row {row:0{width}d}", source, (array, row)) for row in found.tolist()]
            for name, found in rows.items()
        }
        info = {**self.grid.info(), "drawn": draw.settings()}
        stamp = digest([stamp, json.dumps(info, sort_keys=True)])
        return Listing(self.form, path, classes, stamp, factors=self.grid.values(drawn), info=info)

    def _kept(self, root: Path, draw: Draw, cache: Path | None) -> Store:
        """The packed images of this very draw."""
        for path in stores(self.name, root=root, cache=cache, size=self.decoder.size):
            store = open_store(path)
            if store.info["drawn"] == draw.settings():
                return store
        raise self._absent(root)

    def _absent(self, root: Path) -> DataError:
        return DataError(f"no {self.title} under {root}: {self.obtain}")


def compare(where: str, values: np.ndarray, grid: Grid, tolerance: float = 1e-4) -> None:
    """Raise DataError, led by ``where``, naming the first row whose factor values (n, factors) are not the grid's."""
    expected = grid.values(np.arange(grid.count))
    for (name, wanted), given in zip(expected.items(), values.T, strict=True):
        wrong = np.flatnonzero(~(np.abs(given - wanted) <= tolerance))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{where}: row {row} has {name} {given[row]:g}, expected {wanted[row]:g}; rows are in another order or "
                "the file is another one: fetch it again"
            )


def expect(where: str, dtype: np.dtype, shape: tuple[int, ...], kind: type, wanted: tuple[int, ...]) -> None:
    """Raise DataError, led by ``where``, for an array of another shape than ``wanted`` or another kind of dtype."""
    if shape != wanted or not np.issubdtype(dtype, kind):
        raise DataError(f"{where} holds {dtype} {shape}, expected {kind.__name__} {wanted}; fetch the file again")
