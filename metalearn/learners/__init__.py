"""Few-shot learners by name. A new one is one entry here, or ``package.module:Class`` in a config."""

import inspect

from torch import nn

from metalearn.errors import UserError
from metalearn.kinds import check_kind, find
from metalearn.learners.base import Classifier, FeatureLearner, Learner
from metalearn.learners.baseline import Baseline, BaselinePlusPlus
from metalearn.learners.finetune import FineTune
from metalearn.learners.logistic import Logistic
from metalearn.learners.matching import MatchingNetworks
from metalearn.learners.nearest_neighbour import NearestNeighbour
from metalearn.learners.prototypical import Prototypical
from metalearn.learners.ridge import R2D2, Ridge
from metalearn.learners.simpleshot import SimpleShot
from metalearn.learners.statistician import Statistician
from metalearn.learners.svm import SVM, MetaOptNet
from metalearn.schema import Kind

__all__ = ["LEARNERS", "Classifier", "FeatureLearner", "Learner", "learner_class", "make_learner", "takes"]

LEARNERS: dict[str, type[Learner] | str] = {
    "prototypical": Prototypical,
    "nearest_neighbour": NearestNeighbour,
    "matching": MatchingNetworks,
    "simpleshot": SimpleShot,
    "ridge": Ridge,
    "r2d2": R2D2,
    "logistic": Logistic,
    "svm": SVM,
    "metaoptnet": MetaOptNet,
    "baseline": Baseline,
    "baseline++": BaselinePlusPlus,
    "finetune": FineTune,
    "statistician": Statistician,
    "maml": "metalearn.gradient:MAML",
    "anil": "metalearn.anil:ANIL",
    "meta_sgd": "metalearn.curvature:MetaSGD",
    "meta_curvature": "metalearn.curvature:MetaCurvature",
    "kfo": "metalearn.curvature:KFO",
    "reptile": "metalearn.reptile:Reptile",
}


def learner_class(kind: str) -> type[Learner]:
    """Class of a learner: a name of ``LEARNERS``, or ``package.module:Class`` for code that lives elsewhere.

    Raises UserError for an unknown name, a module that cannot be imported, or a class that is no Learner.
    """
    found = find("learner", kind, LEARNERS)
    if not (isinstance(found, type) and issubclass(found, Learner)):
        raise UserError(f"learner {kind!r} is not a subclass of metalearn.learners.Learner")
    return found


def takes(kind: str, name: str) -> bool:
    """Whether a learner's constructor has the parameter ``name``; with ``ways`` it can answer no other number."""
    return name in inspect.signature(learner_class(kind)).parameters


def make_learner(kind: str, extractor: nn.Module | None = None, **options: object) -> Learner:
    """Build a learner on an extractor (None: the learner is given features).

    Raises UserError for an unknown kind, for an option its constructor does not have (naming the closest),
    for a missing one, and for a value of another type or one that it refuses.
    """
    found = learner_class(kind)
    choice = check_kind("learner", Kind(kind=kind, **options), LEARNERS, {"extractor"})
    return found(extractor, **choice.options)
