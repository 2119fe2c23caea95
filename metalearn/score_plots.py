"""Plots of disentanglement scores against few-shot error, a point an encoder, a panel a score."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metalearn import stats
from metalearn.cells import slug
from metalearn.errors import UserError
from metalearn.plots import Plots, grouped, line_style, panels_figure, shared_legend, titled
from metalearn.scored import Panel, Point


def draw_scores(panels: Sequence[Panel]) -> Plots:
    """Draw a figure for each learner and setting; a score of fewer than 3 encoders, or that is equal, is left out."""
    plots = Plots({}, [])
    if not panels:
        plots.left_out.append("scores against few-shot error: no run of metalearn measure is given")
    for (dataset, split, setting, learner), those in grouped(panels, _figure_of):
        drawn = []
        for panel in those:
            try:
                drawn.append((panel, correlation(panel.points)))
            except UserError as error:
                where = f"{panel.metric} against few-shot error, {dataset} {setting}, {learner}"
                plots.left_out.append(f"{where}: {error}")
        if drawn:
            plots.figures[slug("scores", dataset, split, setting, learner)] = against_error(drawn)
    return plots


def correlation(points: Sequence[Point]) -> stats.RankCorrelation:
    """Rank correlation of score and error over encoders. Raises UserError where it has none."""
    return stats.rank_correlation(
        np.array([point.score.mean for point in points]), np.array([point.error.mean for point in points])
    )


def against_error(panels: Sequence[tuple[Panel, stats.RankCorrelation]]) -> Figure:
    """Draw error in percent over a score with both intervals; the correlation stands above each panel."""
    figure, axes = panels_figure(len(panels), width=3.2, height=3.0)
    names = list(dict.fromkeys(point.extractor for panel, _ in panels for point in panel.points))
    for one, (panel, found) in zip(axes, panels, strict=True):
        _draw_points(one, panel.points, names)
        interval = f"[{found.ci95[0]:+.2f}, {found.ci95[1]:+.2f}]" if found.ci95 else "no interval"
        one.set_title(f"rank correlation {found.rho:+.2f} {interval}, N = {found.n}", fontsize=8)
        one.set_xlabel(f"{panel.metric} (score)")
        one.set_ylabel("error (% of queries)")
    shared_legend(figure, axes)
    cell, repeats = panels[0][0].cell, sorted({point.score.n for panel, _ in panels for point in panel.points})
    measured = ", ".join(dict.fromkeys(panel.measured_on for panel, _ in panels))
    titled(
        figure,
        f"{cell.dataset}, {cell.split} classes, {cell.setting}, {cell.learner}: error against score on {measured}; a "
        f"point an encoder of one seed; bars: 95 % intervals over N = {cell.episodes} episodes and over "
        f"{' or '.join(map(str, repeats))} repeats of the metric; brackets: 95 % interval of Spearman's rank "
        "correlation over N points",
    )
    return figure


def _draw_points(axes: Axes, points: Sequence[Point], names: Sequence[str]) -> None:
    for extractor, those in grouped(points, lambda point: point.extractor):
        style = line_style(names.index(extractor)) | {"linestyle": "none"}
        axes.errorbar(
            [point.score.mean for point in those], [100 * point.error.mean for point in those],
            xerr=[point.score.ci95 for point in those], yerr=[100 * point.error.half_width for point in those],
            label=extractor, capsize=2, **style,
        )  # fmt: skip


def _figure_of(panel: Panel) -> tuple[str, str, str, str]:
    cell = panel.cell
    return cell.dataset, cell.split, cell.setting, cell.learner
