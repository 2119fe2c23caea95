"""From correct counts to a report: rows with intervals, paired comparisons with a baseline, Holm over the table."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from metalearn import stats
from metalearn.cells import Cell, LabelsUsed, Mode, load_cell, row_of
from metalearn.errors import UserError, unknown
from metalearn.one_shot import PUBLISHED, RunErrors, run_errors


@dataclass(frozen=True)
class Row:
    """One line of report.json. Fractions; `ci95` is the half-width of the 95 % interval of `accuracy`.

    `seconds` are of all seeds together, `training_seconds` the part of them that was pretraining and meta-training;
    counts of earlier versions do not say it, nor `feature_dim`, how many numbers the extractor gives an image.
    """

    dataset: str
    split: str
    ways: int
    shots: int
    queries: int
    episodes: int
    episode_seed: int
    extractor: str
    extractor_seeds: list[int]
    labels_used: LabelsUsed
    learner: str
    mode: Mode
    transductive: bool
    batch_norm: str
    accuracy: float
    ci95: float
    error: float
    seconds: float
    extractor_settings: str = ""
    feature_dim: int | None = None
    training_seconds: float | None = None

    @property
    def training_each(self) -> float | None:
        """Seconds of pretraining and meta-training of one seed; None where they are not known."""
        return None if self.training_seconds is None else self.training_seconds / max(1, len(self.extractor_seeds))

    @property
    def evaluation_each(self) -> float | None:
        """Seconds of extraction and testing of one seed; None where they are not known."""
        if self.training_seconds is None:
            return None
        return max(0.0, self.seconds - self.training_seconds) / max(1, len(self.extractor_seeds))


@dataclass(frozen=True)
class Comparison:
    """A candidate extractor against the baseline, same learner, same episodes. Fractions.

    `difference` is candidate error minus baseline error (negative: the candidate is better); `relative_reduction` is
    the part of the baseline's error that is gone, None where the baseline makes none. Intervals are (low, high).
    `p_value_holm` is adjusted over all comparisons of the report.
    """

    baseline: str
    candidate: str
    learner: str
    dataset: str
    ways: int
    shots: int
    error_baseline: float
    error_candidate: float
    difference: float
    difference_ci95: tuple[float, float]
    relative_reduction: float | None
    relative_reduction_ci95: tuple[float, float] | None
    p_value: float
    p_value_holm: float
    n_episodes: int
    n_seeds: int


@dataclass(frozen=True)
class Report:
    """Everything in report.json."""

    rows: list[Row]
    comparisons: list[Comparison]
    runs: list[RunErrors] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data of report.json, schema 1; ``one_shot_runs`` where such were tested."""
        data: dict[str, Any] = {
            "schema": 1,
            "rows": [asdict(row) for row in self.rows],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
        if self.runs:
            published = [one._asdict() for one in PUBLISHED]
            data["one_shot_runs"] = {"published": published, "errors": [asdict(one) for one in self.runs]}
        return data


def build_report(cells: Sequence[Cell], baseline: str) -> Report:
    """Rows of all `cells`, and every other extractor compared with `baseline` wherever the episodes are the same.

    Episode i of a seed does not depend on how many follow, so cells of different length are compared on the
    episodes they share. Raises `UserError` if no cell is of `baseline`, or seeds cannot be paired.
    """
    _check_baseline(baseline, cells)
    pairs = _pairs(cells, baseline)
    results = [_compare(reference, candidate) for reference, candidate in pairs]
    adjusted = stats.holm([result.p_value for result in results]) if results else []
    comparisons = [
        Comparison(
            baseline=baseline, candidate=candidate.extractor, learner=candidate.learner, dataset=candidate.dataset,
            ways=candidate.ways, shots=candidate.shots, p_value_holm=float(p_holm), **asdict(result),
        )
        for (_, candidate), result, p_holm in zip(pairs, results, adjusted, strict=True)
    ]  # fmt: skip
    return Report([_row(cell) for cell in cells], comparisons, run_errors(cells))


def _check_baseline(baseline: str, cells: Sequence[Cell]) -> None:
    names = list(dict.fromkeys(cell.extractor for cell in cells))
    if baseline not in names:
        raise UserError(unknown("baseline", baseline, names))


def _row(cell: Cell) -> Row:
    estimate = stats.mean_interval(cell.accuracy())
    mean = float(estimate.mean)
    return Row(**row_of(cell), accuracy=mean, ci95=float(estimate.half_width), error=1 - mean)


def _pairs(cells: Sequence[Cell], baseline: str) -> list[tuple[Cell, Cell]]:
    references = {(cell.pairing, cell.learner): cell for cell in cells if cell.extractor == baseline}
    candidates = [cell for cell in cells if cell.extractor != baseline]
    keyed = ((references.get((cell.pairing, cell.learner)), cell) for cell in candidates)
    return [(reference, cell) for reference, cell in keyed if reference is not None]


def _compare(reference: Cell, candidate: Cell) -> stats.Comparison:
    shared = min(reference.episodes, candidate.episodes)
    try:
        return stats.compare(reference.accuracy()[:, :shared], candidate.accuracy()[:, :shared])
    except UserError as error:
        where = f"{candidate.extractor} against {reference.extractor}, {candidate.learner}, {candidate.setting}"
        raise UserError(f"{where}: {error}") from None


class _Source(NamedTuple):
    """A cell and the run directory it is from."""

    run: Path
    cell: Cell


def merge(runs: Sequence[Path], baseline: str | None = None) -> Report:
    """One report over finished `runs`; `baseline` defaults to that of the first.

    The same extractor, learner and setting with equal counts in two runs is one row; with other counts it is
    another extractor, named ``name@run``. Raises `UserError` for a directory that is no finished benchmark, for
    runs whose episodes differ though their settings look alike, and for a run that nothing can be compared with.
    """
    cells, chosen = merged_cells(runs, baseline)
    return build_report(cells, chosen)


def merged_cells(runs: Sequence[Path], baseline: str | None = None) -> tuple[list[Cell], str]:
    """Cells and baseline of the report that ``merge`` gives. Raises `UserError` as it does."""
    sources = [_Source(run, cell) for run in runs for cell in read_cells(run)]
    _check_episodes(sources)
    cells = _distinct(sources)
    chosen = baseline if baseline is not None else _baseline_of(runs[0], cells)
    _check_baseline(chosen, [cell for _, cell in cells])
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
    return Cell(**{**vars(cell), "extractor": extractor})


def _check_connected(sources: Sequence[_Source], baseline: str) -> None:
    paired = {id(cell) for pair in _pairs([cell for _, cell in sources], baseline) for cell in pair}
    for run in dict.fromkeys(source.run for source in sources):
        if not any(id(source.cell) in paired for source in sources if source.run == run):
            raise UserError(
                f"nothing in {run} can be compared with baseline {baseline!r}: no learner, dataset and setting in "
                "common; leave it out or give another --baseline"
            )
