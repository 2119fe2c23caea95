"""Scores of measured encoders beside the few-shot error of the same encoders, found by their weights."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from metalearn import stats
from metalearn.cells import Cell
from metalearn.errors import UserError
from metalearn.measured import Measurement, Score

FILE = "measure.json"


class Point(NamedTuple):
    """A score of one encoder, and the error of its features with its interval (fractions)."""

    extractor: str
    encoder: str
    score: Score
    error: stats.Estimate


class Panel(NamedTuple):
    """Points that may be compared: one metric on the same images, one learner in one setting."""

    metric: str
    measured_on: str
    cell: Cell
    points: list[Point]


def is_measurement(run: Path) -> bool:
    """Whether a directory is a run of ``metalearn measure``."""
    return (run / FILE).is_file()


def read_measurement(run: Path) -> Measurement:
    """Read what a finished run of ``metalearn measure`` found. Raises UserError."""
    if not (run / "result.json").exists():
        raise UserError(f"{run} holds no finished run (no result.json); finish it by `metalearn resume {run}`")
    try:
        data = json.loads((run / FILE).read_text())
        if "encoder" not in data:
            raise UserError(
                f"{run / FILE} does not say which weights it measured, as earlier versions did not; measure the "
                "checkpoint again"
            )
        values = {field.name: data[field.name] for field in fields(Measurement)}
        return Measurement(**{**values, "scores": [Score(**score) for score in data["scores"]]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run / FILE} is damaged: {error!r}; measure the checkpoint again") from None


def match(cells: Sequence[Cell], runs: Sequence[Path]) -> list[Panel]:
    """Pair scores in ``runs`` with errors in ``cells`` where both are of the same weights; frozen encoders only.

    Scores stand in one panel where metric, options and images are the same. Raises UserError for a run whose encoder
    no cell has, or that has no score, and for an encoder measured twice in the same way.
    """
    measured = [(run, read_measurement(run)) for run in runs]
    frozen = [cell for cell in cells if cell.mode == "frozen"]
    known = {encoder for cell in frozen for encoder in cell.encoders}
    for run, one in measured:
        if one.encoder not in known:
            silent = "" if known else " (none of them says which encoders it tested, as earlier versions did not)"
            raise UserError(
                f"{run} measured {one.checkpoint}, whose weights are none of those that these benchmarks tested "
                f"frozen{silent}; leave it out, or give a benchmark with an extractor of kind checkpoint and that path"
            )
        if not one.scores:
            raise UserError(f"{run} holds no score of {one.checkpoint}; leave it out, or measure it with metrics")
    panels: dict[tuple[str, ...], Panel] = {}
    rows = [(cell, row, encoder) for cell in frozen for row, encoder in enumerate(cell.encoders)]
    scores = [(one, score) for _, one in measured for score in one.scores]
    for cell, row, encoder in rows:
        error = stats.mean_interval(1 - cell.accuracy()[row : row + 1])
        for found, score in (pair for pair in scores if pair[0].encoder == encoder):
            how = found.fingerprint, score.name, json.dumps(score.options, sort_keys=True)
            key = cell.dataset, cell.split, cell.setting, cell.learner, *how
            panel = panels.setdefault(key, Panel(score.name, f"{found.dataset}, {found.part} part", cell, []))
            if any((cell.extractor, encoder) == (point.extractor, point.encoder) for point in panel.points):
                raise UserError(f"{found.checkpoint} is measured by two of these runs in the same way; leave one out")
            panel.points.append(Point(cell.extractor, encoder, score, error))
    return list(panels.values())
