"""Where the position of the ink went: how much of it a linear probe reads from the latents of each encoder.

Run: python benchmarks/probe_position.py configs/bench/omniglot.yaml DATA_ROOT

For every pretrained extractor of the config and every seed (taken from the cache, or trained first): R^2 of a ridge
regression from standardised latents to the ink's centre of mass (mean of x and y), fitted on the even classes of the
validation part and scored on the odd ones. ``content`` is the slot of that name, ``rest`` all others.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gvae.recorder import Recorder
from metalearn.config import load_config
from metalearn.data import build_dataset
from metalearn.features import extract
from metalearn.kinds import resolve
from metalearn.prepare import make_extractor
from metalearn.schema import BenchConfig
from tasks.splits import Partition


def centre_of_mass(images: np.ndarray) -> np.ndarray:
    """Mean x and y of the ink of images (n, 1, h, w), pixels, (n, 2)."""
    ink = images[:, 0].astype(float)
    y, x = np.mgrid[: ink.shape[1], : ink.shape[2]]
    return np.stack([(ink * axis).sum((1, 2)) / ink.sum((1, 2)) for axis in (x, y)], axis=1)


def score(latents: np.ndarray, target: np.ndarray, part: Partition) -> float:
    """R^2 on the odd classes of a probe fitted on the even ones."""
    even = part.labels % 2 == 0
    probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))).fit(latents[even], target[even])
    return float(r2_score(target[~even], probe.predict(latents[~even])))


def main(path: Path, root: Path) -> None:
    """Print a line an extractor: mean over seeds, and each seed."""
    config = resolve(load_config(path, BenchConfig))
    dataset = build_dataset(config.dataset, root)
    target = centre_of_mass(dataset.val.images())
    print(
        f"{len(dataset.val.labels)} validation images of {len(dataset.val.class_names)} classes, seeds {config.seeds}"
    )
    for name, kind in config.extractors.items():
        if kind.kind != "pretrain":
            continue
        found = []
        for seed in config.seeds:
            extractor, _ = make_extractor(
                kind, seed, dataset=dataset, pretraining=config.pretraining, recorder=Recorder(), device="cpu"
            )
            latents = extract(extractor, dataset.val).numpy()
            slots = slice_of_content(kind.options["objective"], latents.shape[1])
            rest = np.delete(latents, np.r_[slots], axis=1)
            scores = [score(latents[:, slots], target, dataset.val)]
            scores.append(score(rest, target, dataset.val) if rest.shape[1] else float("nan"))
            found.append(scores)
        content, others = np.array(found).T
        print(f"{name:20} content {content.mean():.3f} {content.round(3)}   rest {others.mean():.3f} {others.round(3)}")


def slice_of_content(objective: dict[str, object], latents: int) -> slice:
    """Where the ``content`` slot stands: last, behind the guided slots."""
    from gvae.guidance import TRANSFORMS

    if objective["kind"].startswith("guided_vae_supervised"):  # type: ignore[attr-defined]
        return slice(int(objective["class_latents"]), latents)  # type: ignore[call-overload]
    return slice(sum(TRANSFORMS[name] for name in objective.get("transforms", ())), latents)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
