"""Meta-training a learner from an extractor's network: what it starts from says which mode a row has."""

import copy
from pathlib import Path

import numpy as np

from gvae.checkpoint import save_encoder
from gvae.objective import VAEObjective
from gvae.recorder import Recorder
from gvae.share import ALONE, Share
from gvae.vae import VAE
from metalearn.augmentation import build_augment
from metalearn.auxiliary import AUXILIARY_BATCH, Auxiliary, adopt, encoder_of, phases_of
from metalearn.cells import Mode
from metalearn.encoders import build_objective, provenance
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor, PosteriorMean
from metalearn.features import BATCH
from metalearn.learners import Learner, make_learner, takes
from metalearn.meta_batch import tasks_of
from metalearn.norms import measure_running_statistics
from metalearn.schema import Kind, MetaTrainingConfig, ModelConfig
from metalearn.settings import AuxiliaryConfig
from metalearn.testing import labels_used
from metalearn.train import meta_train, to_train
from tasks.resident import DeviceImages
from tasks.splits import Dataset

MEASURED = 10_000  # images


def meta_trained(
    kind: Kind,
    extractor: FeatureExtractor,
    budget: MetaTrainingConfig,
    dataset: Dataset,
    seed: int,
    *,
    state: Path,
    recorder: Recorder,
    device: str,
    share: Share = ALONE,
) -> tuple[Learner, Mode, float]:
    """Meta-train on the training classes from a copy of the extractor's network; validation episodes choose.

    Return the learner, built for the ways of its training episodes; ``finetuned`` where the network was pretrained,
    ``end_to_end`` where it was not; and the seconds that starts before this one took. The extractor itself is left as
    it was.
    """
    learner = learner_on(kind, copy.deepcopy(extractor), budget, seed)
    trained = meta_train(
        learner, dataset.train, dataset.val, ways=budget.ways, shots=budget.shots, queries=budget.queries,
        meta_batch=budget.meta_batch, iterations=budget.iterations, learning_rate=budget.learning_rate, seed=seed,
        schedule=budget.schedule, eval_every=budget.eval_every, eval_episodes=budget.eval_episodes,
        eval_ways=budget.eval_ways, patience=budget.patience,
        augment=build_augment(budget.augmentation, dataset.train.image_shape[0]),
        auxiliary=auxiliary_losses(budget, learner, dataset, seed, device, share),
        tasks_at_once=budget.tasks_at_once, device=device, state=state, recorder=recorder, share=share,
    )  # fmt: skip
    return learner, "finetuned" if extractor.pretrained else "end_to_end", trained.earlier


def keep_encoder(
    folder: Path, learner: Learner, start: FeatureExtractor, kind: Kind, budget: MetaTrainingConfig, dataset: Dataset,
    seed: int, seconds: float,
) -> Path | None:  # fmt: skip
    """Write the encoder of a meta-trained learner as `metalearn pretrain` does; None where its extractor has none.

    ``start``: the extractor that meta-training began with, whose labels and classes were seen too. The decoder is what
    that had, untrained where it was, unless auxiliary losses trained it. Where batch norm was by each task's own
    statistics, running ones are measured on training images, `MEASURED` of them at most.
    """
    vae = getattr(getattr(learner, "extractor", None), "vae", None)
    if not isinstance(vae, VAE):
        return None
    if getattr(learner, "batch_norm", "running") != "running":
        vae = copy.deepcopy(vae)
        images = DeviceImages(dataset.train, next(vae.encoder.parameters()).device, share=0.0)
        rows = np.random.default_rng(seed).permutation(len(dataset.train.labels))[:MEASURED]
        measure_running_statistics(PosteriorMean(vae), images.batches(rows, BATCH))
    objective = getattr(start, "objective", None)
    info = {
        **({"objective": objective.model_dump(mode="json")} if objective else {}),
        "meta_training": {"learner": kind.model_dump(mode="json"), **budget.model_dump(mode="json")},
        **provenance(dataset, labels_used(start, meta_trained=True), seconds, seed, start.training_classes),
    }
    return save_encoder(folder, vae, info)


def learner_on(kind: Kind, extractor: FeatureExtractor, budget: MetaTrainingConfig, seed: int) -> Learner:
    """Build a learner on an extractor, for the ways of its training episodes where it has to know them."""
    supplied = {"ways": budget.ways, "seed": seed}
    options = kind.options | {name: value for name, value in supplied.items() if takes(kind.kind, name)}
    return make_learner(kind.kind, extractor, **options)


def refuse_untrainable(
    kind: Kind, extractor: FeatureExtractor, budget: MetaTrainingConfig, dataset: Dataset, seed: int,
    share: Share = ALONE,
) -> None:  # fmt: skip
    """Refuse before any work what ``meta_trained`` would refuse after a pretraining; ``extractor`` is used up.

    It may be one that is not pretrained yet (`metalearn.prepare.before_training`). UserError for a learner that cannot
    be meta-trained, has no parameter or cannot answer ``eval_ways``, and for auxiliary losses that do not fit extractor
    and dataset. UserError and ModelError for a meta-batch or a batch that processes cannot share.
    """
    learner = learner_on(kind, extractor, budget, seed)
    learner.require_meta_trainable()
    if budget.eval_ways not in (None, budget.ways) and takes(kind.kind, "ways"):
        raise UserError(
            f"eval_ways: given {budget.eval_ways}; learner {kind.kind} has a head for the {budget.ways} classes of its "
            "training episodes and can answer no other number: leave eval_ways out"
        )
    to_train(learner, None)
    tasks_of(budget.meta_batch, share)
    if budget.auxiliary:
        objective, vae = auxiliary_objective(budget.auxiliary, learner, dataset, seed)
        adopt(objective, vae)
        phases_of(objective, dataset.train)
        share.check(budget.auxiliary.batch_size, AUXILIARY_BATCH)


def auxiliary_losses(
    budget: MetaTrainingConfig, learner: Learner, dataset: Dataset, seed: int, device: str, share: Share = ALONE
) -> Auxiliary | None:
    """Build the losses that ``budget.auxiliary`` asks for on a learner's network; None where it asks for none.

    UserError without an objective, or for a network that the objective does not fit.
    """
    asked = budget.auxiliary
    if asked is None:
        return None
    objective, vae = auxiliary_objective(asked, learner, dataset, seed)
    return Auxiliary(
        objective, vae, dataset.train, weight=asked.weight, batch_size=asked.batch_size,
        learning_rate=budget.learning_rate, seed=seed, device=device, share=share,
    )  # fmt: skip


def auxiliary_objective(
    asked: AuxiliaryConfig, learner: Learner, dataset: Dataset, seed: int
) -> tuple[VAEObjective, VAE]:
    """Build the objective that is asked for, and find the VAE of a learner that it is for.

    UserError without an objective or a VAE, and for a batch of more images than there are.
    """
    images = len(dataset.train.labels)
    if asked.batch_size > images:
        raise UserError(f"{AUXILIARY_BATCH}: given {asked.batch_size}; allowed: 2 to {images}, the training images")
    extractor = getattr(learner, "extractor", None)
    vae = encoder_of(extractor)
    objective = asked.objective or getattr(extractor, "objective", None)
    if objective is None:
        raise UserError(
            f"auxiliary.objective: given nothing, and extractor {type(extractor).__name__} was pretrained by none; "
            "allowed: an objective, see `metalearn list objectives`"
        )
    return build_objective(dataset, objective, ModelConfig(trunk=vae.trunk_name, latents=vae.latents), seed), vae
