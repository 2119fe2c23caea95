"""Which objectives disentangle: encoders of the same budget, several seeds each, by the field's metrics.

Run: python benchmarks/disentanglement.py CONFIG OUT [--seeds 0,1,2] [--jobs 1] [--methods vae,guided_vae]
         [--set training.epochs=5]
     with configs/pretrain/sprites_study.yaml or configs/pretrain/glyphs_study.yaml

CONFIG is that of one encoder; objective and seed are set here, to those of METHODS and of --seeds. Each is trained by
`metalearn pretrain` and measured by `metalearn measure` on the test part, in folders below OUT that are kept: the same
command goes on where it was cut, and prints the tables at once when all is there. A table has the mean of each metric
over seeds with its 95 % t-interval; a second one the differences of the guided methods from each of the others, paired
by seed. Threads: each job has one where --jobs is above 1.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats

from metalearn.render import markdown_table

GUIDED = "{kind: %s, transforms: [rotation, scale, translation], weight: 3.0}"
METHODS = {
    "vae": "vae",
    "beta_vae": "beta_vae",
    "factor_vae": "factor_vae",
    "beta_tcvae": "beta_tcvae",
    "guided_vae": GUIDED % "guided_vae",
    "guided_beta_tcvae": GUIDED % "guided_beta_tcvae",
}
METRICS = {
    "beta_vae": "BetaVAE (Z-diff)",
    "sap": "SAP",
    "factor_vae": "FactorVAE",
    "mig": "MIG",
}


def metalearn(*arguments: str, threads: int | None) -> None:
    """Run the command line quietly; its error is this script's."""
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    subprocess.run([sys.executable, "-m", "metalearn", *arguments, "--quiet"], check=True, env=environment)


def trained_and_measured(given: argparse.Namespace, method: str, seed: int) -> dict[str, float]:
    """Train and measure one encoder, unless that is done; return its metrics, means over their repeats."""
    config, threads = given.config, 1 if given.jobs > 1 else None
    trained, measured = given.out / f"{method}-{seed}", given.out / f"{method}-{seed}-measured"
    settings = [f"objective={METHODS[method]}", *given.set]
    chosen = (*(word for setting in settings for word in ("--set", setting)), "--seed", str(seed))
    metalearn("pretrain", str(config), *chosen, "--out", str(trained), threads=threads)
    metrics = f"metrics=[{', '.join(METRICS)}]"
    metalearn("measure", str(trained), "--set", metrics, "--out", str(measured), threads=threads)
    found = json.loads((measured / "measure.json").read_text())["scores"]
    result = {score["name"]: score["mean"] for score in found}
    print(f"{method}, seed {seed}: {result}", file=sys.stderr, flush=True)
    return result


def interval(values: np.ndarray) -> str:
    """Return mean and half width of the 95 % t-interval over seeds, in words."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3f} ± {half:.3f}"


def difference(candidate: np.ndarray, baseline: np.ndarray) -> str:
    """Return the mean difference, paired by seed, with its 95 % interval, and p of the paired t-test."""
    gap = candidate - baseline
    return f"{'+' if gap.mean() >= 0 else ''}{interval(gap)} (p {stats.ttest_rel(candidate, baseline).pvalue:.2g})"


def tables(found: dict[tuple[str, int], dict[str, float]], methods: Sequence[str], seeds: Sequence[int]) -> str:
    """Return both tables as Markdown."""
    names = list(next(iter(found.values())))
    scores = {
        (method, name): np.array([found[method, seed][name] for seed in seeds]) for method in methods for name in names
    }
    means = [[method, *(interval(scores[method, name]) for name in names)] for method in methods]
    guided = [method for method in methods if method.startswith("guided")]
    others = [method for method in methods if method not in guided]
    gaps = [
        [one, other, *(difference(scores[one, name], scores[other, name]) for name in names)]
        for one, other in itertools.product(guided, others)
    ]
    first = markdown_table([["objective", *names], *means])
    second = markdown_table([["guided", "less", *names], *gaps])
    return f"{first}\n\nDifferences, paired by seed ({len(seeds)} seeds):\n\n{second}\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="of the config, for all: a longer budget, say")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    given = parser.parse_args()
    wrong = [method for method in given.methods if method not in METHODS]
    if wrong or len(given.seeds) < 2:
        allowed = f"allowed: {', '.join(METHODS)}; 2 seeds or more"
        parser.error(f"given methods {given.methods}, seeds {given.seeds}; {allowed}")
    tasks = [(method, seed) for seed in given.seeds for method in given.methods]
    with ThreadPoolExecutor(given.jobs) as pool:
        done = pool.map(lambda task: trained_and_measured(given, *task), tasks)
        found = dict(zip(tasks, done, strict=True))
    print(tables(found, given.methods, given.seeds))


if __name__ == "__main__":
    main()
