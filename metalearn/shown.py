"""What TensorBoard shows of a finished benchmark: HParams, features in the projector, what encoders see and decode."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gvae.traverse import preview_trained
from gvae.vae import VAE
from metalearn.cells import Cell, slug
from metalearn.encoders import build_objective
from metalearn.run import Run
from metalearn.schema import Kind
from metalearn.steps import EncoderStep, Ready, Steps

POINTS = 1000  # of the projector
PREVIEWED = 256  # images by which latents are put in order


def show_hparams(run: Run, name: str, kind: Kind, learner_name: str, learner: Kind, cells: list[Cell]) -> None:
    """One line of the HParams tab: the settings of an extractor with a learner, and its accuracy in each setting."""
    settings: dict[str, Any] = {"extractor": name, "learner": learner_name, "seeds": len(cells[0].correct)}
    settings |= {f"learner.{key}": value for key, value in learner.options.items()}
    objective = kind.options.get("objective")
    if isinstance(objective, dict):
        settings |= {f"objective.{key}": value for key, value in objective.items()}
    metrics = {f"{cell.split}/accuracy_{cell.setting}": float(cell.accuracy().mean()) for cell in cells}
    run.board.hparams("/".join([slug(name), slug(learner_name), "result"]), settings, metrics)


def show_extractor(here: Steps, run: Run, name: str, seed: int) -> None:
    """The features of one seed in the projector and, of a VAE that learned to decode, pictures of test images."""
    one = here.ready(name, seed)
    show_projector(here, run, name, one)
    vae = getattr(one.extractor, "vae", None)
    if isinstance(vae, VAE) and decodes(here, name, seed):
        images = images_of(here, spread(here, PREVIEWED)).to(here.device)
        vae, recorder = vae.to(here.device), run.scope(f"{EncoderStep(name, seed).name}/test")
        with torch.no_grad():
            preview_trained(vae, images, recorder)


def decodes(here: Steps, name: str, seed: int) -> bool:
    """Whether an extractor is pretrained by this benchmark, and its decoder with it."""
    kind = here.config.extractors[name]
    if kind.kind != "pretrain":
        return False
    objective = Kind.model_validate(kind.options["objective"])
    return build_objective(here.dataset, objective, here.config.pretraining.model, seed).decodes


def show_projector(here: Steps, run: Run, name: str, one: Ready) -> None:
    """Features of test images in the projector, with thumbnails and class names."""
    if one.features is None:
        return
    partition, shown = here.tested.partition, spread(here, POINTS)
    labels = [partition.class_names[label] for label in partition.labels[shown]]
    run.board.embedding(name, one.features[torch.from_numpy(shown)], images_of(here, shown), labels)


def spread(here: Steps, most: int) -> Int[np.ndarray, " n"]:
    """At most so many images of the tested part, evenly spread over it."""
    total = len(here.tested.partition.labels)
    return np.linspace(0, total - 1, min(total, most)).round().astype(np.int64)


def images_of(here: Steps, indices: Int[np.ndarray, " n"]) -> Float[Tensor, "n c h w"]:
    """Images of the tested part in [0, 1]."""
    return torch.from_numpy(here.tested.partition.gather_floats(indices))
