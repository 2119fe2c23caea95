"""What each command's config may hold: one model a command, every default here, no key beyond these."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from metalearn.errors import unknown

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(gt=0)]
Ways = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Base: unknown keys are errors; no text is taken for a number, no true for a 1; numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Kind(Settings):
    """A named component and its options: ``{kind: ridge, penalty: 0.1}``; ``ridge`` alone is short for no options.

    Options are checked against the constructor's signature by `metalearn.kinds.check_kind`.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    kind: Annotated[str, Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return {"kind": data} if isinstance(data, str) else data

    @property
    def options(self) -> dict[str, Any]:
        """Everything besides ``kind``."""
        return dict(self.model_extra or {})


DatasetConfig = Kind


def _augmentation(options: dict[str, Any]) -> dict[str, Any]:
    from metalearn.augmentation import filled_in  # imports torch, so only where it is asked for

    return filled_in(options)


Augmentation = Annotated[dict[str, Any], AfterValidator(_augmentation)] | None
"""Options of `gvae.augment.Augment`, its defaults filled in, or None: images as they are."""


class ModelConfig(Settings):
    """Network of a VAE: encoder and decoder trunk, number of latents."""

    trunk: str = "conv"
    latents: Count = 64


class TrainingConfig(Settings):
    """Pretraining of an encoder. `learning_rate` is that of Adam; checkpoints are `checkpoint_seconds` apart.

    `precision`: bfloat16 on CUDA and float32 on a CPU by `auto`; `tf32` on CUDA only. `memory_format`: of the network's
    convolutions. `compile`: torch.compile for the trunks, which pays in long runs. `augmentation` holds options of
    `gvae.augment.Augment`; none by default.
    """

    epochs: Count = 15
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine"] = "cosine"
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    compile: bool = False
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    augmentation: Augmentation = None


class MonitorConfig(Settings):
    """Few-shot accuracy on validation classes while an encoder trains."""

    ways: Ways = 5
    shots: Count = 1
    queries: Count = 15
    episodes: Count = 500


class MetaBudgetConfig(Settings):
    """Episodic training but for its ways and shots: what `metalearn.train.meta_train` takes, see there."""

    queries: Count = 15
    meta_batch: Count = 16
    iterations: Count = 1000
    learning_rate: Positive = 1e-3
    eval_every: Count = 100
    eval_episodes: Count = 200
    augmentation: Augmentation = None
    tasks_at_once: Count | None = None


class MetaTrainingConfig(MetaBudgetConfig):
    """The same with the ways and shots of its episodes."""

    ways: Ways = 5
    shots: Count = 1


class EpisodeSetting(Settings):
    """Ways and shots; the text ``5w1s`` is short for ``{ways: 5, shots: 1}``."""

    ways: Ways
    shots: Count

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        match = re.fullmatch(r"(\d+)w(\d+)s", data)
        if not match:
            raise ValueError(f"given {data!r}; allowed: WwSs, such as 5w1s, or {{ways: 5, shots: 1}}")
        return {"ways": int(match[1]), "shots": int(match[2])}

    def __str__(self) -> str:
        return f"{self.ways}w{self.shots}s"


def _no_repeats(values: Any) -> Any:
    if isinstance(values, list):
        for position, value in enumerate(values):
            if value in values[:position]:
                raise ValueError(f"given {value!r} twice; allowed: each once")
    return values


class EpisodesConfig(Settings):
    """Test episodes: `count` of each setting, `queries` query images a class, drawn by `seed` from `part`."""

    settings: Annotated[list[EpisodeSetting], Field(min_length=1), BeforeValidator(_no_repeats)]
    queries: Count = 15
    count: Annotated[int, Field(ge=2)] = 2000
    seed: Seed = 0
    part: Literal["val", "test"] = "test"


class PretrainingConfig(Settings):
    """Network and budget shared by every extractor of kind ``pretrain``, so that only objectives differ."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    monitor: MonitorConfig | None = MonitorConfig()


class PretrainConfig(Settings):
    """``metalearn pretrain``: one encoder."""

    dataset: DatasetConfig
    model: ModelConfig = ModelConfig()
    objective: Kind
    training: TrainingConfig = TrainingConfig()
    seed: Seed = 0
    monitor: MonitorConfig | None = MonitorConfig()


class BenchConfig(Settings):
    """``metalearn bench``: extractors x learners x episode settings x seeds. `baseline` defaults to the first.

    A learner is meta-trained anew for each setting, at its ways and shots, so `meta_training` names none.
    """

    dataset: DatasetConfig
    pretraining: PretrainingConfig = PretrainingConfig()
    extractors: Annotated[dict[str, Kind], Field(min_length=1)]
    learners: Annotated[dict[str, Kind], Field(min_length=1)]
    episodes: EpisodesConfig
    seeds: Annotated[list[Seed], Field(min_length=1), BeforeValidator(_no_repeats)] = [0]
    baseline: str
    meta_training: MetaBudgetConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _first_is_baseline(cls, data: Any) -> Any:
        extractors = data.get("extractors") if isinstance(data, dict) else None
        if isinstance(extractors, dict) and extractors and data.get("baseline") is None:
            return {**data, "baseline": next(iter(extractors))}
        return data

    @model_validator(mode="after")
    def _baseline_exists(self) -> "BenchConfig":
        if self.baseline not in self.extractors:
            raise ValueError(unknown("baseline", self.baseline, self.extractors))
        return self


class TrainConfig(Settings):
    """``metalearn train``: episodic meta-training of one learner, then a test."""

    dataset: DatasetConfig
    pretraining: PretrainingConfig = PretrainingConfig()
    extractor: Kind
    learner: Kind
    training: MetaTrainingConfig = MetaTrainingConfig()
    episodes: EpisodesConfig
    seed: Seed = 0


class ExtractConfig(Settings):
    """``metalearn extract``: features of one part of a dataset, or of all of them."""

    dataset: DatasetConfig
    pretraining: PretrainingConfig = PretrainingConfig()
    extractor: Kind
    part: Literal["train", "val", "test", "all"] = "test"
    seed: Seed = 0


def _every_metric() -> list[Kind]:
    from gvae.metrics import METRICS  # imports numpy and scikit-learn, so only where they are asked for

    return [Kind(kind=name) for name in METRICS]


def _each_kind_once(kinds: list[Kind]) -> list[Kind]:
    _no_repeats([kind.kind for kind in kinds])
    return kinds


class MeasureConfig(Settings):
    """``metalearn measure``: traversals, and `metrics` (default: all) `repeats` times, each with draws of its own."""

    checkpoint: Annotated[str, Field(min_length=1)]
    dataset: DatasetConfig
    part: Literal["val", "test"] = "test"
    metrics: Annotated[list[Kind], AfterValidator(_each_kind_once), Field(default_factory=_every_metric)]
    repeats: Annotated[int, Field(ge=2)] = 5
    seed: Seed = 0


CONFIGS: dict[str, type[Settings]] = {
    "pretrain": PretrainConfig,
    "train": TrainConfig,
    "bench": BenchConfig,
    "measure": MeasureConfig,
    "extract": ExtractConfig,
}
