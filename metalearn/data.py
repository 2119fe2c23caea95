"""Datasets as a config names them: built under a data root, with progress, prepared, checked and listed."""

import os
from collections.abc import Callable
from pathlib import Path

from metalearn.errors import UserError, unknown
from metalearn.kinds import TABLES, check_kind
from metalearn.schema import Kind
from tasks.datasets import DATASETS, describe
from tasks.splits import PARTS, Dataset
from tasks.store import cache_folder

Show = Callable[[int, int, str], None]


def default_root() -> Path:
    """METALEARN_DATA, else the cache folder."""
    given = os.environ.get("METALEARN_DATA")
    return Path(given) if given else cache_folder()


def build_dataset(kind: Kind, root: Path, progress: Show = lambda done, total, text: None) -> Dataset:
    """Build the dataset of a config's ``dataset`` key. Raises UserError or DataError, naming what is wrong."""
    choice = check_kind("dataset", kind, DATASETS, TABLES["dataset"].skip)
    return choice.build(root, report=lambda what, done, total: progress(done, total, what), **choice.options)


def prepare(name: str, root: Path, progress: Show) -> str:
    """Find or fetch, verify and pack a dataset; return one line on what there is now."""
    if name not in DATASETS:
        raise UserError(unknown("dataset", name, DATASETS))
    dataset = build_dataset(Kind(kind=name), root, progress)
    store = dataset.train.store
    return f"{name}: {len(store.class_names)} classes, {len(store.images)} images of {store.images.shape[1:]}, ready"


def check(name: str, root: Path, progress: Show) -> str:
    """Verify a dataset and return a table of its parts; raises DataError for what is wrong with it."""
    if name not in DATASETS:
        raise UserError(unknown("dataset", name, DATASETS))
    dataset = build_dataset(Kind(kind=name), root, progress)
    lines = [f"{dataset.label}: no class in two parts; fingerprint {dataset.train.store.fingerprint[:16]}"]
    for part in PARTS:
        partition = getattr(dataset, part)
        sizes = sorted({int(size) for size in _class_sizes(partition.labels)})
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        lines.append(f"  {part:5} {len(partition.class_names):5} classes x {each} images")
    return "\n".join(lines)


def _class_sizes(labels: object) -> list[int]:
    import numpy as np

    return np.bincount(np.asarray(labels)).tolist()


def overview(root: Path) -> str:
    """Return one line a dataset: what it is, and whether it is packed under ``root``."""
    lines = [f"data root: {root}"]
    for name in sorted(DATASETS):
        packed = sorted(path.name for path in (root / "stores").glob(f"{name}-*")) if root.is_dir() else []
        state = f"packed ({len(packed)})" if packed else "embedded" if name == "glyphs" else "not packed yet"
        lines.append(f"  {name:10} {state:15} {describe(name)}")
    return "\n".join(lines)
