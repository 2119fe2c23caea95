"""The steps of a benchmark, each done once by one process: an encoder with its features; counts of a learner."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gvae.recorder import Recorder
from metalearn.cells import slug
from metalearn.extractors import FeatureExtractor, Instances, SetExtractor
from metalearn.features import extract
from metalearn.learners import Learner, learner_class, make_learner
from metalearn.learners.asks import asks_for_base, give_base
from metalearn.meta import meta_trained
from metalearn.outcomes import Outcome
from metalearn.prepare import encoder_folder, make_extractor, refuse_leak
from metalearn.schema import BenchConfig, EpisodeSetting, Kind, MetaTrainingConfig
from metalearn.testing import Tested, encoder_of, facts_of
from tasks.folders import cache_folder
from tasks.splits import Dataset, Partition

READY = 3  # extractors with features that a process keeps from step to step


@dataclass(frozen=True)
class EncoderStep:
    """Make the extractor of a seed, and extract what learners read of it."""

    extractor: str
    seed: int

    @property
    def name(self) -> str:
        """Words for it; also the scope that its training tells under."""
        return f"{self.extractor}/seed{self.seed}"

    @property
    def needs(self) -> "tuple[Step, ...]":
        """Steps that come before it."""
        return ()


@dataclass(frozen=True)
class CountStep:
    """Meta-train a learner on the extractor of a seed, where it is meta-trained, and test it in an episode setting."""

    extractor: str
    learner: str
    setting: EpisodeSetting
    seed: int

    @property
    def name(self) -> str:
        """Words for it; also the scope that its training tells under."""
        return f"{self.extractor}/{self.learner}/{self.setting}/seed{self.seed}"

    @property
    def needs(self) -> "tuple[Step, ...]":
        """Steps that come before it."""
        return (EncoderStep(self.extractor, self.seed),)


Step = EncoderStep | CountStep


def alike(config: BenchConfig, step: Step) -> tuple[tuple[str, ...], ...]:
    """What a step has in common with those that take about as long, the closest first."""
    if isinstance(step, EncoderStep):
        return (("extractor", step.extractor), ("extractor kind", config.extractors[step.extractor].kind))
    setting, kind = str(step.setting), config.learners[step.learner].kind
    return (
        ("count", step.extractor, step.learner, setting), ("count", step.learner, setting), ("learner kind", kind)
    )  # fmt: skip


@dataclass(frozen=True)
class Ready:
    """An extractor of one seed, its features of the tested part and of the training part, and seconds it cost, of which
    ``training`` to pretrain it.

    Features are None where no learner asks for them.
    """

    extractor: FeatureExtractor
    features: Tensor | None
    base: Tensor | None
    seconds: float
    training: float


class Steps:
    """Does steps of one benchmark, in whatever order and process; what it trains is kept on disk, so nothing twice.

    ``folder``: the run's directory, for the states of unfinished meta-trainings. ``recorder``: gives what the training
    of a scope is told to. ``progress``: told (done, total, text) of all else.
    """

    def __init__(
        self,
        config: BenchConfig,
        dataset: Dataset,
        device: str,
        folder: Path,
        recorder: Callable[[str], Recorder],
        progress: Callable[[int, int, str], None],
    ):
        self.config, self.dataset, self.device, self.folder = config, dataset, device, folder
        self.recorder, self.progress = recorder, progress
        self.tested = Tested(dataset, config.episodes, device, progress)
        self._ready: OrderedDict[tuple[str, int], Ready] = OrderedDict()

    def __call__(self, step: Step) -> Outcome:
        """Do a step. Raises UserError, DataError or ModelError."""
        if isinstance(step, EncoderStep):
            ready = self.ready(step.extractor, step.seed)
            return Outcome(ready.seconds, ready.training)
        return self.count(step)

    def encoder(self, step: Step) -> Path | None:
        """Folder where the encoder that a step makes or needs is kept, once it is; None where none is pretrained."""
        kind = self.config.extractors[step.extractor]
        if kind.kind != "pretrain":
            return None
        return encoder_folder(
            kind, step.seed, dataset=self.dataset, pretraining=self.config.pretraining, device=self.device
        )

    def state(self, step: Step) -> Path:
        """Where the state of a step's unfinished meta-training is."""
        return self.folder / "checkpoints" / f"{slug(*step.name.split('/'))}.pt"

    def ready(self, name: str, seed: int) -> Ready:
        """The extractor of a seed and its features, made unless they are kept; the last few stay in memory."""
        if (name, seed) not in self._ready:
            self._ready[name, seed] = self.prepare(name, seed)
        self._ready.move_to_end((name, seed))
        while len(self._ready) > READY:
            self._ready.popitem(last=False)
        return self._ready[name, seed]

    def prepare(self, name: str, seed: int) -> Ready:
        """Make the extractor, refuse one that saw a tested class, extract its features if a learner asks."""
        extractor, seconds = make_extractor(
            self.config.extractors[name], seed, dataset=self.dataset, pretraining=self.config.pretraining,
            recorder=self.recorder(f"{name}/seed{seed}"), device=self.device,
        )  # fmt: skip
        refuse_leak(name, extractor, self.tested.partition)
        began, kinds = time.monotonic(), self.config.learners.values()

        def features(partition: Partition) -> Tensor:
            return extract(
                extractor, partition, device=self.device, cache=cache_folder(),
                progress=lambda done, total, text: self.progress(done, total, f"{name}: {text}"),
            )  # fmt: skip

        tested = features(self.tested.partition) if any(reads_features(kind) for kind in kinds) else None
        base = features(self.dataset.train) if any(reads_base(kind) for kind in kinds) else None
        return Ready(extractor, tested, base, seconds + time.monotonic() - began, seconds)

    def count(self, step: CountStep) -> Outcome:
        """Correct counts of a learner on the extractor of a seed."""
        one, kind = self.ready(step.extractor, step.seed), self.config.learners[step.learner]
        began, training, trained = time.monotonic(), 0.0, learner_class(kind.kind).meta_trained
        if trained:
            learner, mode, earlier = meta_trained(
                kind, one.extractor, budget_of(self.config, step.setting), self.dataset, step.seed,
                state=self.state(step), recorder=self.recorder(step.name), device=self.device,
            )  # fmt: skip
            began -= earlier
            training = time.monotonic() - began
            correct = self.tested.on_trained(learner, step.setting, step.name)
        elif reads_features(kind):
            learner, mode = make_learner(kind.kind, one.extractor, **kind.options), "frozen"
            give_base(learner, one.base)
            correct = self.tested.on_features(learner, self.features_for(learner, one), step.setting, step.name)
        else:
            learner, mode = make_learner(kind.kind, one.extractor, **kind.options), "finetuned"
            correct = self.tested.on_images(learner, step.setting, step.name)
        facts = facts_of(one.extractor, learner, mode, meta_trained=trained)
        return Outcome(time.monotonic() - began, training, facts, correct, encoder_of(one.extractor))

    def features_for(self, learner: Learner, one: Ready) -> Tensor:
        """What a learner reads: an extractor's features, or what is pooled over sets where it pools by itself."""
        if learner.reads == "instances":
            assert isinstance(one.extractor, SetExtractor)  # else the learner could not be built on it
            return extract(Instances(one.extractor), self.tested.partition, device=self.device, cache=cache_folder())
        assert one.features is not None  # extracted, as this learner asks for them
        return one.features


def reads_features(kind: Kind) -> bool:
    """Whether a learner of this kind is tested on features, as it is: not on images, not after meta-training."""
    found = learner_class(kind.kind)
    return found.reads != "images" and not found.meta_trained


def reads_base(kind: Kind) -> bool:
    """Whether it also needs the features of the training part (``fit_base``)."""
    return reads_features(kind) and asks_for_base(make_learner(kind.kind, **kind.options))


def budget_of(config: BenchConfig, setting: EpisodeSetting) -> MetaTrainingConfig:
    """How learners are meta-trained for a setting: at the ways and shots that they will be tested at."""
    assert config.meta_training is not None  # checked before any work
    return MetaTrainingConfig(ways=setting.ways, shots=setting.shots, **config.meta_training.model_dump())
