"""The datasets by name: each a function whose keyword arguments are its settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from tasks import omniglot as omniglot_files
from tasks import oneshot
from tasks.decode import Decoder
from tasks.errors import DataError, unknown
from tasks.folders import existing
from tasks.glyphs import glyph_store
from tasks.listing import Listing
from tasks.omniglot import BACKGROUND, EVALUATION, omniglot_store
from tasks.progress import Progress, silent
from tasks.splits import Dataset, lake, rotated, shuffled, upright, vinyals


def omniglot(
    root: Path,
    *,
    split: Literal["lake", "vinyals", "random"] = "lake",
    split_seed: int = 0,
    rotations: bool | None = None,
    image_size: int = 28,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each, black and white.

    split ``lake``: Omniglot's own sets, 964 and 659 characters, the last 20 % of the background alphabets for
    validation; ``vinyals``: 1,028 / 172 / 423 characters from split files; ``random``: 1,100 / 100 / 423
    seeded. rotations: whether each quarter turn is a class of its own; None does as the split says (vinyals
    yes, the others no). Images are (1, image_size, image_size) uint8, ink 255. cache: where the packed images
    go when root is read-only. Raises DataError for whatever is wrong with root, files or settings.
    """
    if split not in ("lake", "vinyals", "random"):
        raise DataError(unknown("Omniglot split", split, ("lake", "vinyals", "random")))
    root = existing(root)
    store = omniglot_store(root, image_size=image_size, cache=cache, report=report)
    names = store.class_names
    turn = rotations if rotations is not None else split == "vinyals"
    if split == "vinyals":
        parts = vinyals(root, names)
        if not turn:
            parts = {part: upright(listed) for part, listed in parts.items()}
        return Dataset.of_classes("omniglot", split, store, parts)
    if split == "lake":
        sets = store.info["parts"]
        parts = lake(sets[BACKGROUND.folder], sets[EVALUATION.folder], split_seed)
    else:
        parts = shuffled(names, split_seed, train=1100, val=100)
    if turn:
        parts = {part: rotated(listed) for part, listed in parts.items()}
    return Dataset.of_classes("omniglot", split, store, parts)


def glyphs(
    root: Path | None = None,
    *,
    classes: int = 1200,
    instances: int = 20,
    seed: int = 0,
    image_size: int = 28,
    split_seed: int = 0,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Glyphs: procedural handwriting-like characters with known factors; embedded, nothing to download.

    Classes are split 60 / 20 / 20 by split_seed. With a root the images are kept there (in ``cache`` when it
    is read-only), without one they stay in memory. Images are (1, image_size, image_size) uint8, ink 255.
    Raises DataError for a setting out of range and for a root that is no folder.
    """
    if classes < 5:
        raise DataError(f"classes={classes}: train, val and test need at least 5; give classes >= 5")
    store = glyph_store(
        classes,
        instances,
        seed,
        image_size,
        root=None if root is None else existing(root),
        cache=cache,
        report=report,
    )
    held_out = classes // 5
    parts = shuffled(store.class_names, split_seed, train=classes - 2 * held_out, val=held_out)
    return Dataset.of_classes("glyphs", "random", store, parts)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "glyphs": glyphs,
    "omniglot": omniglot,
    "omniglot-runs": oneshot.omniglot_runs,
}


class Origin(NamedTuple):
    """Where the images of a dataset come from.

    ``find(root)``: the files and folders that hold them, each with what it is. ``open(root, report=, **options)``,
    with the options of the dataset: its listing and decoder, nothing packed. ``obtain``: how to get it, in words.
    """

    find: Callable[[Path], list[tuple[Path, str]]]
    open: Callable[..., tuple[Listing, Decoder]]
    obtain: str


def _open_omniglot(root: Path, *, image_size: int, report: Progress, **_: object) -> tuple[Listing, Decoder]:
    return omniglot_files.listing(root, report=report), omniglot_files.drawing_decoder(image_size)


def _open_runs(root: Path, *, image_size: int, report: Progress, **_: object) -> tuple[Listing, Decoder]:
    return oneshot.listing(root, report=report), omniglot_files.drawing_decoder(image_size)


ORIGINS = {
    "omniglot": Origin(omniglot_files.find, _open_omniglot, omniglot_files.OBTAIN),
    "omniglot-runs": Origin(oneshot.find, _open_runs, oneshot.OBTAIN),
}
"""Origin of each dataset that is not embedded in the code."""


def describe(name: str) -> str:
    """One line on a dataset of the table. Raises DataError for a name that is not in it."""
    if name not in DATASETS:
        raise DataError(unknown("dataset", name, DATASETS))
    return (DATASETS[name].__doc__ or "").strip().splitlines()[0]
