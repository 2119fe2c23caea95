"""Meta-training a learner from an extractor's network: what it starts from says which mode a row has."""

import copy
from pathlib import Path

from gvae.recorder import Recorder
from metalearn.augmentation import build_augment
from metalearn.cells import Mode
from metalearn.extractors import FeatureExtractor
from metalearn.learners import Learner, make_learner, takes
from metalearn.schema import Kind, MetaTrainingConfig
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
        eval_every=budget.eval_every, eval_episodes=budget.eval_episodes,
        augment=build_augment(budget.augmentation, dataset.train.image_shape[0]), tasks_at_once=budget.tasks_at_once,
        device=device, state=state, recorder=recorder,
    )  # fmt: skip
    return learner, "finetuned" if extractor.pretrained else "end_to_end"
