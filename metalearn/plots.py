"""Plots of a report: error with intervals, paired differences, accuracy against shots. What makes no sense is left out.

Every mark tells what it is by its shape too, so a print in black and white can be read.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from textwrap import fill
from typing import Any, NamedTuple, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metalearn.cells import slug
from metalearn.report import Comparison, Report, Row

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]  # of Okabe and Ito
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h"]
LINES = ["-", "--", "-.", ":"]
LABELS = {"none": 0, "class": 1, "factor": 2, "external": 3}
_ROW = 0.24  # inches a row takes
_PANELS = 3  # side by side
_LETTERS = 13  # of a title in an inch

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


class Plots(NamedTuple):
    """Figures by the name of their file, without its ending; what was left out and why, a line each."""

    figures: dict[str, Figure]
    left_out: list[str]

    def listed(self, *endings: str) -> str:
        """Say in a line each which files there are, and what was left out."""
        names = [f"{name}{ending}" for name in self.figures for ending in endings]
        return "\n\n".join([f"Plots: {', '.join(names)}", *(f"No plot of {line}" for line in self.left_out)]) + "\n"


def joined(*all_plots: Plots) -> Plots:
    """Return all figures, and all that was left out, as one."""
    figures = {name: figure for plots in all_plots for name, figure in plots.figures.items()}
    return Plots(figures, [line for plots in all_plots for line in plots.left_out])


def draw(report: Report) -> Plots:
    """Draw what ``report`` has data for: a figure a setting, and for accuracy against shots one a number of ways."""
    plots = Plots({}, [])
    for (dataset, split, ways, shots), rows in grouped(report.rows, setting_of):
        plots.figures[slug("error", dataset, split, f"{ways}w{shots}s")] = error(rows)
    for (dataset, ways, shots), items in grouped(report.comparisons, lambda one: (one.dataset, one.ways, one.shots)):
        plots.figures[slug("difference", dataset, f"{ways}w{shots}s")] = forest(items, len(report.comparisons))
    if not report.comparisons:
        plots.left_out.append("paired differences: nothing is compared with the baseline")
    for (dataset, split, ways), rows in grouped(report.rows, lambda row: (row.dataset, row.split, row.ways)):
        counts = {row.shots for row in rows}
        if len(counts) > 1:
            plots.figures[slug("shots", dataset, split, f"{ways}w")] = against_shots(rows)
        else:
            only = f"one number of shots only, {min(counts)}"
            plots.left_out.append(f"accuracy against shots, {dataset} {ways}-way: {only}")
    return plots


def setting_of(row: Row) -> tuple[str, str, int, int]:
    """What rows of one figure have in common."""
    return row.dataset, row.split, row.ways, row.shots


def error(rows: Sequence[Row]) -> Figure:
    """Draw the error of each row of one setting with its interval, in percent, the first at the top."""
    figure, axes = _rows_figure([_name(row) for row in rows])
    for labels, (place, those) in _placed(rows, lambda row: row.labels_used):
        style = LABELS[labels]
        axes.errorbar(
            [100 * row.error for row in those], place, xerr=[100 * row.ci95 for row in those], fmt=MARKERS[style],
            color=COLOURS[style], capsize=3, label=labels,
        )  # fmt: skip
    axes.set_xlabel("error (% of queries)")
    axes.legend(title="labels seen", fontsize=7, title_fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    first = rows[0]
    titled(
        figure,
        f"{first.dataset}, {first.split} classes, {first.ways}-way {first.shots}-shot: error, mean and 95 % interval; "
        f"N = {span(row.episodes for row in rows)} episodes of {first.queries} queries a class",
    )
    return figure


def forest(items: Sequence[Comparison], table: int) -> Figure:
    """Draw the paired differences of one setting with their intervals, in points; filled: Holm's p is below 0.05.

    ``table``: over how many comparisons p was adjusted.
    """
    figure, axes = _rows_figure([f"{one.candidate}, {one.learner}" for one in items])
    axes.axvline(0, color="black", linewidth=0.8)
    for certain, (place, those) in _placed(items, lambda one: one.p_value_holm < 0.05):
        middle = [100 * one.difference for one in those]
        low = [100 * (one.difference - one.difference_ci95[0]) for one in those]
        high = [100 * (one.difference_ci95[1] - one.difference) for one in those]
        axes.errorbar(
            middle, place, xerr=[low, high], fmt="o", color=COLOURS[0], capsize=3,
            markerfacecolor=COLOURS[0] if certain else "white", label=f"Holm p {'<' if certain else '>='} 0.05",
        )  # fmt: skip
    axes.set_xlabel("difference in error (points); left of 0 the candidate is better")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    first = items[0]
    titled(
        figure,
        f"{first.dataset}, {first.ways}-way {first.shots}-shot: candidate error minus that of {first.baseline}, same "
        f"episodes, mean and 95 % interval; N = {span(one.n_episodes for one in items)} episodes x "
        f"{span(one.n_seeds for one in items)} seeds; Holm's p over {table} comparisons",
    )
    return figure


def against_shots(rows: Sequence[Row]) -> Figure:
    """Draw accuracy with intervals, in percent, over the shots of one number of ways: a panel a learner, a line an
    extractor. Shots are evenly spaced, and lines are moved a little aside of each other.
    """
    shots = sorted({row.shots for row in rows})
    extractors = list(dict.fromkeys(row.extractor for row in rows))
    panels = dict(grouped(rows, lambda row: row.learner))
    figure, axes = panels_figure(len(panels), width=3.2, height=2.8)
    for panel, (learner, those) in zip(axes, panels.items(), strict=True):
        for extractor, line in grouped(those, lambda row: row.extractor):
            number = extractors.index(extractor)
            line = sorted(line, key=lambda row: row.shots)
            aside = 0.5 * (number + 0.5) / len(extractors) - 0.25
            panel.errorbar(
                [shots.index(row.shots) + aside for row in line], [100 * row.accuracy for row in line],
                yerr=[100 * row.ci95 for row in line], capsize=2, label=extractor, **line_style(number),
            )  # fmt: skip
        panel.set_title(learner, fontsize=8)
        panel.set_xticks(range(len(shots)), list(map(str, shots)))
        panel.set_xlabel("shots (images a class)")
        panel.set_ylabel("accuracy (% of queries)")
    shared_legend(figure, axes)
    first = rows[0]
    titled(
        figure,
        f"{first.dataset}, {first.split} classes, {first.ways}-way: accuracy, mean and 95 % interval; "
        f"N = {span(row.episodes for row in rows)} episodes of {span(row.queries for row in rows)} queries a class",
    )
    return figure


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> Iterator[tuple[Key, list[Item]]]:
    """Items by what ``key`` says of them, in the order in which each is first said."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    yield from groups.items()


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and line of series ``number``; the first 77 differ in colour or marker."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def panels_figure(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Make ``count`` axes of width x height inches, three side by side."""
    columns = min(count, _PANELS)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(5.2, width * columns + 0.4), height * lines + 1.2), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, place + 1) for place in range(count)]


