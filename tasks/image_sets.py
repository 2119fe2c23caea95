"""Few-shot image datasets that are published ready split, in one of several formats: found, compared, packed once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.folders import existing
from tasks.formats.base import PARTS, Format, one_listing
from tasks.listing import Listing
from tasks.packing import newest, packed
from tasks.progress import Progress, silent
from tasks.splits import Dataset
from tasks.spots import Spot, find_spots, the_spot

LARGEST_SIDE = 512  # pixels: a larger image_size is taken for a mistake


@dataclass(frozen=True)
class ImageSet:
    """A published dataset: its ``name`` and ``title``, how many ``classes`` each part has, images ``a_class``.

    ``split``: who made the split. ``formats`` it comes in; ``archives``: how archives that hold it are named.
    ``known``: names of the classes of some parts. ``obtain``: how to get it, in words.
    """

    name: str
    title: str
    split: str
    classes: Mapping[str, int]
    a_class: int
    formats: Sequence[Format]
    archives: re.Pattern[str]
    obtain: str
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def find(self, root: Path) -> list[tuple[Path, str]]:
        """Where it lies below the root, and in what format. Raises DataError for an archive that cannot be read."""
        return [(spot.place, spot.format.words) for spot in find_spots(root, self.formats, self.archives)]

    def spot(self, root: Path, source: str | None) -> Spot | None:
        """The one place that holds it; see tasks.spots.the_spot."""
        return the_spot(root, self.formats, self.archives, source, self.title, self.obtain)

    def listing(self, root: Path, source: str | None) -> Listing:
        """List its images. Raises DataError when it is not there, and for whatever is wrong with it."""
        spot = self.spot(root, source)
        if spot is None:
            raise DataError(f"no {self.title} under {root}: {self.obtain}")
        return self._listed(spot)

    def open(self, root: Path, *, image_size: int, source: str | None, **_: object) -> tuple[Listing, Decoder]:
        """Find its images, with the options of the dataset; nothing is decoded."""
        return self.listing(existing(root), source), rgb_decoder(image_size)

    def build(
        self, root: Path, image_size: int, source: str | None, cache: Path | None = None, report: Progress = silent
    ) -> Dataset:
        """Open the packed images, packed first where they are not; the newest ones when the source is gone."""
        root = existing(root)
        decoder = rgb_decoder(image_size)
        spot = self.spot(root, source)
        store = None
        if spot is None:
            store = newest(self.name, image_size, root=root, cache=cache)
            if store is None:
                raise DataError(f"no {self.title} under {root}: {self.obtain}")
        else:
            store = packed(self.name, self._listed(spot), decoder, root=root, cache=cache, report=report)
        return Dataset.of_classes(store.info["label"] or self.name, self.split, store, store.info["parts"])

    def _listed(self, spot: Spot) -> Listing:
        found = spot.format.read(spot.shelf())
        listing = one_listing(spot.format.words, spot.place, found)
        self._compare(listing)
        other = self._other(listing)
        if not other:
            return listing
        label = re.sub(r"\.(zip|tar|tgz|tar\.\w+)$", "", spot.path.name)
        label = f"{label} (not {self.name})" if label == self.name else label
        note = f"this is not {self.title}: {other}. Reports call it {label}; its figures stand beside no published ones"
        return replace(listing, notes=(*listing.notes, note), label=label)

    def _compare(self, listing: Listing) -> None:
        """Raise DataError for swapped parts and for other numbers of classes than published."""
        counts = {part: len(listing.parts[part]) for part in PARTS}
        expected = dict(self.classes)
        for one, other in (("val", "test"), ("train", "val"), ("train", "test")):
            swapped = {**expected, one: expected[other], other: expected[one]}
            by_count = counts == swapped != expected
            by_name = any(
                set(listing.parts[part]) == self.known.get(instead) for part, instead in ((one, other), (other, one))
            )
            if by_count or by_name:
                raise DataError(
                    f"{listing.path}: {one} and {other} are swapped ({one} holds {counts[one]} classes, {other} "
                    f"{counts[other]}; {self.title} has {expected[one]} and {expected[other]}); rename the files "
                    "of each to the other's name"
                )
        if counts != expected:
            held = ", ".join(f"{part} {counts[part]}" for part in PARTS)
            wanted = ", ".join(f"{part} {expected[part]}" for part in PARTS)
            missing = [f"{name} of {part}" for part in PARTS for name in self._missing(part, listing)]
            which = f"; missing: {', '.join(missing[:5])}" if missing else ""
            raise DataError(
                f"{listing.path} holds {held} classes, {self.title} has {wanted}{which}; fetch it again, or give "
                "another dataset by kind: folder or kind: csv"
            )

    def _missing(self, part: str, listing: Listing) -> list[str]:
        """Known classes that are not there, where most are."""
        known = self.known.get(part, frozenset())
        missing = sorted(known - set(listing.parts[part]))
        return missing if len(missing) < len(known) / 2 else []

    def _other(self, listing: Listing) -> str:
        """Say what tells the data from the published dataset, "" when nothing does."""
        sizes = sorted({len(images) for images in listing.classes.values()})
        if sizes != [self.a_class]:
            held = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
            return f"its classes hold {held} images, {self.title}'s {self.a_class}"
        for part, known in self.known.items():
            names = set(listing.parts[part])
            by_name = not any(re.fullmatch(r"(class|train|val|test)\d+", name) for name in names)
            if by_name and names != known:
                return f"{len(names - known)} of the {len(names)} classes of {part} are others"
        return ""


def rgb_decoder(image_size: int) -> Decoder:
    """Decode colour images to a square, its sides stretched. Raises DataError for a size out of range."""
    if not 1 <= image_size <= LARGEST_SIDE:
        raise DataError(f"image_size={image_size}: allowed are 1 to {LARGEST_SIDE} pixels a side")
    return Decoder(3, image_size)
