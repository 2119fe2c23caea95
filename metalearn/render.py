"""A report as Markdown, CSV, LaTeX or JSON."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from metalearn.errors import UserError, unknown
from metalearn.one_shot import Table, csv_columns, run_tables
from metalearn.report import Comparison, Report, Row

NOTE = (
    "Accuracy in percent, ± half the width of its 95 % interval: Student t over episodes, and with several seeds "
    "over seeds and episodes as crossed random effects. With one seed the interval says nothing about other seeds. "
    "Difference: candidate error minus baseline error in points, same episodes; negative is better. "
    "Error reduction: percent of the baseline's error that is gone. Brackets: 95 % intervals. "
    "p: paired test; Holm p: adjusted over all comparisons here. "
    "Features: numbers an image. Training s: seconds of pretraining and meta-training, evaluation s: of extracting "
    "features (0 where they were kept) and testing, one seed and one setting, as they took when they were done."
)
COMPARISON_HEAD = [
    "candidate", "learner", "dataset", "setting", "baseline error", "candidate error", "difference", "error reduction",
    "p", "Holm p", "episodes", "seeds",
]  # fmt: skip


def render(report: Report, format: str) -> str:
    """Text of `report` in `format`: md, csv, tex or json. Raises `UserError` for another format."""
    if format not in FORMATS:
        raise UserError(unknown("format", format, FORMATS))
    return FORMATS[format](report)


def _markdown(report: Report) -> str:
    parts = []
    for caption, table in _row_tables(report.rows):
        parts += [caption, markdown_table(table)]
    parts += _settings(report.rows)
    for caption, table in _other_tables(report):
        parts += [caption, markdown_table(table)]
    return "\n\n".join([*parts, NOTE]) + "\n"


def _settings(rows: Sequence[Row]) -> list[str]:
    """What extractors make of an image, a line each, where one has more to say than its name."""
    lines = dict.fromkeys(f"- {row.extractor}: {row.extractor_settings}" for row in rows if row.extractor_settings)
    return ["What extractors make of an image:", "\n".join(lines)] if lines else []


def markdown_table(table: Table) -> str:
    """Markdown of a table whose first line is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table]
    lines.insert(1, "|" + " --- |" * len(table[0]))
    return "\n".join(lines)


