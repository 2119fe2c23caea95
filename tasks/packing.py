"""From a listing to a packed store: decoded on every core, memory bounded, resumed after a kill, all or nothing."""

from pathlib import Path

from tasks.decode import Decoder
from tasks.listing import Listing
from tasks.progress import Progress, silent
from tasks.store import Store


def packed(
    name: str, listing: Listing, decoder: Decoder, *, root: Path, cache: Path | None = None, report: Progress = silent
) -> Store:
    """Open the store that this listing was packed to, under ``root`` or in the cache; pack it if there is none.

    The store's name is ``name``, the decoder's size and a hash of listing.stamp and decoder, so that other
    contents make another store. ``store.info`` holds ``parts`` (part -> class names), ``format``, ``notes``,
    ``label``, ``source``. Raises DataError.
    """
    raise NotImplementedError


def newest(name: str, size: int, *, root: Path, cache: Path | None = None) -> Store | None:
    """The newest store of a dataset that is packed already, for when its source files are gone; None without one."""
    raise NotImplementedError
