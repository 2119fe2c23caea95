"""The quickstart: pretrain, benchmark and report on embedded data, and say in the last lines what was found."""

import time
from pathlib import Path

import metalearn
from metalearn.bench import bench
from metalearn.config import load_config
from metalearn.errors import UserError
from metalearn.kinds import resolve
from metalearn.merge import merge
from metalearn.report import Comparison, Report
from metalearn.run import open_run
from metalearn.schema import BenchConfig
from tasks.folders import cache_folder

CONFIG = Path(metalearn.__file__).parents[1] / "configs" / "quick" / "glyphs.yaml"


def quickstart(out: Path, device: str, quiet: bool) -> None:
    """Run ``configs/quick/glyphs.yaml`` into ``out``; print the report, what was found and what to do next."""
    if not CONFIG.is_file():
        raise UserError(
            f"{CONFIG} is missing; run quickstart from a checkout of the repository or reinstall the package"
        )
    config = resolve(load_config(CONFIG, BenchConfig))
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with open_run(out, "bench", config, source=CONFIG, data_root=root, device=device, quiet=quiet) as run:
        before = run.complete
        report = merge([run.path], config.baseline) if before else bench(config, run, data_root=root, device=device)
        print((run.path / "report.md").read_text(encoding="utf-8"))
        print(found(report, None if before else time.monotonic() - began))
        if before:
            print(f"{out} is complete already: this is its report; give another --out to run again")
    print(
        f"\nEverything is in {out}. Next:\n"
        f"  tensorboard --logdir {out / 'tensorboard'}      what it shows: docs/tensorboard.md\n"
        "  metalearn bench configs/bench/omniglot.yaml --data-root FOLDER_WITH_OMNIGLOT"
    )


def found(report: Report, seconds: float | None) -> str:
    """Say in a line a comparison what each candidate did to the baseline's error, and in which time that was found."""
    lines = [
        f"  {item.candidate}, {item.learner}, {item.ways}-way {item.shots}-shot: {verdict(item)}"
        for item in report.comparisons
    ]
    return "\n".join(["Found:" if seconds is None else f"Found in {seconds:.0f} s:", *lines])


def verdict(item: Comparison) -> str:
    """Word one comparison: fewer errors, more errors or undecided, with the interval of the difference."""
    low, high = (100 * bound for bound in item.difference_ci95)
    word = "undecided against" if low <= 0 <= high else "fewer errors than" if high < 0 else "more errors than"
    return (
        f"{word} {item.baseline}: {100 * item.error_candidate:.1f} % against {100 * item.error_baseline:.1f} %, "
        f"difference {100 * item.difference:+.1f} points [{low:+.1f}, {high:+.1f}]"
    )