def shared_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Put one legend below panels whose series of the same name look alike."""
    handles = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    columns = max(1, int(figure.get_figwidth() / (0.6 + 0.07 * max(map(len, handles)))))
    figure.legend(list(handles.values()), list(handles), fontsize=7, loc="outside lower center", ncols=columns)


def titled(figure: Figure, text: str) -> None:
    """Put ``text`` above a figure, in as many lines as its width asks for."""
    figure.suptitle(fill(text, int(_LETTERS * figure.get_figwidth())), fontsize=8)


def span(numbers: Iterable[int]) -> str:
    """``200``, or ``50 to 200`` where they differ."""
    found = sorted(set(numbers))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _name(row: Row) -> str:
    seeds = f" ({len(row.extractor_seeds)} seeds)" if len(row.extractor_seeds) > 1 else ""
    return f"{row.extractor}, {row.learner}{seeds}"


def _rows_figure(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Make axes with a row for each name, the first at the top, none on another."""
    longest = max(map(len, names))
    figure = Figure(figsize=(5.6 + 0.07 * longest, _ROW * len(names) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.3)
    return figure, axes


def _placed(items: Sequence[Item], key: Callable[[Item], Key]) -> Iterator[tuple[Key, tuple[list[int], list[Item]]]]:
    """Give each group of items with the rows they stand in."""
    for value, those in grouped(list(enumerate(items)), lambda pair: key(pair[1])):
        yield value, ([place for place, _ in those], [item for _, item in those])