def _latex(report: Report) -> str:
    parts = []
    for caption, table in _tables(report):
        head, *body = [" & ".join(_latex_text(cell) for cell in line) + r" \\" for line in table]
        lines = [
            rf"% {caption}",
            rf"\begin{{tabular}}{{{'l' * len(table[0])}}}",
            r"\toprule",
            head,
            r"\midrule",
        ]
        parts.append("\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join([*parts, f"% {NOTE}"]) + "\n"


def _latex_text(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$")


def _csv(report: Report) -> str:
    """One line a row, its comparison with the baseline behind it (empty for the baseline itself)."""
    compared = {_match(item, item.candidate): item for item in report.comparisons}
    lines = []
    for row in report.rows:
        line = asdict(row) | {"extractor_seeds": " ".join(map(str, row.extractor_seeds))}
        line |= csv_columns(report.runs, row.dataset, row.extractor, row.learner)
        comparison = compared.get(_match(row, row.extractor))
        lines.append(line | (_csv_comparison(comparison) if comparison else {}))
    stream = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _match(item: Row | Comparison, extractor: str) -> tuple[object, ...]:
    return extractor, item.learner, item.dataset, item.ways, item.shots


def _csv_comparison(comparison: Comparison) -> dict[str, object]:
    values = asdict(comparison)
    for name in ("difference_ci95", "relative_reduction_ci95"):
        values[f"{name}_low"], values[f"{name}_high"] = values.pop(name) or (None, None)
    known = {"candidate", "learner", "dataset", "ways", "shots", "error_candidate"}
    return {name: value for name, value in values.items() if name not in known}


def _json(report: Report) -> str:
    return json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n"


def _tables(report: Report) -> list[tuple[str, Table]]:
    """(caption, table with its head) of all that a report holds."""
    return [*_row_tables(report.rows), *_other_tables(report)]


def _row_tables(rows: Sequence[Row]) -> list[tuple[str, Table]]:
    """The same of each group of rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_caption(row), []).append(row)
    return [(caption, _accuracy_table(group)) for caption, group in groups.items()]


def _other_tables(report: Report) -> list[tuple[str, Table]]:
    """The same of the comparisons and of one-shot runs."""
    tables = []
    if report.comparisons:
        lines = [_comparison_line(comparison) for comparison in report.comparisons]
        tables.append((f"Compared with {report.comparisons[0].baseline}", [COMPARISON_HEAD, *lines]))
    return [*tables, *run_tables(report.runs)]


def _caption(row: Row) -> str:
    return (
        f"{row.dataset}, {row.split} classes: accuracy over {row.episodes} episodes, {row.queries} queries a class, "
        f"episode seed {row.episode_seed}"
    )


def _accuracy_table(rows: Sequence[Row]) -> Table:
    """A line for each extractor with a learner, a column for each setting."""
    settings = list(dict.fromkeys((row.ways, row.shots) for row in rows))
    lines: dict[tuple[str, ...], dict[tuple[int, int], Row]] = {}
    for row in rows:
        seeds = str(len(row.extractor_seeds)) if row.extractor_seeds else "-"
        transductive = "yes" if row.transductive else "no"
        key = (row.extractor, row.learner, row.labels_used, row.mode, transductive, row.batch_norm, seeds)
        lines.setdefault(key, {})[row.ways, row.shots] = row
    head = ["extractor", "learner", "labels", "mode", "transductive", "batch norm", "seeds"]
    head += [f"{ways}-way {shots}-shot" for ways, shots in settings] + ["features", "training s", "evaluation s"]
    body = []
    for line, found in lines.items():
        accuracies = [_accuracy(found[setting]) if setting in found else "" for setting in settings]
        body.append([*line, *accuracies, *_costs(list(found.values()))])
    return [head, *body]


def _accuracy(row: Row) -> str:
    return f"{100 * row.accuracy:.2f} ± {100 * row.ci95:.2f}"


def _costs(rows: Sequence[Row]) -> list[str]:
    """Width of the features, and seconds of training and of evaluation: from the least to the most of the settings."""
    widths = {row.feature_dim for row in rows} - {None}
    spans = [[row.training_each for row in rows], [row.evaluation_each for row in rows]]
    return [" to ".join(map(str, sorted(widths, key=str))) or "-", *map(_seconds, spans)]


def _seconds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    texts = dict.fromkeys(f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in sorted(known))
    return f"{next(iter(texts))} to {list(texts)[-1]}" if len(texts) > 1 else next(iter(texts), "-")


def _comparison_line(item: Comparison) -> list[str]:
    reduction = _interval(item.relative_reduction, item.relative_reduction_ci95)
    return [
        item.candidate, item.learner, item.dataset, f"{item.ways}w{item.shots}s",
        f"{100 * item.error_baseline:.2f}", f"{100 * item.error_candidate:.2f}",
        _interval(item.difference, item.difference_ci95), reduction,
        _probability(item.p_value), _probability(item.p_value_holm), str(item.n_episodes), str(item.n_seeds),
    ]  # fmt: skip


def _probability(value: float) -> str:
    """A p-value in two digits; below what a double can tell from zero it is no 0."""
    return "< 1e-300" if value < 1e-300 else f"{value:.2g}"


def _interval(value: float | None, bounds: tuple[float, float] | None) -> str:
    if value is None or bounds is None:
        return "not defined"
    return f"{100 * value:+.2f} [{100 * bounds[0]:+.2f}, {100 * bounds[1]:+.2f}]"


FORMATS: dict[str, Callable[[Report], str]] = {"md": _markdown, "csv": _csv, "tex": _latex, "json": _json}
