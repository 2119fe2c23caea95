"""Does a disentanglement score predict the few-shot error? Measures the encoders that a benchmark pretrained.

Run: metalearn bench configs/bench/glyphs_guidance.yaml --out RUN
     python benchmarks/scores_against_error.py RUN OUT [--metrics mig,sap,dci,beta_vae,factor_vae] [--jobs 1]
     metalearn report RUN OUT/* --plots plots     # the same as plots

RUN is a finished benchmark of frozen encoders on a dataset with known factors, whose encoders are still in the cache.
Each is measured by `metalearn measure` on the part that RUN tested, in a folder of its own below OUT; the same command
goes on where it was cut. The table has Spearman's rank correlation of score and error with its 95 % interval, over all
encoders and, as those of one objective are alike, over the means of each extractor's seeds; below 0: the higher the
score, the fewer errors.
"""

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gvae.checkpoint import ENCODER, load_encoder
from metalearn import stats
from metalearn.cache import tensors_fingerprint
from metalearn.cells import Cell
from metalearn.errors import UserError
from metalearn.merge import read_cells
from metalearn.render import markdown_table
from metalearn.scored import Panel, match
from tasks.folders import cache_folder


def kept_encoders() -> dict[str, Path]:
    """Every encoder of the cache by the fingerprint of its weights."""
    paths = sorted((cache_folder() / "encoders").glob(f"*/{ENCODER}"))
    return {tensors_fingerprint(load_encoder(path)[0]): path for path in paths}


def tested_encoders(cells: Sequence[Cell]) -> dict[str, tuple[str, str]]:
    """Name (extractor and seed) and part of every encoder that was tested frozen, by its fingerprint."""
    return {
        encoder: (f"{cell.extractor}-{seed}", cell.split)
        for cell in cells
        if cell.mode == "frozen"
        for seed, encoder in zip(cell.extractor_seeds, cell.encoders, strict=False)
    }


def measured(path: Path, out: Path, part: str, metrics: str, threads: int | None) -> Path:
    """Measure one encoder, unless that is done; return the run."""
    if not (out / "result.json").exists():
        chosen = ("--set", f"metrics=[{metrics}]", "--set", f"part={part}", "--out", str(out), "--quiet")
        environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        subprocess.run([sys.executable, "-m", "metalearn", "measure", str(path), *chosen], check=True, env=environment)
        print(out, file=sys.stderr, flush=True)
    return out


def by_extractor(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Mean score and mean error of each extractor's encoders."""
    groups = defaultdict(list)
    for point in panel.points:
        groups[point.extractor].append((point.score.mean, point.error.mean))
    scores, errors = np.array([np.mean(group, axis=0) for group in groups.values()]).T
    return scores, errors


def said(score: np.ndarray, error: np.ndarray) -> str:
    """Rank correlation, interval and N, or why there is none."""
    try:
        found = stats.rank_correlation(score, error)
    except UserError as refusal:
        return str(refusal)
    interval = f" [{found.ci95[0]:+.2f}, {found.ci95[1]:+.2f}]" if found.ci95 else ""
    return f"{found.rho:+.2f}{interval} (N = {found.n})"


def table(panels: Sequence[Panel]) -> str:
    """The correlations of every metric, learner and setting, as Markdown."""
    lines = [["metric", "learner", "setting", "over encoders", "over means of an extractor's seeds"]]
    for panel in sorted(panels, key=lambda one: one.metric):
        every = np.array([[point.score.mean, point.error.mean] for point in panel.points]).T
        cell = panel.cell
        lines.append([panel.metric, cell.learner, cell.setting, said(*every), said(*by_extractor(panel))])
    return markdown_table(lines)


def wanted(run: Path) -> Mapping[str, tuple[Path, str]]:
    """Path and part of every encoder that ``run`` tested frozen, by its name. Raises UserError for one not kept."""
    kept, tested = kept_encoders(), tested_encoders(read_cells(run))
    lost = sorted(name for encoder, (name, _) in tested.items() if encoder not in kept)
    if lost or not tested:
        what = f"the encoders {', '.join(lost)} of {run} are not kept" if lost else f"{run} tested no encoder frozen"
        raise UserError(f"{what} in {cache_folder()}; run the benchmark here, by the same code, and name its directory")
    return {name: (kept[encoder], part) for encoder, (name, part) in tested.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--metrics", default="mig, sap, dci, beta_vae, factor_vae")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    try:
        encoders = wanted(given.run)
        with ThreadPoolExecutor(given.jobs) as pool:
            threads = 1 if given.jobs > 1 else None
            runs = pool.map(
                lambda name: measured(encoders[name][0], given.out / name, encoders[name][1], given.metrics, threads),
                encoders,
            )
            print(table(match(read_cells(given.run), list(runs))))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
