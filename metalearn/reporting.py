"""``metalearn report``: the text of a report over finished runs, and its plots where they are asked for."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gvae.atomic import write_atomic
from metalearn.cost_plots import draw_costs
from metalearn.errors import UserError
from metalearn.merge import merged_cells
from metalearn.plots import Plots, draw, joined
from metalearn.render import render
from metalearn.report import build_report
from metalearn.score_plots import draw_scores
from metalearn.scored import is_measurement, match

ENDINGS = (".png", ".svg")


def reported(runs: Sequence[Path], baseline: str | None, format: str, folder: Path | None) -> tuple[str, str]:
    """Give the report over the benchmarks among ``runs`` in a format, and what was drawn into ``folder`` in words.

    Runs of ``metalearn measure`` among them are drawn against the error of their encoders. Raises UserError for runs
    that cannot be merged or matched, and for measured ones without a folder to draw into.
    """
    measured = [run for run in runs if is_measurement(run)]
    tested = [run for run in runs if run not in measured]
    if not tested:
        raise UserError(f"{measured[0]} is a run of metalearn measure; give a finished run of `metalearn bench` too")
    if measured and folder is None:
        raise UserError(f"{measured[0]} holds scores, which are only drawn; add --plots FOLDER")
    cells, chosen = merged_cells(tested, baseline)
    report = build_report(cells, chosen)
    text = render(report, format)
    if folder is None:
        return text, ""
    plots = joined(draw(report), draw_costs(report), draw_scores(match(cells, measured)))
    write(plots, folder)
    return text, f"written to {folder}\n\n{plots.listed(*ENDINGS)}"


def write(plots: Plots, folder: Path) -> None:
    """Write each figure as png and svg, atomically. Raises UserError for a folder that is a file."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--plots {folder} is a file; give a folder")
    for name, figure in plots.figures.items():
        for ending in ENDINGS:
            write_atomic(folder / f"{name}{ending}", partial(figure.savefig, format=ending[1:], dpi=150))
