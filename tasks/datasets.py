"""The datasets by name: each a function whose keyword arguments are its settings."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from tasks import made_runs
from tasks.cifar_sets import CIFAR_FS, FC100
from tasks.class_lists import vinyals
from tasks.dsprites import DSPRITES
from tasks.errors import DataError, unknown
from tasks.folders import existing
from tasks.glyphs import glyph_store
from tasks.grids import Draw
from tasks.mini_imagenet import MINI_IMAGENET
from tasks.omniglot import BACKGROUND, EVALUATION, omniglot_store
from tasks.oneshot import omniglot_runs
from tasks.own_images import csv, folder
from tasks.progress import Progress, silent
from tasks.shapes3d import SHAPES3D
from tasks.splits import PARTS, Dataset, lake, rotated, shuffled, training_turned, upright
from tasks.sprites import sprites


def omniglot(
    root: Path,
    *,
    split: Literal["lake", "vinyals", "random"] = "lake",
    split_seed: int = 0,
    rotations: bool | None = None,
    reflections: bool = False,
    within_alphabet: bool = False,
    image_size: int = 28,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each, black and white.

    split ``lake``: Omniglot's own sets, 964 and 659 characters, the last 20 % of the background alphabets for
    validation; ``vinyals``: 1,028 / 172 / 423 characters from split files; ``random``: 1,100 / 100 / 423
    seeded. rotations: whether each quarter turn is a class of its own; None does as the split says (vinyals
    yes, the others no). reflections: whether the mirror image of each training class is one of its own too.
    within_alphabet: whether the classes of an episode are of one alphabet (turned alike), which is harder, in all
    parts; the split's name then says so (``lake-within``). Images are (1, image_size, image_size) uint8, ink 255.
    cache: where the packed images go when root is read-only. Raises DataError for whatever is wrong with root, files or
    settings.
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
    elif split == "lake":
        sets = store.info["parts"]
        parts = lake(sets[BACKGROUND.folder], sets[EVALUATION.folder], split_seed)
    else:
        parts = shuffled(names, split_seed, train=1100, val=100)
    if turn and split != "vinyals":
        parts = {part: rotated(listed) for part, listed in parts.items()}
    parts = training_turned(parts, reflections=reflections)
    if within_alphabet:
        return Dataset.of_classes("omniglot", f"{split}-within", store, parts).with_episodes_within_groups(*PARTS)
    return Dataset.of_classes("omniglot", split, store, parts)


def omniglot_runs_generated(
    root: Path,
    *,
    split_seed: int = 0,
    rotations: bool = False,
    reflections: bool = False,
    within_alphabet: bool = True,
    validation_alphabets: int | None = None,
    image_size: int = 28,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """Omniglot's split lake, tested on one-shot runs that are made by the published recipe, not the official ones.

    ``fixed`` gives the runs of a seed, see tasks.made_runs: 20 tasks of 20 characters of one alphabet, the image to
    learn from and the one to test by two drawers. rotations, reflections: whether each quarter turn of a training
    character, and its mirror image, is a class of its own; validation and runs are upright. within_alphabet: whether
    episodes drawn for training and validation are of one alphabet each too. validation_alphabets: how many of the 30
    background alphabets are kept for validation, None: 6; once choices are made, fewer leave more to train on. Other
    options and errors: see omniglot.
    """
    store = omniglot_store(existing(root), image_size=image_size, cache=cache, report=report)
    sets = store.info["parts"]
    parts = lake(sets[BACKGROUND.folder], sets[EVALUATION.folder], split_seed, validation_alphabets)
    parts = training_turned(parts, rotations=rotations, reflections=reflections)
    dataset = Dataset.of_classes(made_runs.NAME, "lake", store, parts)
    if within_alphabet:
        dataset = dataset.with_episodes_within_groups("train", "val")
    return replace(dataset, fixed=partial(made_runs.made_runs, dataset.test))


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


def mini_imagenet(
    root: Path,
    *,
    image_size: int = 84,
    source: str | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """mini-ImageNet: 100 classes of ImageNet, 600 colour images each, 64 / 16 / 20 (Ravi and Larochelle 2017).

    Read from any form that is about: caches by class (.pkl), pickles with labels, HDF5, csv and images, parquet,
    folders; also within an archive. Images are (3, image_size, image_size) uint8, sides stretched as in the original.
    source: the file or folder that holds it, relative to root, where several do. Data of 64 / 16 / 20 other classes or
    with other than 600 images each, such as a stand-in, gets its file's name as label. Raises DataError for whatever is
    wrong with root, files or settings.
    """
    return MINI_IMAGENET.build(root, image_size, source, cache, report)


def cifar_fs(
    root: Path,
    *,
    image_size: int = 32,
    source: str | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """CIFAR-FS: CIFAR-100's classes split 64 / 16 / 20, 600 colour images each (Bertinetto et al. 2019).

    Images are (3, image_size, image_size) uint8. source and errors: see mini_imagenet.
    """
    return CIFAR_FS.build(root, image_size, source, cache, report)


def fc100(
    root: Path,
    *,
    image_size: int = 32,
    source: str | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """FC100: CIFAR-100's classes split by superclass, 60 / 20 / 20, 600 colour images each (Oreshkin et al. 2018).

    Images are (3, image_size, image_size) uint8. source and errors: see mini_imagenet.
    """
    return FC100.build(root, image_size, source, cache, report)


def dsprites(
    root: Path,
    *,
    images: int = 40_320,
    seed: int = 0,
    split: Literal["classes", "images"] = "classes",
    split_seed: int = 0,
    source: str | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """dSprites: 737,280 white shapes by scale, rotation and position (Matthey et al. 2017), from its .npz.

    The same settings as of sprites take images of the same factors and divide them alike. Images are (1, 64, 64)
    uint8, 0 or 255. source: the file, relative to root, where several are there. Raises DataError for whatever is
    wrong with root, file or settings.
    """
    return DSPRITES.build(root, Draw(images, seed, split, split_seed), source, cache, report)


def shapes3d(
    root: Path,
    *,
    images: int = 40_000,
    seed: int = 0,
    split: Literal["classes", "images"] = "classes",
    split_seed: int = 0,
    source: str | None = None,
    cache: Path | None = None,
    report: Progress = silent,
) -> Dataset:
    """3D Shapes: 480,000 pictures of a solid in a room, six factors (Burgess and Kim 2018), from its HDF5.

    images: how many are drawn, by seed, 125 of each class if not given. split ``classes``: classes of the object's hue,
    scale and shape, 60 / 20 / 20; ``images``: parts share all combinations, to train and measure on; tasks.grids says
    why. Images are (3, 64, 64) uint8. source and errors: see dsprites.
    """
    return SHAPES3D.build(root, Draw(images, seed, split, split_seed), source, cache, report)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "cifar-fs": cifar_fs,
    "csv": csv,
    "dsprites": dsprites,
    "fc100": fc100,
    "folder": folder,
    "glyphs": glyphs,
    "mini-imagenet": mini_imagenet,
    "omniglot": omniglot,
    "omniglot-runs": omniglot_runs,
    made_runs.NAME: omniglot_runs_generated,
    "shapes3d": shapes3d,
    "sprites": sprites,
}


def describe(name: str) -> str:
    """One line on a dataset of the table. Raises DataError for a name that is not in it."""
    if name not in DATASETS:
        raise DataError(unknown("dataset", name, DATASETS))
    return (DATASETS[name].__doc__ or "").strip().splitlines()[0]
