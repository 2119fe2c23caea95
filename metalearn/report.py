"""From correct counts to a report: rows with intervals, paired comparisons with a baseline, Holm over the table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from metalearn import stats
from metalearn.cells import Cell, LabelsUsed, Mode, row_of
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
    check_baseline(baseline, cells)
    pairs = pairs_of(cells, baseline)
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


def check_baseline(baseline: str, cells: Sequence[Cell]) -> None:
    """Raise UserError where no cell is of the baseline."""
    names = list(dict.fromkeys(cell.extractor for cell in cells))
    if baseline not in names:
        raise UserError(unknown("baseline", baseline, names))


def _row(cell: Cell) -> Row:
    estimate = stats.mean_interval(cell.accuracy())
    mean = float(estimate.mean)
    return Row(**row_of(cell), accuracy=mean, ci95=float(estimate.half_width), error=1 - mean)


def pairs_of(cells: Sequence[Cell], baseline: str) -> list[tuple[Cell, Cell]]:
    """Return (cell of the baseline, cell of another extractor) with the same learner on the same episodes."""
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
