"""Plots of a report: error against the seconds of training and against the width of the features."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from metalearn.cells import slug
from metalearn.plots import Plots, grouped, line_style, panels_figure, setting_of, shared_legend, span, titled
from metalearn.report import Report, Row

Value = Callable[[Row], float]

COSTS: dict[str, tuple[str, Value]] = {
    "cost": ("seconds of training, one seed", lambda row: row.training_each or 0.0),
    "width": ("features (numbers an image)", lambda row: row.feature_dim or 0),
}
"""What error is drawn against: the name of the file, the words on the axis, and what a row says of it; 0: nothing."""


def draw_costs(report: Report) -> Plots:
    """Draw a figure for each setting and cost; rows that do not say theirs are left out, equal costs are no plot."""
    plots = Plots({}, [])
    for (dataset, split, ways, shots), rows in grouped(report.rows, setting_of):
        for name, (words, value) in COSTS.items():
            known = [row for row in rows if value(row)]
            if len({value(row) for row in known}) > 1:
                plots.figures[slug(name, dataset, split, f"{ways}w{shots}s")] = against_cost(known, words, value)
            else:
                where = f"error against {words}, {dataset} {ways}w{shots}s"
                plots.left_out.append(f"{where}: all that say it, {len(known)} of {len(rows)} rows, say the same")
    return plots


def against_cost(rows: Sequence[Row], words: str, value: Value) -> Figure:
    """Draw error in percent over a cost, logarithmic, a panel a learner.

    A line joins rows of one extractor that come from several runs (``name``, ``name@run``), in the order of the cost.
    """
    figure, axes = panels_figure(len({row.learner for row in rows}), width=3.2, height=2.8)
    names = list(dict.fromkeys(_family(row) for row in rows))
    for panel, (learner, those) in zip(axes, grouped(rows, lambda row: row.learner), strict=True):
        for name, line in grouped(those, _family):
            line = sorted(line, key=value)
            panel.errorbar(
                [value(row) for row in line], [100 * row.error for row in line], yerr=[100 * row.ci95 for row in line],
                capsize=2, label=name, **line_style(names.index(name)),
            )  # fmt: skip
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(learner, fontsize=8)
        panel.set_xlabel(words)
        panel.set_ylabel("error (% of queries)")
    shared_legend(figure, axes)
    first, seeds = rows[0], span(max(1, len(row.extractor_seeds)) for row in rows)
    titled(
        figure,
        f"{first.dataset}, {first.split} classes, {first.ways}-way {first.shots}-shot: error, mean and 95 % interval; "
        f"N = {span(row.episodes for row in rows)} episodes x {seeds} seed{'s' * (seeds != '1')}",
    )
    return figure


def _family(row: Row) -> str:
    return row.extractor.partition("@")[0]
