"""Meta-training a learner from an extractor's network: what it starts from says which mode a row has."""

import copy
from pathlib import Path

from gvae.recorder import Recorder
from metalearn.cells import Mode
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor
from metalearn.learners import Learner, make_learner, takes_ways
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

    Return the learner and ``finetuned`` where the network was pretrained, ``end_to_end`` where it was not. The
    extractor itself is left as it was. Raises UserError when the learner's own ways differ from the episodes'.
    """
    options = dict(kind.options)
    if takes_ways(kind.kind):
        given = options.setdefault("ways", budget.ways)
        if given != budget.ways:
            raise UserError(
                f"learner {kind.kind!r} has ways={given}, but its episodes have {budget.ways}; leave ways out of the "
                "learner's options"
            )
    learner = make_learner(kind.kind, copy.deepcopy(extractor), **options)
    meta_train(
        learner, dataset.train, dataset.val, ways=budget.ways, shots=budget.shots, queries=budget.queries,
        meta_batch=budget.meta_batch, iterations=budget.iterations, learning_rate=budget.learning_rate, seed=seed,
        eval_every=budget.eval_every, eval_episodes=budget.eval_episodes, device=device, state=state,
        recorder=recorder,
    )  # fmt: skip
    return learner, "finetuned" if extractor.pretrained else "end_to_end"
