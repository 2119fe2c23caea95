"""Datasets as a config names them: built under a data root, with progress, prepared, checked and listed."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metalearn.errors import DataError, UserError, unknown
from metalearn.kinds import TABLES, check_kind
from metalearn.schema import Kind
from tasks.class_names import MIRRORED
from tasks.datasets import DATASETS, describe
from tasks.findings import Findings, look_at_listing, look_at_store
from tasks.origins import ORIGINS
from tasks.packing import stores
from tasks.progress import Progress, silent
from tasks.splits import PARTS, Dataset
from tasks.store import fingerprint, open_store

_SHOWN = 5  # images named where naming all would hide the rest; how many there are is always said


def build_dataset(kind: Kind, root: Path, report: Progress = silent) -> Dataset:
    """Build the dataset of a config's ``dataset`` key. Raises UserError or DataError, naming what is wrong.

    A function of one's own is given ``root`` and ``report`` where its signature names them.
    """
    choice = check_kind("dataset", kind, DATASETS, TABLES["dataset"].skip)
    taken = inspect.signature(choice.build).parameters
    supplied = {name: value for name, value in (("root", root), ("report", report)) if name in taken}
    dataset = choice.build(**supplied, **choice.options)
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"dataset {kind.kind!r} gives a {type(dataset).__name__}; allowed: a function that returns a "
            "tasks.splits.Dataset, such as Dataset.of_classes makes"
        )
    return replace(dataset, settings=choice.kind.model_dump(mode="json"))


def prepare(name: str, root: Path, report: Progress, options: Mapping[str, Any] | None = None) -> str:
    """Find or fetch, verify and pack a dataset; return a few lines on what there is now."""
    dataset = build_dataset(_kind(name, options), root, report)
    store = dataset.train.store
    ready = f"{dataset.label}: {len(store.class_names)} classes, {len(store.images)} images of {store.images.shape[1:]}"
    return "\n".join([f"{ready}, ready", *_notes(store.info)])


def check(name: str, root: Path, report: Progress, options: Mapping[str, Any] | None = None) -> str:
    """Look at every image of a dataset and return what was found.

    Raises DataError, naming every image that cannot be read, or when the packed images are not what was packed.
    """
    kind = _kind(name, options)
    choice = check_kind("dataset", kind, DATASETS, TABLES["dataset"].skip)
    origin, findings = ORIGINS.get(name), None
    given = origin is not None and (origin.find is None or choice.options.get("source"))
    files = origin.find(root) if origin is not None and origin.find is not None and not given else []
    if origin is not None and (given or files):
        listing, decoder = origin.open(root, report=report, **choice.options)
        findings = look_at_listing(listing, decoder, report)
        if findings.problems:
            lines = [f"{len(findings.problems)} images of {listing.path} cannot be used:", *findings.problems]
            raise DataError("\n  ".join(lines))
    dataset = build_dataset(kind, root, report)
    store = dataset.train.store
    report("compare the packed images with their fingerprint", 0, 0)
    if fingerprint(store) != store.fingerprint:
        raise DataError(
            f"the packed images of {name} are not what was packed (fingerprint {fingerprint(store)[:16]}, recorded "
            f"{store.fingerprint[:16]}); remove the store that `metalearn data list` names and prepare it again"
        )
    lines = [f"{dataset.label}: no class in two parts; every packed image as it was packed ({store.fingerprint[:16]})"]
    lines += [f"  from {path} ({what})" for path, what in files]
    lines += [_counts(dataset, part) for part in PARTS]
    lines += _described(findings or look_at_store(store, report), dataset, looked_at_files=findings is not None)
    return "\n".join([*lines, *_notes(store.info)])


def overview(root: Path) -> str:
    """Return what each dataset is, where its files and its packed images are, or what is missing and how to get it."""
    lines, width = [f"data root: {root}"], max(map(len, DATASETS))
    for name in sorted(DATASETS):
        lines.append(f"  {name:{width}} {describe(name)}")
        lines += [f"  {'':{width}} {line}" for line in _state(name, root)]
    return "\n".join(lines)


def _state(name: str, root: Path) -> Iterator[str]:
    """What is there of a dataset, a line each, and what to do next."""
    origin = ORIGINS.get(name)
    found: list[tuple[Path, str]] = []
    if origin is not None and origin.find is not None:
        try:
            found = origin.find(root)
        except DataError as error:  # the others are listed all the same
            yield f"cannot be read: {error}"
            return
    for path, what in found:
        yield f"found: {path} ({what})"
    packed = stores(name, root=root)
    for path in packed:
        try:
            yield _packed(path)
        except DataError as error:
            yield f"packed, but {error}"
    if origin is None:
        yield "embedded: nothing to fetch"
    elif origin.find is None:
        yield f"yours: {origin.obtain}"
    elif not found and not packed:
        yield f"missing: {origin.obtain}"
    elif not packed:
        yield f"not packed yet: metalearn data prepare {name}"


def _packed(path: Path) -> str:
    store = open_store(path)
    of = f" of {store.info['source']}" if store.info.get("source") else ""
    size = f"{store.images.nbytes / 1e6:.0f} MB"
    return f"packed: {len(store.images)} images{of}, {store.images.shape[1:]} each, {size}, in {path}"


def _kind(name: str, options: Mapping[str, Any] | None) -> Kind:
    if name not in DATASETS and ":" not in name:
        raise UserError(unknown("dataset", name, DATASETS) + "; or package.module:function")
    return Kind(kind=name, **(options or {}))


def _notes(info: Mapping[str, Any]) -> list[str]:
    return [f"  note: {note}" for note in info.get("notes", ())]


def _counts(dataset: Dataset, part: str) -> str:
    """Classes and images of a part; every class by name where they differ in size."""
    partition = getattr(dataset, part)
    counts = np.bincount(partition.labels, minlength=len(partition.class_names)).tolist()
    sizes = sorted(set(counts))
    line = f"  {part:5} {len(counts):5} classes x {sizes[0]}{f' to {sizes[-1]}' if len(sizes) > 1 else ''} images"
    if len(partition.base_classes) < len(counts):
        how = "turned" if partition.orientations.max() < MIRRORED else "turned or mirrored"
        line += f" ({how}, of {len(partition.base_classes)})"
    if len(sizes) == 1:
        return line
    each = [f"{name} {count}" for name, count in zip(partition.class_names, counts, strict=True)]
    return "\n".join([f"{line}:", *(f"        {', '.join(each[i : i + 6])}" for i in range(0, len(each), 6))])


def _described(findings: Findings, dataset: Dataset, *, looked_at_files: bool) -> list[str]:
    lines = []
    if looked_at_files:
        sizes = [f"{width}x{height} ({count})" for (width, height), count in findings.sizes.most_common()]
        more = f" and {len(sizes) - _SHOWN} other sizes" if len(sizes) > _SHOWN else ""
        lines.append(f"  originals: {', '.join(sizes[:_SHOWN])}{more}; all of them can be read")
    else:
        lines.append("  originals: not at hand; what follows is of the packed images")
    if dataset.train.image_shape[0] == 3:
        lines.append(f"  without colour: {_some(findings.grey)}")
    part_of = {name: part for part in PARTS for name in getattr(dataset, part).base_classes}
    across: list[list[tuple[str, str]]] = []
    within: list[list[tuple[str, str]]] = []
    for group in findings.equal:
        parts = {part_of[kind] for kind, _ in group if kind in part_of}
        (across if len(parts) > 1 else within).append(group)
    if across:
        lines.append(
            f"  WARNING: {len(across)} images are in two parts; a test of them is no test. Remove one of each:"
        )
        lines += [
            "    " + " = ".join(f"{name} ({part_of.get(kind, 'no part')}, {kind})" for kind, name in group)
            for group in across
        ]
    else:
        lines.append("  no image in two parts")
    lines.append(f"  images that occur again in their part: {_some([' = '.join(n for _, n in g) for g in within])}")
    return lines


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN])}{more}"
