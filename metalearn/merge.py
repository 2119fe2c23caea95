"""Finished benchmarks made apart, merged into one report; what cannot be paired is refused."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn.cells import Cell, Facts, load_cell, row_of
from metalearn.config import parse
from metalearn.errors import UserError
from metalearn.report import Report, build_report, check_baseline, pairs_of


class _Source(NamedTuple):
    """A cell and the run directory it is from."""

    run: Path
    cell: Cell


def merge(runs: Sequence[Path], baseline: str | None = None) -> Report:
    """One report over finished `runs`; `baseline` defaults to that of the first.

    The same extractor, learner and setting in two runs is one row where counts are equal, and where the seeds are other
    ones but the settings of dataset, extractor, learner and budgets the same; else it is another extractor, named
    ``name@run``. Raises `UserError` for a directory that is no finished benchmark, for runs whose episodes differ
    though their settings look alike, and for a run that nothing can be compared with.
    """
    cells, chosen = merged_cells(runs, baseline)
    return build_report(cells, chosen)


def merged_cells(runs: Sequence[Path], baseline: str | None = None) -> tuple[list[Cell], str]:
    """Cells and baseline of the report that ``merge`` gives. Raises `UserError` as it does."""
    sources = [_Source(run, cell) for run in runs for cell in read_cells(run)]
    _check_episodes(sources)
    cells = _distinct(_joined(sources))
    chosen = baseline if baseline is not None else _baseline_of(runs[0], cells)
    check_baseline(chosen, [cell for _, cell in cells])
    if len(runs) > 1:
        _check_connected(cells, chosen)
    return [cell for _, cell in cells], chosen


def read_cells(run: Path) -> list[Cell]:
    """Cells of the finished benchmark in directory `run`, in the order of its report. Raises `UserError`."""
    if not run.is_dir():
        raise UserError(f"{run} is not a directory; give finished run directories of `metalearn bench`")
    if not (run / "result.json").exists():
        raise UserError(f"{run} holds no finished run (no result.json); finish it by `metalearn resume {run}`")
    cells = [load_cell(path) for path in sorted(run.glob("episodes-*.npz"))]
    if not cells:
        raise UserError(f"{run} holds no episode counts (episodes-*.npz); give a run of `metalearn bench`")
    order = {key: place for place, key in enumerate(map(_row_key, _read_report(run)["rows"]))}
    return sorted(cells, key=lambda cell: order.get(_row_key(row_of(cell)), len(order)))


def _row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("dataset", "split", "ways", "shots", "extractor", "learner"))


def _read_report(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "report.json").read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{run / 'report.json'} cannot be read: {error}") from None


def _baseline_of(run: Path, cells: Iterable[_Source]) -> str:
    comparisons = _read_report(run)["comparisons"]
    return str(comparisons[0]["baseline"]) if comparisons else next(iter(cells)).cell.extractor


def _check_episodes(sources: Sequence[_Source]) -> None:
    """Refuse cells that a reader would take for comparable and that are not."""
    first: dict[tuple[object, ...], _Source] = {}
    for source in sources:
        cell = source.cell
        other = first.setdefault((cell.dataset, cell.split, cell.ways, cell.shots), source)
        names = ("images (fingerprint)", "ways", "shots", "queries", "episode seed")
        for name, there, here in zip(names, other.cell.pairing, cell.pairing, strict=True):
            if there != here:
                raise UserError(
                    f"{other.run} and {source.run} cannot be compared: {cell.dataset} {cell.setting} has {name} "
                    f"{there} in the one, {here} in the other; run one of them again with the other's settings"
                )


def _joined(sources: Sequence[_Source]) -> list[_Source]:
    """With the seeds of an extractor that were run apart, by the same settings, as one cell."""
    kept: dict[tuple[object, ...], list[_Source]] = {}
    resolved = cache(_resolved)
    for source in sources:
        cell = source.cell
        alike = kept.setdefault((cell.pairing, cell.learner, cell.extractor), [])
        for place, other in enumerate(alike):
            if _are_seeds_of_one(other, source, resolved):
                alike[place] = _Source(other.run, _with_seeds(other.cell, cell))
                break
        else:
            alike.append(source)
    return [source for alike in kept.values() for source in alike]


def _are_seeds_of_one(one: _Source, other: _Source, resolved: Callable[[Path], Any]) -> bool:
    """Whether two cells of equal names differ in nothing but their seeds, none of which both have."""
    seeds, more = set(one.cell.extractor_seeds), set(other.cell.extractor_seeds)
    return (
        bool(seeds and more) and not seeds & more
        and all(getattr(one.cell, name) == getattr(other.cell, name) for name in Facts._fields)
        and one.cell.correct.shape[1] == other.cell.correct.shape[1]
        and _settings(one, resolved(one.run)) == _settings(other, resolved(other.run)) is not None
    )  # fmt: skip


def _resolved(run: Path) -> Any:
    """The settings of a run, None where they cannot be read."""
    try:
        return parse((run / "resolved.yaml").read_text(encoding="utf-8"), "resolved.yaml")
    except (OSError, UserError):
        return None


def _settings(source: _Source, data: Any) -> Any:
    """What made a cell, from its run's settings; None where these do not tell, as for `metalearn train`.

    Without options that are off: an earlier version did not have them.
    """
    try:
        own = {"extractor": data["extractors"][source.cell.extractor], "learner": data["learners"][source.cell.learner]}
        return _on({**own, **{name: data.get(name) for name in ("dataset", "pretraining", "meta_training")}})
    except (LookupError, TypeError, AttributeError):
        return None


def _on(value: Any) -> Any:
    """Settings without those that are null or false."""
    if isinstance(value, dict):
        return {name: _on(one) for name, one in value.items() if one is not None and one is not False}
    return [_on(one) for one in value] if isinstance(value, list) else value


def _with_seeds(one: Cell, other: Cell) -> Cell:
    """Both cells' seeds, in order."""
    seeds = one.extractor_seeds + other.extractor_seeds
    order = np.argsort(seeds)
    training = None
    if one.training_seconds is not None and other.training_seconds is not None:
        training = one.training_seconds + other.training_seconds
    encoders = one.encoders + other.encoders if one.encoders and other.encoders else ()
    return replace(
        one, extractor_seeds=tuple(seeds[place] for place in order), seconds=one.seconds + other.seconds,
        correct=np.concatenate([one.correct, other.correct])[order],
        training_seconds=training,
        encoders=tuple(encoders[place] for place in order) if encoders else (),
    )  # fmt: skip


def _distinct(sources: Sequence[_Source]) -> list[_Source]:
    """Without repeats; different cells of one name are told apart by their run."""
    kept: dict[tuple[object, ...], _Source] = {}
    for source in sources:
        cell = source.cell
        key = (cell.pairing, cell.learner)
        same = kept.get((key, cell.extractor))
        if same is not None:
            if same.cell.correct.shape == cell.correct.shape and (same.cell.correct == cell.correct).all():
                continue
            cell = _renamed(cell, f"{cell.extractor}@{source.run.name}")
        kept[key, cell.extractor] = _Source(source.run, cell)
    return list(kept.values())


def _renamed(cell: Cell, extractor: str) -> Cell:
    return replace(cell, extractor=extractor)


def _check_connected(sources: Sequence[_Source], baseline: str) -> None:
    paired = {id(cell) for pair in pairs_of([cell for _, cell in sources], baseline) for cell in pair}
    for run in dict.fromkeys(source.run for source in sources):
        if not any(id(source.cell) in paired for source in sources if source.run == run):
            raise UserError(
                f"nothing in {run} can be compared with baseline {baseline!r}: no learner, dataset and setting in "
                "common; leave it out or give another --baseline"
            )
