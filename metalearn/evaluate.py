"""Correct counts per episode: all episodes at once on cached features, or one by one on images."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gvae.share import ALONE, Share
from metalearn.class_by_class import ClassByClass
from metalearn.episode_by_episode import EpisodeByEpisode
from metalearn.errors import UserError
from metalearn.extractors import FeatureExtractor
from metalearn.features import extract
from metalearn.learners.base import FeatureLearner, Learner, evaluating
from metalearn.learners.distance import DistanceLearner
from tasks.episodes import EpisodeIndices, EpisodeSampler
from tasks.resident import DeviceImages
from tasks.splits import Partition

_BATCH = 1 << 24  # bytes of float images of the episodes that are brought to the device at once

Progress = Callable[[int, int, str], None]
"""Called with (done, total, text), like ``gvae.pretrain.Recorder.progress``."""


def evaluate_features(
    features: Float[Tensor, "n d"],
    labels: Int[np.ndarray, " n"] | Int[Tensor, " n"],
    learner: FeatureLearner,
    sampler: EpisodeSampler,
    episodes: int,
    *,
    batch: int | None = None,
    device: str | torch.device = "cpu",
) -> Int[np.ndarray, " episodes"]:
    """How many queries of each of the first ``episodes`` episodes are classified right, ``batch`` episodes
    at a time (None: what `ClassByClass` or `EpisodeByEpisode` says).

    The batch size changes speed and memory only: every episode is solved on its own. The learner's
    extractor is not used: these are its features. Learner and features are brought to ``device``, where a
    `DistanceLearner` makes a second copy of them, a third one where images are not in the order of their classes.

    Raises UserError for features that are not finite, for a sampler of other labels, and for a learner that
    works on images only.
    """
    if not isinstance(learner, FeatureLearner):
        raise UserError(f"learner {type(learner).__name__} adapts to images, not features: use evaluate_images")
    known = np.asarray(labels)
    quick = features.sum(1).isfinite()  # of a sum that is finite, every term is
    finite = quick if quick.all() else features.isfinite().all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise UserError(f"{int((~finite).sum())} of {len(features)} features are not finite, the first in row {first}")
    features, learner = features.detach().to(device), learner.to(device)
    with torch.no_grad():
        correct = answering(learner, features, known, sampler)
    counts = np.empty(episodes, dtype=np.int64)
    for start, drawn in draws(sampler, episodes, batch or correct.at_once):
        if drawn.query.max() >= len(known) or (known[drawn.query] != drawn.classes[..., None]).any():
            raise UserError(f"the sampler draws from other labels than those of these {len(known)} features")
        with torch.no_grad():
            counts[start : start + len(drawn.classes)] = correct(drawn).cpu().numpy()
    return counts


def answering(
    learner: FeatureLearner, features: Float[Tensor, "n d"], labels: Int[np.ndarray, " n"], sampler: EpisodeSampler
) -> ClassByClass | EpisodeByEpisode:
    """The quicker way to answer episodes with a head.

    A Gram matrix of all images is never built: with N images of d features it costs N * N * d multiplications, as much
    as answering hundreds of thousands of episodes, and N * N numbers.
    """
    if isinstance(learner, DistanceLearner):
        features = learner.prepare(features)
        quick = ClassByClass(learner, features, labels, sampler)
        if quick.pays:
            return quick
    return EpisodeByEpisode(learner, features, sampler)


def draws(sampler: EpisodeSampler, episodes: int, batch: int) -> Iterator[tuple[int, EpisodeIndices]]:
    """The first ``episodes`` episodes, ``batch`` at a time, each lot with the number of its first; drawn 256 or more
    at a time, which costs less for each.
    """
    lot = batch * max(1, 256 // batch)
    for first in range(0, episodes, lot):
        drawn = sampler[first : min(first + lot, episodes)]
        for start in range(0, len(drawn.classes), batch):
            part = slice(start, start + batch)
            yield first + start, EpisodeIndices(drawn.support[part], drawn.query[part], drawn.classes[part])


def evaluate_images(
    learner: Learner,
    images: Partition | DeviceImages,
    sampler: EpisodeSampler,
    episodes: int,
    *,
    device: str | torch.device = "cpu",
    progress: Progress = lambda done, total, text: None,
    share: Share = ALONE,
) -> Int[np.ndarray, " episodes"]:
    """How many queries of each of the first ``episodes`` episodes are classified right, adapting to each on
    its own.

    images: a part, or its images on ``device`` already. The learner is brought to ``device`` and is otherwise left as
    it was. Of several processes each has a ``share`` of the episodes, and all are told all counts. Raises UserError,
    naming the episode, when it cannot adapt.
    """
    learner = learner.to(device)
    on_device = images if isinstance(images, DeviceImages) else DeviceImages(images, device)
    first, stop = (process * episodes // share.processes for process in (share.rank, share.rank + 1))
    counts = torch.zeros(episodes, dtype=torch.int64, device=device)
    for index, episode in enumerate(episode_images(on_device, sampler, first, stop), first):
        support, support_labels, query, query_labels = episode
        with located(f"episode {index}"), torch.no_grad():
            said = learner.adapt(support, support_labels)(query).argmax(-1)
        counts[index] = (said == query_labels).sum()
        progress(index + 1 - first, stop - first, "episodes")
    share.add([counts])
    return counts.cpu().numpy()


def evaluate_trained(
    learner: Learner,
    images: Partition | DeviceImages,
    sampler: EpisodeSampler,
    episodes: int,
    *,
    device: str | torch.device = "cpu",
    progress: Progress = lambda done, total, text: None,
    share: Share = ALONE,
    cache: Path | None = None,
) -> Int[np.ndarray, " episodes"]:
    """The counts of `evaluate_images`, but for ties that rounding decides, without passing an image twice if possible.

    A head on features meets an image in many episodes, and its network gives the same for it in each: where episodes
    show more images than there are, the features of all are extracted once (kept in ``cache``), by several processes
    together, which go by the counts of the first. Other learners adapt to the images of each episode.
    """
    partition = images.partition if isinstance(images, DeviceImages) else images
    shown = episodes * sampler.ways * (sampler.shots + sampler.queries)
    head = learner if isinstance(learner, FeatureLearner) and learner.reads == "features" else None
    if head is None or not isinstance(head.extractor, FeatureExtractor) or shown < len(partition.labels):
        return evaluate_images(learner, images, sampler, episodes, device=device, progress=progress, share=share)
    with evaluating(head):
        features = extract(head.extractor, images, device=str(device), cache=cache, progress=progress, share=share)
        counts = evaluate_features(features, partition.labels, head, sampler, episodes, device=device)
    return share.tell(counts)


def episode_images(
    images: DeviceImages, sampler: EpisodeSampler, start: int, stop: int
) -> Iterator[tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"], Float[Tensor, "q c h w"], Int[Tensor, " q"]]]:
    """Support images and labels, query images and labels of episodes ``start`` to ``stop - 1``, one by one.

    Images are in [0, 1], on the device of ``images``; labels are 0 to ways - 1.
    """
    each = 4 * math.prod((sampler.ways, sampler.shots + sampler.queries, *images.partition.image_shape))
    labels = [way_labels((sampler.ways, count), images.device) for count in (sampler.shots, sampler.queries)]
    for batch in images.episodes(sampler, start, stop, max(1, _BATCH // each)):
        for support, query in zip(batch.support, batch.query, strict=True):
            yield support.flatten(0, 1), labels[0], query.flatten(0, 1), labels[1]


@contextmanager
def located(where: str) -> Iterator[None]:
    """Say where a UserError came about: its message is prefixed with ``where``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def way_labels(shape: tuple[int, ...], device: str | torch.device) -> Int[Tensor, " n"]:
    """Labels ``0 0 .. 1 1 ..`` of an episode's (ways, each) images, class by class."""
    ways, each = shape
    return torch.arange(ways, device=device).repeat_interleave(each)
