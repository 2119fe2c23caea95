"""Parquet files as on Hugging Face: ``train-00000-of-00002.parquet``, columns ``image`` (bytes) and ``label``."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

from tasks.errors import DataError
from tasks.formats.base import SPELLINGS, Format, Found, Names, Shelf
from tasks.listing import Image, Source
from tasks.sniff import HEAD, kind
from tasks.tree import LARGEST_IMAGE

_FILE = re.compile(r"(train|val|validation|test)(-\d+-of-\d+)?(-[0-9a-f]+)?\.parquet")
_PIECE = 256  # rows of images held at once


class Parquet(Source):
    """Images in the column ``image`` of a parquet file; the key of an image is its row. Read forward, in pieces."""

    def __init__(self, shelf: Shelf, name: str) -> None:
        self.shelf, self.name = shelf, name
        self.path = shelf.tree.path / (shelf.inside + name)
        self._pieces: Iterator[tuple[int, list[Any]]] | None = None
        self._start = 0
        self._held: list[Any] = []

    def open(self) -> Any:
        """Open the file. Raises DataError without pyarrow, and for what is no parquet file."""
        where = self.shelf.where(self.name)
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise DataError(
                f"{where} is a parquet file and reading it needs pyarrow, which cannot be imported ({error}): "
                "pip install 'metalearn[formats]'"
            ) from error
        file = self.shelf.open(self.name)
        found = _kind_of(file)
        if found is not None:
            raise DataError(f"{where} is {found}, expected a parquet file: fetch it again")
        try:
            return pyarrow.parquet.ParquetFile(file)
        except Exception as error:  # pyarrow has many kinds
            raise DataError(f"{where} is no intact parquet file ({str(error)[:200]}); fetch it again") from error

    def read(self, key: int) -> bytes:
        """Bytes of an image file, as the column holds them."""
        if self._pieces is None or key < self._start:
            self._pieces, self._held = self._read(), []
        while key >= self._start + len(self._held):
            found = next(self._pieces, None)
            if found is None:
                raise DataError(f"{self.shelf.where(self.name)} has no row {key}; fetch it again")
            self._start, self._held = found
        image = self._held[key - self._start]
        data = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(data, bytes) or len(data) > LARGEST_IMAGE:
            raise DataError(f"{self.shelf.where(self.name)}: row {key} holds no image file in its column image")
        return data

    def rank(self, key: int) -> int:
        """Rows in order."""
        return key

    def close(self) -> None:
        """Let go of the rows; a later read begins anew."""
        self._pieces, self._held, self._start = None, [], 0

    def _read(self) -> Iterator[tuple[int, list[Any]]]:
        start = 0
        try:
            for batch in self.open().iter_batches(_PIECE, columns=["image"], use_threads=False):
                yield start, batch.column(0).to_pylist()
                start += len(batch)
        except DataError:
            raise
        except Exception as error:  # as in open
            raise DataError(
                f"{self.shelf.where(self.name)} cannot be read ({str(error)[:200]}); fetch it again"
            ) from error


def _kind_of(file: io.BufferedReader) -> str | None:
    """What a file is that is no parquet file, None for one that is."""
    head = file.read(HEAD)
    file.seek(0, io.SEEK_SET)
    found = kind(head)
    return None if found.what == "a parquet file" else found.what


def _fits(names: Names) -> bool:
    return any(_FILE.fullmatch(name) for name in names.files)


def _read(shelf: Shelf) -> Found:
    parts: dict[str, dict[str, list[Image]]] = {}
    used = []
    for name in shelf.files:
        match = _FILE.fullmatch(name)
        if match is None:
            continue
        used.append(name)
        source = Parquet(shelf, name)
        classes = parts.setdefault(SPELLINGS[match[1]], {})
        for row, label in enumerate(_labels(source)):
            classes.setdefault(label, []).append(Image(f"{name} row {row}", source, row))
    return Found(parts, shelf.stamp(used), ())


def _labels(source: Parquet) -> list[str]:
    """Class of each row: its name where the file says the names, else its number."""
    where = source.shelf.where(source.name)
    file = source.open()
    columns = file.schema_arrow.names
    if "image" not in columns or "label" not in columns:
        raise DataError(f"{where} has the columns {', '.join(columns)[:100]}; expected image and label")
    try:
        labels = file.read(columns=["label"]).column(0).to_pylist()
    except Exception as error:  # as in open
        raise DataError(f"{where} cannot be read ({str(error)[:200]}); fetch it again") from error
    if not all(isinstance(label, int | str) for label in labels):
        raise DataError(f"{where}: the column label must hold whole numbers or text in every row; fetch it again")
    names = _class_names(file.schema_arrow.metadata or {})
    if names is None:
        return [f"class{label:03d}" if isinstance(label, int) else label for label in labels]
    if any(not isinstance(label, int) or not 0 <= label < len(names) for label in labels):
        raise DataError(f"{where}: the column label must hold numbers from 0 to {len(names) - 1}; fetch it again")
    return [names[label] for label in labels]


def _class_names(metadata: dict[bytes, bytes]) -> list[str] | None:
    """Names of the classes that Hugging Face's datasets writes into the file, None where it did not."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


PARQUET = Format("parquet files {train,validation,test}-*.parquet with image and label", _fits, _read)
