"""From an extractor's config to an extractor that is ready: built, pretrained or read, and no class leaked."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from gvae.checkpoint import read_info
from gvae.recorder import Recorder
from gvae.share import ALONE, Share
from metalearn import construct
from metalearn.encoders import build_objective, encoder_key, forget_state, kept_encoder, pretrain_encoder
from metalearn.errors import UserError
from metalearn.extractor_table import EXTRACTORS, checkpoint, encoder_features, require_provenance
from metalearn.extractors import FeatureExtractor, SetExtractor
from metalearn.kinds import TABLES, check_kind
from metalearn.schema import Kind, PretrainingConfig
from metalearn.views import with_views
from tasks.folders import cache_folder
from tasks.oneshot import seen_classes
from tasks.splits import Dataset, Partition


class Prepared(NamedTuple):
    """An extractor and the seconds its pretraining took, when it was done (0 without pretraining)."""

    extractor: FeatureExtractor
    seconds: float


def make_extractor(
    kind: Kind, seed: int, *, dataset: Dataset, pretraining: PretrainingConfig, recorder: Recorder, device: str,
    share: Share = ALONE,
) -> Prepared:  # fmt: skip
    """Build the extractor of a seed, in eval mode. Kind ``pretrain`` trains an encoder, or takes the kept one.

    ``share``: several processes pretrain it together, and each builds the same.
    """
    found = before_training(kind, seed, dataset=dataset, pretraining=pretraining)  # says what is wrong, such as a slot
    if kind.kind != "pretrain":
        return Prepared(found, 0.0)
    folder = encoder_folder(kind, seed, dataset=dataset, pretraining=pretraining, device=device, share=share)

    def make() -> Path:
        made = pretrain_encoder(
            dataset, Kind.model_validate(kind.options["objective"]), pretraining.model, pretraining.training, seed,
            folder=folder, device=device, recorder=recorder, monitor=pretraining.monitor,
            share=share,
        )  # fmt: skip
        if share.first:
            forget_state(folder)  # three times the size of the encoder, and never read again
        return made

    path, info = kept_encoder(folder, make, recorder, share)
    extractor = checkpoint(dataset.train.image_shape, path=str(path), **reading(kind))
    return Prepared(extractor.eval(), float(info["seconds"]))


def encoder_folder(
    kind: Kind, seed: int, *, dataset: Dataset, pretraining: PretrainingConfig, device: str, share: Share = ALONE
) -> Path:
    """Where the encoder that kind ``pretrain`` trains is kept, once it is; its name is the encoder's key."""
    objective = Kind.model_validate(kind.options["objective"])
    key = encoder_key(dataset, objective, pretraining.model, pretraining.training, seed, device, share)
    return cache_folder() / "encoders" / key


def before_training(
    kind: Kind, seed: int, *, dataset: Dataset, pretraining: PretrainingConfig
) -> FeatureExtractor:
    """Build an extractor as ``make_extractor`` does, but leave an encoder that it would pretrain as it begins."""
    choice = check_kind("extractor", kind, EXTRACTORS, TABLES["extractor"].skip)
    model, shape = pretraining.model, dataset.train.image_shape
    if kind.kind != "pretrain":
        return construct.build_extractor(choice.build, choice.options, image_shape=shape, seed=seed, model=model)
    objective = Kind.model_validate(kind.options["objective"])
    how = reading(kind)
    views = how.pop("views")
    found = encoder_features(build_objective(dataset, objective, model, seed).vae, **how)
    found.objective = objective
    return with_views(found, views).eval()


def reading(kind: Kind) -> dict[str, Any]:
    """What is read of an encoder, of the options of kind ``pretrain``."""
    options = check_kind("extractor", kind, EXTRACTORS, TABLES["extractor"].skip).options
    return {name: options[name] for name in ("slots", "features", "views")}


def depends_on_seed(kind: Kind) -> bool:
    """Whether another seed gives another extractor: it is pretrained here, or draws its weights."""
    choice = check_kind("extractor", kind, EXTRACTORS, TABLES["extractor"].skip)
    return kind.kind == "pretrain" or construct.depends_on_seed(choice.build, choice.options)


def gives_posterior(kind: Kind) -> bool:
    """Whether an extractor has the posterior of a set of images, as far as its kind says."""
    choice = check_kind("extractor", kind, EXTRACTORS, TABLES["extractor"].skip)
    has_one = not isinstance(choice.build, type) or issubclass(choice.build, SetExtractor)
    return has_one and choice.options.get("features") != "trunk" and not choice.options.get("views")


def refuse_known_leak(name: str, kind: Kind, tested: Partition) -> None:
    """Raise UserError as `refuse_leak` does where the extractor need not be built for it: by its config or checkpoint.

    ModelError for a checkpoint that cannot be read.
    """
    choice = check_kind("extractor", kind, EXTRACTORS, TABLES["extractor"].skip)
    trained = frozenset(choice.options.get("training_classes") or ())
    if choice.build is checkpoint:
        info = read_info(Path(choice.options["path"]))
        require_provenance(choice.options["path"], info)
        trained |= frozenset(info["training_classes"])
    refuse_shared_classes(name, trained, tested)


def refuse_leak(name: str, extractor: nn.Module, tested: Partition) -> None:
    """Raise UserError when the extractor's training saw a class that it is to be tested on."""
    refuse_shared_classes(name, getattr(extractor, "training_classes", frozenset()), tested)


def refuse_shared_classes(name: str, trained: frozenset[str], tested: Partition) -> None:
    """Raise UserError when one of the classes ``trained`` on is in the part to be tested."""
    seen = sorted(seen_classes(tested, trained))
    if seen:
        raise UserError(
            f"extractor {name!r} was trained on {len(seen)} of the classes it would be tested on "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}): its error would mean nothing; "
            "use an encoder of the same split, or the split that it was trained on"
        )
