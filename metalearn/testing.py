"""Testing a learner on the episodes of a config, and the cell that comes of it; one way for every command."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvae.share import ALONE, Share
from metalearn.cache import tensors_fingerprint
from metalearn.cells import Cell, Facts, LabelsUsed, Mode
from metalearn.errors import UserError
from metalearn.evaluate import evaluate_features, evaluate_images, evaluate_trained
from metalearn.extractors import FeatureExtractor
from metalearn.learners import FeatureLearner, Learner
from metalearn.schema import EpisodesConfig, EpisodeSetting
from tasks.episodes import EpisodeIndices, EpisodeSampler
from tasks.fixed import FixedEpisodes
from tasks.folders import cache_folder
from tasks.splits import Dataset, Partition

Show = Callable[[int, int, str], None]


class Cost(NamedTuple):
    """Seconds of pretraining (as it took when it was done), meta-training, extraction and testing, of all seeds
    together; ``training``: the first two alone.
    """

    seconds: float
    training: float


@dataclass(frozen=True)
class Tested:
    """The part of a dataset that is tested, and how: episodes, device, progress, this process's share of episodes."""

    dataset: Dataset
    episodes: EpisodesConfig
    device: str
    progress: Show
    share: Share = ALONE

    @property
    def partition(self) -> Partition:
        """The part whose classes are tested."""
        part: Partition = getattr(self.dataset, self.episodes.part)
        return part

    @property
    def prescribed(self) -> EpisodeIndices | None:
        """The episodes that the dataset prescribes for the tested part, None where they are drawn."""
        fixed = self.dataset.fixed if self.episodes.part == "test" else None
        return None if fixed is None else fixed(self.episodes.seed)

    @property
    def fingerprint(self) -> str:
        """What equal images have in common, drawn from in one way; or equal episodes where they are prescribed."""
        given = self.prescribed
        if given is None:
            return self.partition.drawn_from
        digest = hashlib.sha256(self.partition.fingerprint.encode())
        for indices in (given.support, given.query):
            digest.update(f"{indices.shape}".encode() + np.ascontiguousarray(indices).tobytes())
        return digest.hexdigest()

    def sampler(self, setting: EpisodeSetting) -> EpisodeSampler:
        """Return the episodes of a setting: the same for every extractor and learner. Raises DataError.

        Where the dataset prescribes them (one-shot runs), UserError for settings that are not theirs.
        """
        if self.prescribed is not None:
            fixed, asked = FixedEpisodes(self.prescribed), self.episodes
            theirs = fixed.ways, fixed.shots, fixed.queries, len(fixed)
            if (setting.ways, setting.shots, asked.queries, asked.count) != theirs:
                name = f"{fixed.ways}w{fixed.shots}s"
                raise UserError(
                    f"the test episodes of {self.dataset.label} are {len(fixed)} given ones, {name} with "
                    f"{fixed.queries} queries a class; given {asked.count}, {setting} with {asked.queries}; write "
                    f"episodes: {{settings: [{name}], queries: {fixed.queries}, count: {len(fixed)}}}, or draw them "
                    "from part: val"
                )
            return fixed
        return self.partition.episodes(
            ways=setting.ways, shots=setting.shots, queries=self.episodes.queries, seed=self.episodes.seed
        )

    def on_features(
        self, learner: Learner, features: Float[Tensor, "n d"], setting: EpisodeSetting, text: str
    ) -> Int[np.ndarray, " episodes"]:
        """Return the correct count of each episode of a learner on frozen features."""
        assert isinstance(learner, FeatureLearner)
        self.progress(0, 1, f"{text}: {self.episodes.count} episodes")
        counts = evaluate_features(
            features, self.partition.labels, learner, self.sampler(setting), self.episodes.count, device=self.device
        )
        self.progress(1, 1, f"{text}: {self.episodes.count} episodes")
        return counts

    def on_trained(self, learner: Learner, setting: EpisodeSetting, text: str) -> Int[np.ndarray, " episodes"]:
        """Return the correct count of each episode of a meta-trained learner."""
        return evaluate_trained(
            learner, self.partition, self.sampler(setting), self.episodes.count, device=self.device, share=self.share,
            cache=cache_folder(), progress=lambda done, total, what: self.progress(done, total, f"{text}: {what}"),
        )  # fmt: skip

    def on_images(self, learner: Learner, setting: EpisodeSetting, text: str) -> Int[np.ndarray, " episodes"]:
        """Return the correct count of each episode of a learner that adapts to images."""
        return evaluate_images(
            learner, self.partition, self.sampler(setting), self.episodes.count, device=self.device, share=self.share,
            progress=lambda done, total, what: self.progress(done, total, f"{text}: {what}"),
        )  # fmt: skip


def facts_of(extractor: FeatureExtractor, learner: Learner, mode: Mode, *, meta_trained: bool) -> Facts:
    """What a row says of an extractor with a learner.

    ``meta_trained``: on the episodes of the training classes, whose labels it then used; a network that is fine-tuned
    on each support set alone saw no other label than its extractor.
    """
    labels, norm = labels_used(extractor, meta_trained), batch_norm_mode(extractor, learner)
    return Facts(labels, mode, learner.transductive, norm, extractor.settings, extractor.feature_dim)


def make_cell(
    tested: Tested,
    setting: EpisodeSetting,
    name: str,
    seeds: Sequence[int],
    learner_name: str,
    facts: Facts,
    correct: Int[np.ndarray, "seeds episodes"],
    cost: Cost,
    encoders: Sequence[str] = (),
) -> Cell:
    """A cell of what was tested; ``encoders``: the `encoder_of` of each row of counts."""
    return Cell(
        dataset=tested.dataset.label, split=tested.partition.name, ways=setting.ways, shots=setting.shots,
        queries=tested.episodes.queries, episode_seed=tested.episodes.seed, extractor=name,
        extractor_seeds=tuple(seeds), learner=learner_name, seconds=round(cost.seconds, 2),
        training_seconds=round(cost.training, 2), fingerprint=tested.fingerprint, correct=correct,
        encoders=tuple(encoders) if all(encoders) else (), **facts._asdict(),
    )  # fmt: skip


def labels_used(extractor: FeatureExtractor, meta_trained: bool) -> LabelsUsed:
    """Return which labels an answer rests on: ``class`` after meta-training, but ``external`` stays what it is."""
    return "class" if meta_trained and extractor.labels_used != "external" else extractor.labels_used


def encoder_of(extractor: FeatureExtractor) -> str:
    """Return the fingerprint of the VAE behind an extractor, by which ``metalearn measure`` names it; or nothing."""
    vae = getattr(extractor, "vae", None)
    return "" if vae is None else tensors_fingerprint(vae)


def batch_norm_mode(extractor: nn.Module, learner: Learner) -> str:
    """Return which statistics batch norm used: ``none`` where there is none, else ``running`` or the learner's own."""
    if not any(isinstance(part, _BatchNorm) for part in extractor.modules()):
        return "none"
    return str(getattr(learner, "batch_norm", "running"))
