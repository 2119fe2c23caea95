"""What ``metalearn measure`` found, as plain data for measure.json and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from metalearn import stats
from metalearn.render import markdown_table

SCHEMA = 1


@dataclass(frozen=True)
class Score:
    """One number of a metric: its mean over the repeats, the 95 % t-interval ``low..high`` = mean -+ ci95, N values.

    ``drawn``: what one repeat drew, in words; ``options``: of its metric.
    """

    name: str
    mean: float
    ci95: float
    low: float
    high: float
    n: int
    values: list[float]
    drawn: str
    options: dict[str, Any]


def make_score(name: str, values: Sequence[float], drawn: str, options: Mapping[str, Any]) -> Score:
    """Mean and t-interval of a metric's repeats (at least 2)."""
    found = stats.mean_interval(np.array([values], np.float64))
    return Score(
        name, found.mean, found.half_width, found.low, found.high, len(values), list(values), drawn, dict(options)
    )


@dataclass(frozen=True)
class Measurement:
    """Everything in measure.json.

    ``encoder``: the ``tensors_fingerprint`` of the checkpoint's VAE, by which a benchmark of it is found;
    ``kl_per_latent`` in nats, in the order of the latents; ``matrices``: metric -> a row a latent, a column a factor;
    ``unvarying``: factors of one value, which no metric can use.
    """

    checkpoint: str
    encoder: str
    objective: str
    labels_used: str
    dataset: str
    part: str
    images: int
    fingerprint: str
    repeats: int
    seed: int
    kl_per_latent: dict[str, float]
    factors: list[str]
    unvarying: list[str]
    scores: list[Score]
    matrices: dict[str, list[list[float]]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data of measure.json, schema 1."""
        return {"schema": SCHEMA, **asdict(self)}

    def markdown(self) -> str:
        """Text of report.md."""
        head = (
            f"`{self.checkpoint}` ({self.objective}, labels used: {self.labels_used}) on {self.dataset}, "
            f"{self.part} part: {self.images:,} images of classes that it was not trained on"
        )
        parts = [head, *self._scores(), *self._kl()]
        return "\n\n".join(parts) + "\n"

    def _scores(self) -> list[str]:
        if not self.factors:
            there = f"the factors {', '.join(self.unvarying)} never change" if self.unvarying else "no known factors"
            return [f"No metrics: {self.dataset} has {there}. Give a dataset with factors, such as glyphs."]
        if not self.scores:
            return ["No metrics: none was chosen."]
        table = [["metric", "mean", "95 %", "N", "drawn each time"]]
        table += [
            [item.name, f"{item.mean:.3f}", f"± {item.ci95:.3f}", str(item.n), item.drawn] for item in self.scores
        ]
        note = (
            f"Factors: {', '.join(self.factors)}. Mean of N repeats, ± half the width of its 95 % t-interval, which "
            "covers the metric's own draws and classifiers, neither other images nor other encoders. No image is drawn "
            "twice to train, to test or for a histogram; where there are fewer than asked for, all are taken, in that "
            "proportion."
        )
        if self.unvarying:
            note += f" Left out, as they never change here: {', '.join(self.unvarying)}."
        return [markdown_table(table), note]

    def _kl(self) -> list[str]:
        rows = sorted(self.kl_per_latent.items(), key=lambda item: -item[1])
        table = [["latent", "KL (nats)"], *([name, f"{value:.3f}"] for name, value in rows)]
        return ["KL of the posterior from the prior, mean over the images, largest first:", markdown_table(table)]
