"""What the parts of a config may hold: named kinds, networks and budgets; metalearn.schema has the commands'."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
    """Network of a VAE: encoder and decoder trunk (`conv4`, or of two trunks `conv4/conv`), number of latents."""

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


class AuxiliaryConfig(Settings):
    """Losses of a VAE beside a learner's, see `metalearn.auxiliary`: `weight` times those of `objective`.

    `objective` None: the one that the extractor was pretrained by. `batch_size` training images an iteration.
    """

    objective: Kind | None = None
    weight: Positive = 1e-3
    batch_size: Annotated[int, Field(ge=2)] = 64


class MetaBudgetConfig(Settings):
    """Episodic training on the training classes, selected on validation classes; ways and shots are given elsewhere.

    `augmentation`: of support and query images of training episodes, options of `gvae.augment.Augment`. `schedule`: of
    the learning rate over all iterations. `patience`: training ends after so many validations without a better one;
    None: never before `iterations`. `eval_ways`: of validation episodes; None: as many as training episodes have, the
    only choice for a learner whose head is made for a number of classes. `auxiliary`: a VAE's losses beside the
    learner's. `tasks_at_once`: how many episodes of a meta-batch are in memory together; None: as the learner says.
    """

    queries: Count = 15
    meta_batch: Count = 16
    iterations: Count = 1000
    learning_rate: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    eval_every: Count = 100
    eval_episodes: Count = 200
    eval_ways: Ways | None = None
    patience: Count | None = None
    augmentation: Augmentation = None
    auxiliary: AuxiliaryConfig | None = None
    tasks_at_once: Count | None = None


class MetaTrainingConfig(MetaBudgetConfig):
    """The same with the ways and shots of its episodes."""

    ways: Ways = 5
    shots: Count = 1


class PretrainingConfig(Settings):
    """Network and budget shared by every extractor of kind ``pretrain``, so that only objectives differ."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    monitor: MonitorConfig | None = MonitorConfig()
