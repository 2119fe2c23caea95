"""Makes the tables of docs/results.md from finished runs, so that no number there is typed.

    python scripts/results.py keep NAME RUN... [--baseline NAME]    # what runs found, to docs/results/NAME.json
    python scripts/results.py keep NAME RUN... --pairs guided:vae   # each candidate against a baseline of its own
    python scripts/results.py                                        # docs/results.md anew from what is kept

A block of docs/results.md from ``<!-- table: NAME -->`` to ``<!-- end -->`` is replaced; ``NAME:error`` has the errors
alone, ``NAME:difference`` the comparisons alone. What stands between blocks is written by hand.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn import stats
from metalearn.config import parse
from metalearn.errors import UserError
from metalearn.merge import merge, merged_cells
from metalearn.plots import span
from metalearn.render import markdown_table
from metalearn.report import build_report

ROOT = Path(__file__).parents[1]
PAGE, FOLDER = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
BLOCK = re.compile(r"<!-- table: (?P<name>[\w-]+)(?::(?P<part>error|difference))? -->\n.*?<!-- end -->", re.DOTALL)

Line = list[str]


def keep(name: str, runs: Sequence[Path], baseline: str | None = None, pairs: Sequence[str] = ()) -> Path:
    """Write what docs/results.md says of finished runs: report, and of each run its start, versions and budget."""
    report = merge(runs, baseline).to_dict()
    if pairs:
        report["comparisons"] = paired(runs, pairs)
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"runs": [described(run) for run in runs], **rounded(report)}, indent=1) + "\n")
    return path


def paired(runs: Sequence[Path], pairs: Sequence[str]) -> list[dict[str, Any]]:
    """Comparisons of each ``candidate:baseline``, p-values adjusted over all of them together. Raises UserError."""
    cells, _ = merged_cells(runs)
    found: list[dict[str, Any]] = []
    for pair in pairs:
        candidate, _, baseline = pair.partition(":")
        missing = {candidate, baseline} - {cell.extractor for cell in cells}
        if missing:
            raise UserError(f"--pairs {pair}: no {' and no '.join(sorted(missing))} in these runs; write it NAME:NAME")
        own = [cell for cell in cells if cell.extractor in (candidate, baseline)]
        found += build_report(own, baseline).to_dict()["comparisons"]
    adjusted = stats.holm([one["p_value"] for one in found])
    return [{**one, "p_value_holm": float(p)} for one, p in zip(found, adjusted, strict=True)]


def described(run: Path) -> dict[str, Any]:
    """What ran, when, on what and for how long; without the paths of the machine."""
    start = json.loads((run / "environment.json").read_text())["starts"][-1]
    config = parse((run / "resolved.yaml").read_text(), "resolved.yaml")
    return {
        "run": run.name, "day": start["started"][:10], "python": start["python"], "torch": start["packages"]["torch"],
        "cpus": start["cpus"], "processor": start.get("processor", ""), "device": start["device"],
        "training": {**config["pretraining"]["model"], **config["pretraining"]["training"]},
    }  # fmt: skip


def rounded(value: Any) -> Any:
    """Plain data with six digits a number: more than a table shows."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def page(text: str, folder: Path = FOLDER) -> str:
    """The page with every block made anew. Raises UserError for one that names nothing that is kept."""

    def table(found: re.Match[str]) -> str:
        path = folder / f"{found['name']}.json"
        if not path.is_file():
            raise UserError(f"docs/results.md: no {path.name} is kept; allowed: {', '.join(kept(folder)) or 'none'}")
        data, part = json.loads(path.read_text()), found["part"]
        parts = [] if part == "difference" else [said(data), markdown_table(errors(data["rows"]))]
        if data["comparisons"] and part != "error":
            parts += [compared(data["comparisons"]), markdown_table(differences(data["comparisons"]))]
        return "\n\n".join([found[0].splitlines()[0], *parts, "<!-- end -->"])

    return BLOCK.sub(table, text)


def kept(folder: Path) -> list[str]:
    """Names of what is kept."""
    return sorted(path.stem for path in folder.glob("*.json"))


