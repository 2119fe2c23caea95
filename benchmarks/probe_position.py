"""What the ink's position does to features: read from them by a linear probe, and its share of their variance.

Run: python benchmarks/probe_position.py configs/bench/omniglot.yaml DATA_ROOT

For every pretrained extractor of the config (encoders from the cache, or trained first), on the images of the
validation classes, by slot; mean over the seeds, least and greatest in brackets:
probe    R^2 of a ridge regression from standardised latents to the ink's centre of mass, fitted on the even classes,
         scored on the odd ones
between  share of the latents' total variance that lies between classes: what a nearest class mean can use
position share of the variance within classes that is a linear function of the ink's centre of mass: noise to it
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gvae.recorder import Recorder
from metalearn.config import load_config
from metalearn.data import build_dataset
from metalearn.encoders import build_objective
from metalearn.features import extract
from metalearn.kinds import resolve
from metalearn.prepare import make_extractor
from metalearn.schema import BenchConfig, Kind


def centre_of_mass(images: np.ndarray) -> np.ndarray:
    """Mean x and y of the ink of images (n, 1, h, w), pixels, (n, 2)."""
    ink = images[:, 0].astype(float)
    y, x = np.mgrid[: ink.shape[1], : ink.shape[2]]
    return np.stack([(ink * axis).sum((1, 2)) / ink.sum((1, 2)) for axis in (x, y)], axis=1)


def within(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Values (n, d) less the mean of their class."""
    means = np.stack([values[labels == label].mean(0) for label in range(labels.max() + 1)])
    return values - means[labels]


def figures(latents: np.ndarray, position: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return (probe, between, position) as the module says."""
    even = labels % 2 == 0
    probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))).fit(latents[even], position[even])
    inside, moved = within(latents, labels), within(position, labels)
    between = 1 - inside.var(0).sum() / latents.var(0).sum()
    explained = LinearRegression().fit(moved, inside).predict(moved).var(0).sum() / inside.var(0).sum()
    return r2_score(position[~even], probe.predict(latents[~even])), between, explained


def main(path: Path, root: Path) -> None:
    """Print a line a slot of an extractor."""
    config = resolve(load_config(path, BenchConfig))
    dataset = build_dataset(config.dataset, root)
    part = dataset.val
    position = centre_of_mass(part.images())
    print(f"{len(part.labels)} images of {len(part.class_names)} validation classes, seeds {config.seeds}")
    for name, kind in config.extractors.items():
        if kind.kind != "pretrain":
            continue
        objective = Kind.model_validate(kind.options["objective"])
        slots = build_objective(dataset, objective, config.pretraining.model, 0).vae.slots
        found: dict[str, list[tuple[float, float, float]]] = {}
        for seed in config.seeds:
            extractor, _ = make_extractor(
                kind, seed, dataset=dataset, pretraining=config.pretraining, recorder=Recorder(), device="cpu"
            )
            latents = extract(extractor, part).numpy()
            for slot, columns in {"all": slice(None), **slots}.items():
                found.setdefault(slot, []).append(figures(latents[:, columns], position, part.labels))
        for slot, rows in found.items():
            mean, low, high = np.mean(rows, 0), np.min(rows, 0), np.max(rows, 0)
            cells = [f"{m:5.2f} [{a:5.2f}, {b:5.2f}]" for m, a, b in zip(mean, low, high, strict=True)]
            print(f"{name:18} {slot:12} probe {cells[0]}  between {cells[1]}  position {cells[2]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
