"""Meta-training a learner from an extractor's network: what it starts from says which mode a row has."""

import copy
from pathlib import Path

from gvae.recorder import Recorder
from gvae.share import ALONE, Share
from metalearn.augmentation import build_augment
from metalearn.auxiliary import Auxiliary, encoder_of
from metalearn.cells import Mode
from metalearn.encoders import build_objective
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor
from metalearn.learners import Learner, make_learner, takes
from metalearn.schema import Kind, MetaTrainingConfig, ModelConfig
from metalearn.train import meta_train
from tasks.splits import Dataset


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
) -> tuple[Learner, Mode]:
    """Meta-train on the training classes from a copy of the extractor's network; validation episodes choose.

    Return the learner, built for the ways of its training episodes, and ``finetuned`` where the network was pretrained,
    ``end_to_end`` where it was not. The extractor itself is left as it was.
    """
    supplied = {"ways": budget.ways, "seed": seed}
    options = kind.options | {name: value for name, value in supplied.items() if takes(kind.kind, name)}
    learner = make_learner(kind.kind, copy.deepcopy(extractor), **options)
    meta_train(
        learner, dataset.train, dataset.val, ways=budget.ways, shots=budget.shots, queries=budget.queries,
        meta_batch=budget.meta_batch, iterations=budget.iterations, learning_rate=budget.learning_rate, seed=seed,
        schedule=budget.schedule, eval_every=budget.eval_every, eval_episodes=budget.eval_episodes,
        patience=budget.patience, augment=build_augment(budget.augmentation, dataset.train.image_shape[0]),
        auxiliary=auxiliary_losses(budget, learner, dataset, seed, device, share),
        tasks_at_once=budget.tasks_at_once, device=device, state=state, recorder=recorder, share=share,
    )  # fmt: skip
    return learner, "finetuned" if extractor.pretrained else "end_to_end"


def auxiliary_losses(
    budget: MetaTrainingConfig, learner: Learner, dataset: Dataset, seed: int, device: str, share: Share = ALONE
) -> Auxiliary | None:
    """Build the losses that ``budget.auxiliary`` asks for on a learner's network; None where it asks for none.

    UserError without an objective, or for a network that the objective does not fit.
    """
    asked = budget.auxiliary
    if asked is None:
        return None
    extractor = getattr(learner, "extractor", None)
    objective = asked.objective or getattr(extractor, "objective", None)
    if objective is None:
        raise UserError(
            f"auxiliary.objective: given nothing, and extractor {type(extractor).__name__} was pretrained by none; "
            "allowed: an objective, see `metalearn list objectives`"
        )
    vae = encoder_of(extractor)
    built = build_objective(dataset, objective, ModelConfig(trunk=vae.trunk_name, latents=vae.latents), seed)
    return Auxiliary(
        built, vae, dataset.train, weight=asked.weight, batch_size=asked.batch_size,
        learning_rate=budget.learning_rate, seed=seed, device=device, share=share,
    )  # fmt: skip
