"""Datasets as a config names them: built under a data root, with progress, prepared, checked and listed."""

from pathlib import Path

import numpy as np

from metalearn.errors import DataError, UserError, unknown
from metalearn.kinds import TABLES, check_kind
from metalearn.schema import Kind
from tasks.datasets import DATASETS, describe
from tasks.folders import cache_folder
from tasks.progress import Progress, silent
from tasks.splits import PARTS, Dataset
from tasks.store import fingerprint


def build_dataset(kind: Kind, root: Path, report: Progress = silent) -> Dataset:
    """Build the dataset of a config's ``dataset`` key. Raises UserError or DataError, naming what is wrong."""
    choice = check_kind("dataset", kind, DATASETS, TABLES["dataset"].skip)
    return choice.build(root, report=report, **choice.options)


def prepare(name: str, root: Path, report: Progress) -> str:
    """Find or fetch, verify and pack a dataset; return one line on what there is now."""
    if name not in DATASETS:
        raise UserError(unknown("dataset", name, DATASETS))
    dataset = build_dataset(Kind(kind=name), root, report)
    store = dataset.train.store
    return f"{name}: {len(store.class_names)} classes, {len(store.images)} images of {store.images.shape[1:]}, ready"


def check(name: str, root: Path, report: Progress) -> str:
    """Verify a dataset and return a table of its parts; raises DataError for what is wrong with it."""
    if name not in DATASETS:
        raise UserError(unknown("dataset", name, DATASETS))
    dataset = build_dataset(Kind(kind=name), root, report)
    store = dataset.train.store
    if fingerprint(store) != store.fingerprint:
        raise DataError(
            f"the packed images of {name} are not what was packed (fingerprint {fingerprint(store)[:16]}, recorded "
            f"{store.fingerprint[:16]}); remove the store that `metalearn data list` names and prepare it again"
        )
    lines = [f"{dataset.label}: no class in two parts; every packed image as it was packed ({store.fingerprint[:16]})"]
    for part in PARTS:
        partition = getattr(dataset, part)
        sizes = sorted(set(np.bincount(partition.labels).tolist()))
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        lines.append(f"  {part:5} {len(partition.class_names):5} classes x {each} images")
    return "\n".join(lines)


def overview(root: Path) -> str:
    """Return two lines a dataset: what it is, and where it is packed, under ``root`` or in the cache, or how to."""
    lines = [f"data root: {root}"]
    for name in sorted(DATASETS):
        folders = dict.fromkeys((root / "stores", cache_folder() / "stores"))
        packed = [path for folder in folders for path in folder.glob(f"{name}-*")]
        unpacked = "embedded" if name == "glyphs" else f"not packed: metalearn data prepare {name}"
        lines.append(f"  {name:10} {describe(name)}")
        lines += [f"  {'':10} packed: {path}" for path in sorted(packed)] or [f"  {'':10} {unpacked}"]
    return "\n".join(lines)
