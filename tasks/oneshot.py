"""The one-shot runs of Omniglot: 20 fixed tasks of one alphabet each, two drawings of each of 20 characters.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 2015.
A run gives a drawing of each character to learn from, then asks of another drawing of each which character it shows.
The characters are of the evaluation set, under other names (``run01/class01``): an encoder that was trained on any
character of that set, as those of the vinyals and random splits are, must not be judged on them (`seen_classes`).
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tasks import omniglot
from tasks.episodes import EpisodeIndices
from tasks.errors import DataError
from tasks.folders import existing
from tasks.listing import Listing
from tasks.omniglot import BACKGROUND, Part, drawing_decoder
from tasks.oneshot_files import ARCHIVE, LABELS, place_of_runs, read_runs
from tasks.packing import newest, packed
from tasks.progress import Progress, silent
from tasks.splits import Dataset, Partition, lake, training_turned
from tasks.tree_base import digest

NAME = "omniglot-runs"
ALPHABETS = frozenset({
    "Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi",
    "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
})  # fmt: skip  # of the evaluation set, of whose characters the runs are
OBTAIN = (
    f"put {ARCHIVE} of github.com/brendenlake/omniglot (folder python/one-shot-classification), or its unpacked "
    "folders run01 to run20, anywhere in the data root; the background set is found or downloaded as for omniglot"
)
NOTE = (
    "the runs show characters of the evaluation set under other names: an encoder that was trained on one of them, as "
    "with the vinyals and random splits of omniglot, is refused here, by the names of the set's alphabets"
)
_RUNS = "runs"
_CLASS = re.compile(r"(run\d\d)/class\d\d")


@dataclass(frozen=True)
class Runs:
    """How many runs there are, and of how many characters each."""

    count: int = 20
    ways: int = 20


ALL_RUNS = Runs()


def omniglot_runs(
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
    """Omniglot's one-shot runs: 20 fixed 20-way tasks within an alphabet, after training on the background set.

    train and val: the 964 characters of the background set as omniglot's split ``lake`` has them. test: 400 classes
    ``runNN/classKK`` of two drawings, the one to learn from, then the one to test. one_shot_episodes gives the
    published tasks, and so does ``fixed`` of the dataset: no others are tested. rotations, reflections: whether each
    quarter turn of a training character, and its mirror image, is a class of its own; validation and runs are upright.
    within_alphabet: whether episodes drawn for training and validation are of one alphabet each too.
    validation_alphabets: how many of the 30 background alphabets are kept for validation, None: 6; once choices are
    made, fewer leave more to train on. Images are (1, image_size, image_size) uint8, ink 255.
    Raises DataError for whatever is wrong with root, files or settings.
    """
    root = existing(root)
    decoder = drawing_decoder(image_size)
    store = None if find(root, cache) else newest(NAME, image_size, root=root, cache=cache)
    if store is None:
        found = listing(root, cache=cache, report=report)
        store = packed(NAME, found, decoder, root=root, cache=cache, report=report)
    sets = store.info["parts"]
    parts = lake(sets[BACKGROUND.folder], sets[_RUNS], split_seed, validation_alphabets)
    parts = training_turned(parts, rotations=rotations, reflections=reflections)
    dataset = Dataset.of_classes(NAME, "lake", store, parts)
    if within_alphabet:
        dataset = dataset.with_episodes_within_groups("train", "val")
    return replace(dataset, fixed=partial(official_runs, dataset.test))


def official_runs(partition: Partition, seed: int) -> EpisodeIndices:
    """The fixed tasks, for which there is no other seed than 0. Raises DataError for another, and as they do."""
    if seed:
        raise DataError(f"episode seed {seed}: the official one-shot runs are what they are; give seed 0")
    return one_shot_episodes(partition)


def seen_classes(partition: Partition, trained: frozenset[str]) -> frozenset[str]:
    """Which of the classes ``trained`` on the partition shows: those of its names, and where it is made of one-shot
    runs, whose names do not tell, all characters of the evaluation set's alphabets.
    """
    runs = any(_CLASS.fullmatch(name) for name in partition.class_names)
    hidden = (name for name in trained if runs and name.count("/") == 1 and name.split("/")[0] in ALPHABETS)
    return (trained & partition.base_classes) | frozenset(hidden)


def one_shot_episodes(partition: Partition) -> EpisodeIndices:
    """The fixed tasks, an episode a run, in order: positions in the partition, int64.

    support and query (20, 20, 1), classes (20, 20): way k of a run is its class k + 1, and query k shows that class.
    Raises DataError for a partition that is not made of runs.
    """
    runs: dict[str, list[int]] = {}
    for label, name in enumerate(partition.class_names):
        found = _CLASS.fullmatch(name)
        runs.setdefault(found[1] if found else "", []).append(label)
    drawings = np.bincount(partition.labels, minlength=len(partition.class_names))
    if not runs or "" in runs or len(set(map(len, runs.values()))) > 1 or (drawings != 2).any():
        raise DataError(
            f"part {partition.name!r} is not made of one-shot runs, all of as many classes runNN/classKK of two "
            f"drawings; give the part test of the dataset {NAME}"
        )
    classes = np.array(list(runs.values()), np.int64)
    support = 2 * classes[..., None]
    return EpisodeIndices(support, support + 1, classes)


def find(root: Path, cache: Path | None = None) -> list[tuple[Path, str]]:
    """Where the runs are, and the background set; nothing where the runs are not."""
    place = place_of_runs(root)
    if place is None:
        return []
    return [(place, "zip" if place.is_file() else "folder of runs"), *omniglot.find(root, (BACKGROUND,), cache)]


def listing(
    root: Path,
    *,
    runs: Runs = ALL_RUNS,
    background: Part = BACKGROUND,
    cache: Path | None = None,
    report: Progress = silent,
) -> Listing:
    """List the runs, classes ``runNN/classKK`` of two drawings, and the background set, fetched where it is absent.

    Raises DataError when there are no runs under root, and as read_runs and omniglot.listing do.
    """
    place = place_of_runs(root)
    if place is None:
        raise DataError(
            f"no {ARCHIVE} and no folder run01 with a {LABELS} under {root}; {OBTAIN}. Runs of the same kind are made "
            "of the evaluation set by dataset omniglot-runs-generated; published errors are not of those"
        )
    names = [f"run{number:02d}" for number in range(1, runs.count + 1)]
    classes, stamps = read_runs(place, names, runs.ways)
    before = omniglot.listing(root, parts=(background,), cache=cache, report=report)
    return Listing(
        "one-shot runs",
        place,
        {**before.classes, **classes},
        digest([f"{background.folder} {before.stamp}", *stamps]),
        {**before.parts, _RUNS: sorted(classes)},
        (NOTE, *before.notes),
    )