def said(data: dict[str, Any]) -> str:
    """What the table of errors is of."""
    first, run = data["rows"][0], data["runs"][0]
    days = " and ".join(dict.fromkeys(one["day"] for one in data["runs"]))
    machine = f"{run['cpus']} CPU cores ({run['processor']})" if run["device"] == "cpu" else run["device"]
    return (
        f"{first['dataset']}, {first['split']} classes: error in percent, ± half of the 95 % interval; "
        f"N = {span(row['episodes'] for row in data['rows'])} episodes of {first['queries']} queries a class. "
        f"{days}, {machine}, Python {run['python']}, torch {run['torch']}."
    )


def compared(items: Sequence[dict[str, Any]]) -> str:
    """What the table of differences is of."""
    baselines = " or ".join(dict.fromkeys(item["baseline"] for item in items))
    return (
        f"Error minus that of {baselines} with the same learner on the same episodes, points "
        f"[95 % interval]; * Holm's p over these {len(items)} comparisons is below 0.05:"
    )


def errors(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """An extractor with a learner a line, a setting a column; behind it what the encoder saw and what it cost."""
    settings = list(dict.fromkeys((row["ways"], row["shots"]) for row in rows))
    lines: dict[tuple[str, str], dict[tuple[int, int], dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["extractor"], row["learner"]), {})[row["ways"], row["shots"]] = row
    head = ["extractor", "learner", *(f"{ways}w{shots}s" for ways, shots in settings), "labels", "mode", "seeds",
            "features", "training s", "evaluation s"]  # fmt: skip
    table: list[Line] = [head]
    for names, found in lines.items():
        row = next(iter(found.values()))
        values = [f"{100 * found[one]['error']:.2f} ± {100 * found[one]['ci95']:.2f}" for one in settings]
        mode = row["mode"] + (", transductive" if row["transductive"] else "")
        seeds = str(len(row["extractor_seeds"]) or "-")
        table.append([*names, *values, row["labels_used"], mode, seeds, *cost(list(found.values()))])
    return table


def cost(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Width of the features; seconds of training and of evaluation, one seed, mean over settings. - where not known."""
    known = [row for row in rows if row["training_seconds"] is not None]
    if not known:
        return ["-", "-", "-"]
    seeds = len(known) * max(1, len(known[0]["extractor_seeds"]))
    training = sum(row["training_seconds"] for row in known) / seeds
    testing = sum(row["seconds"] - row["training_seconds"] for row in known) / seeds
    return [str(known[0]["feature_dim"]), f"{training:.0f}", f"{testing:.1f}"]


def differences(items: Sequence[dict[str, Any]]) -> list[Line]:
    """A candidate with a learner a line, a setting a column."""
    settings = list(dict.fromkeys((item["ways"], item["shots"]) for item in items))
    several = len({item["baseline"] for item in items}) > 1
    lines: dict[tuple[str, ...], dict[tuple[int, int], dict[str, Any]]] = {}
    for item in items:
        names = (item["candidate"], *([item["baseline"]] if several else []), item["learner"])
        lines.setdefault(names, {})[item["ways"], item["shots"]] = item
    head = ["extractor", "against", "learner"] if several else ["extractor", "learner"]
    table: list[Line] = [[*head, *(f"{ways}w{shots}s" for ways, shots in settings)]]
    for line, found in lines.items():
        table.append([*line, *(difference(found[one]) if one in found else "" for one in settings)])
    return table


def difference(item: dict[str, Any]) -> str:
    """``-2.84 [-4.51, -1.16]``, with a star where it is beyond chance."""
    low, high = item["difference_ci95"]
    star = " *" if item["p_value_holm"] < 0.05 else ""
    return f"{100 * item['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]{star}"


def main(words: Sequence[str]) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    keeping = commands.add_parser("keep", help="keep what is said of finished runs")
    keeping.add_argument("name")
    keeping.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    keeping.add_argument("--baseline")
    keeping.add_argument("--pairs", nargs="+", default=[], metavar="CANDIDATE:BASELINE")
    given = parser.parse_args(words)
    if given.command == "keep":
        print(keep(given.name, given.runs, given.baseline, given.pairs).relative_to(ROOT))
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
