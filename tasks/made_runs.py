"""One-shot runs made by the published recipe, for where Omniglot's official ones are not at hand.

Lake, Salakhutdinov and Tenenbaum 2015: a run has 20 characters of one alphabet; the images of one drawer are learned
from, those of another are tested; ten alphabets, two runs each. The recipe does not tell which alphabets, characters
and drawers the official runs have, so these are other tasks of the same kind, and no published number is of them.
"""

import re
from dataclasses import dataclass

import numpy as np

from tasks.episodes import EpisodeIndices
from tasks.errors import DataError
from tasks.splits import Partition, seeded_order

_DRAWER = re.compile(r"_(\d+)\.png$")  # images_evaluation/Angelic/character01/0965_07.png


@dataclass(frozen=True)
class Recipe:
    """How many alphabets, runs of each, and characters of a run."""

    alphabets: int = 10
    runs: int = 2
    ways: int = 20


NAME = "omniglot-runs-generated"
PUBLISHED = Recipe()


def made_runs(partition: Partition, seed: int, recipe: Recipe = PUBLISHED) -> EpisodeIndices:
    """Make the runs of a seed from characters ``Alphabet/characterNN``: positions in the partition, int64.

    support and query (runs, ways, 1), classes (runs, ways); way k of a run shows one character in both. Alphabets,
    drawers and characters are drawn by hashes of the seed and their names, each without replacement; no drawer of an
    alphabet serves twice, so no drawing does. Run i and run i + ``recipe.alphabets`` are of one alphabet. Raises
    DataError for a partition without enough alphabets, characters or drawers, and for names that do not tell drawers.
    """
    drawings = _drawings(partition)
    large = [name for name, kinds in drawings.items() if len(kinds) >= recipe.ways]
    if len(large) < recipe.alphabets:
        raise DataError(
            f"part {partition.name!r} has {len(large)} alphabets of {recipe.ways} characters or more; one-shot runs "
            f"are made of {recipe.alphabets}: give omniglot's evaluation set"
        )
    support, query, classes = [], [], []
    for run in range(recipe.runs):
        for alphabet in seeded_order(large, seed)[: recipe.alphabets]:
            learned, tested = _drawers(alphabet, drawings[alphabet], seed, recipe.runs)[2 * run : 2 * run + 2]
            prefix = f"run {run} "
            order = seeded_order((prefix + character for character in drawings[alphabet]), seed)[: recipe.ways]
            chosen = [drawings[alphabet][name.removeprefix(prefix)] for name in order]
            support.append([by[learned] for by in chosen])
            query.append([by[tested] for by in chosen])
            classes.append([partition.labels[by[learned]] for by in chosen])
    return EpisodeIndices(
        np.array(support, np.int64)[..., None], np.array(query, np.int64)[..., None], np.array(classes, np.int64)
    )


def _drawers(alphabet: str, characters: dict[str, dict[str, int]], seed: int, runs: int) -> list[str]:
    """Two drawers for each run, all different, who drew every character of the alphabet."""
    everywhere = set.intersection(*(set(by) for by in characters.values()))
    if len(everywhere) < 2 * runs:
        raise DataError(
            f"alphabet {alphabet} has {len(everywhere)} drawers of all its characters, one-shot runs need {2 * runs}"
        )
    prefix = f"{alphabet} "
    order = seeded_order((prefix + drawer for drawer in everywhere), seed)
    return [name.removeprefix(prefix) for name in order[: 2 * runs]]


def _drawings(partition: Partition) -> dict[str, dict[str, dict[str, int]]]:
    """Give alphabet -> character -> drawer -> position. Raises DataError where names do not tell who drew."""
    names, kinds = partition.store.image_names, partition.class_names
    found: dict[str, dict[str, dict[str, int]]] = {}
    for position, (row, label) in enumerate(zip(partition.index.tolist(), partition.labels.tolist(), strict=True)):
        drawer = _DRAWER.search(names[row])
        if drawer is None or kinds[label].count("/") != 1:
            raise DataError(
                f"{names[row]} of {kinds[label]} does not tell who drew it, as the zips' ...character01/0965_07.png "
                "does; one-shot runs cannot be made of it (torchmeta's data.hdf5, rotated classes): put "
                "images_evaluation.zip in the data root"
            )
        found.setdefault(kinds[label].split("/")[0], {}).setdefault(kinds[label], {})[drawer[1]] = position
    return found
