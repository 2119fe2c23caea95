"""Counts per episode: batched on features, one by one on images."""

import numpy as np
import pytest
import torch
from torch import nn

from gvae.share import Share
from metalearn import evaluate, testing
from metalearn.class_by_class import ClassByClass, blocks
from metalearn.episode_by_episode import EpisodeByEpisode, Gather
from metalearn.errors import UserError
from metalearn.evaluate import answering, episode_images, evaluate_features, evaluate_images
from metalearn.extractors import RandomNetwork
from metalearn.learners import LEARNERS, FeatureLearner, Learner, learner_class, make_learner
from metalearn.learners.asks import give_base
from metalearn.schema import EpisodesConfig, ModelConfig
from tasks.datasets import glyphs
from tasks.episodes import EpisodeSampler
from tasks.resident import DeviceImages
from tasks.splits import Partition
from tasks.store import Store


def part(classes=12, each=8, shape=(1, 6, 6), seed=0) -> Partition:
    """Noise around one random image a class."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(40, 216, (classes, 1, *shape))
    pixels = np.clip(centre + rng.normal(0, 60, (classes, each, *shape)), 0, 255).astype(np.uint8)
    names = tuple(f"{k:02d}" for k in range(classes))
    store = Store("noise", pixels.reshape(-1, *shape), np.arange(classes + 1) * each, names)
    return Partition.of_classes(store, "test", names)


def case(ways=5, shots=2, queries=3):
    images = part()
    features = torch.from_numpy(images.images()).flatten(1).float() / 255
    return images, features, EpisodeSampler(images.labels, ways=ways, shots=shots, queries=queries, seed=3)


WITH_A_NETWORK = {"statistician"}  # reads features by the network that they are of: tests/test_statistician_learner.py
ON_FEATURES = [name for name in LEARNERS if issubclass(learner_class(name), FeatureLearner)]
ON_FEATURES = [name for name in ON_FEATURES if name not in WITH_A_NETWORK]
METRIC = [("prototypical", {}), ("prototypical", {"metric": "cosine"}), ("prototypical", {"normalise": True}),
          ("nearest_neighbour", {}), ("nearest_neighbour", {"metric": "cosine"}), ("simpleshot", {})]  # fmt: skip
EXACT = [("prototypical", {}), ("nearest_neighbour", {})]  # of whole numbers


@pytest.mark.parametrize("kind", ON_FEATURES)
def test_batched_features_equal_single_images_whatever_the_batch(kind):
    images, features, sampler = case()
    learner = make_learner(kind)
    give_base(learner, features[:50])
    assert isinstance(learner, FeatureLearner)
    single = evaluate_images(learner, images, sampler, 30)
    for batch in (None, 1, 7, 500):
        counts = evaluate_features(features, images.labels, learner, sampler, 30, batch=batch)
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, single)
    assert 0.3 < single.mean() / 15 < 1


@pytest.mark.parametrize("kind,options", METRIC)
def test_ranking_has_the_order_of_the_definition(kind, options):
    """Whatever the features' common offset; numbers that float32 holds exactly, so that shifting loses nothing."""
    images, features, sampler = case(ways=7, shots=3)
    features = (features * 256).round()
    learner = make_learner(kind, **options)
    drawn = sampler[0:20]
    for offset in (0, 4000):
        table = features + offset
        give_base(learner, table[:50])
        support, query = table[torch.from_numpy(drawn.support)], table[torch.from_numpy(drawn.query)].flatten(1, 2)
        expected = learner.double().classify(support.double(), query.double())
        prepared = learner.float().prepare(table)
        found = learner.rank(prepared[torch.from_numpy(drawn.support)],
                             prepared[torch.from_numpy(drawn.query)].flatten(1, 2))  # fmt: skip
        chosen = expected.gather(-1, found.argmax(-1, keepdim=True))[..., 0]
        torch.testing.assert_close(chosen, expected.amax(-1), rtol=1e-5, atol=1e-5)
        counts = (found.argmax(-1) == torch.arange(7).repeat_interleave(3)).sum(-1).numpy()
        np.testing.assert_array_equal(evaluate_features(table, images.labels, learner, sampler, 20), counts)


def test_how_many_episodes_go_together_is_bounded_by_bytes():
    _, _, sampler = case()
    for dim in (64, 1 << 22):
        for kind, megabytes in (("prototypical", 2), ("logistic", 64)):
            bytes_an_episode = 5 * (2 + 3) * dim * 4
            expected = max(1, (megabytes << 20) // bytes_an_episode)
            assert EpisodeByEpisode(make_learner(kind), torch.empty(0, dim), sampler).at_once == expected


@pytest.mark.parametrize("kind,options,whole", [(*each, False) for each in METRIC] + [(*each, True) for each in EXACT])
@pytest.mark.parametrize("unsorted", [False, True])
@pytest.mark.parametrize("shots", [1, 3])
def test_class_by_class_is_episode_by_episode(kind, options, whole, unsorted, shots):
    """Classes of unequal sizes, sorted or not; whole numbers have equal scores now and then, and the first way wins."""
    generator = np.random.default_rng(3)
    labels = np.repeat([7, 2, 5, 11, 3, 4], [9, 14, 10, 30, 8, 12])
    labels = generator.permutation(labels) if unsorted else np.sort(labels)
    features = torch.from_numpy(generator.integers(0, 3, (len(labels), 3)) * 6.0)
    learner = make_learner(kind, **options)
    give_base(learner, features)
    if not whole:
        noise = torch.from_numpy(generator.normal(0, 1, features.shape))
        features = learner.prepare(features + noise)
    sampler = EpisodeSampler(labels, ways=4, shots=shots, queries=5, seed=1)
    drawn = sampler[0:400]
    found = ClassByClass(learner, features, labels, sampler)(drawn)
    assert torch.equal(found, EpisodeByEpisode(learner, features, sampler)(drawn))
    assert 0.15 < found.double().mean() / 20 < 0.9


def test_the_way_that_is_quicker_is_taken():
    """Few points and classes not much larger than the queries of a way; otherwise queries are copied."""
    labels = np.repeat(np.arange(10), 20)
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))

    def way(kind="prototypical", ways=5, shots=1, queries=5):
        sampler = EpisodeSampler(labels, ways=ways, shots=shots, queries=queries, seed=0)
        return type(answering(make_learner(kind), features, labels, sampler))

    assert way() is ClassByClass
    assert way(queries=4) is EpisodeByEpisode  # 5 points, 4 queries
    assert way(ways=2, queries=4) is EpisodeByEpisode  # 20 images a class
    assert way("nearest_neighbour", shots=5) is EpisodeByEpisode
    assert way("ridge") is EpisodeByEpisode


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_blocks_hold_every_place_of_a_class_and_little_else(size):
    """The last of a class is repeated up to the most frequent of its block; no block is larger than asked for."""
    numbers = np.random.default_rng(0).choice([3, 4, 9, 20, 21], size=200, p=[0.05, 0.4, 0.3, 0.05, 0.2])
    seen = []
    for classes, places in blocks(numbers, size):
        assert places.size <= size or len(classes) == 1
        assert (numbers[places] == classes[:, None]).all()
        for row in places:
            once = np.unique(row)
            assert np.array_equal(row, [*once, *[once[-1]] * (len(row) - len(once))])
            seen.extend(once)
        counts = (numbers[:, None] == classes).sum(0)
        assert places.shape[1] == counts.max() and counts.min() >= 1
    assert sorted(seen) == list(range(200))


def test_the_first_of_equal_scores_is_chosen():
    """All images are the same, so all ways are equally near: the first is said, and the queries of one are right."""
    labels = np.repeat([0, 1, 2], 4)
    sampler = EpisodeSampler(labels, ways=3, shots=1, queries=3, seed=0)
    found = ClassByClass(make_learner("prototypical"), torch.ones(12, 5), labels, sampler)(sampler[0:50])
    assert (found == 3).all()


def test_what_is_gathered_is_the_rows_in_the_same_memory():
    table = torch.arange(20.0).reshape(10, 2)
    gather = Gather(table)
    first = gather(np.array([[1, 2], [3, 4]]))
    assert torch.equal(first, table[torch.tensor([[1, 2], [3, 4]])])
    fewer = gather(np.array([9, 0]))
    assert torch.equal(fewer, table[[9, 0]]) and fewer.data_ptr() == first.data_ptr()


@pytest.mark.parametrize("residence", ["host", "device", "stream"])
def test_images_that_are_on_the_device_already(residence):
    images, _, sampler = case()
    learner = make_learner("prototypical")
    on_device = DeviceImages(images, residence=residence)
    found = evaluate_images(learner, on_device, sampler, 30)
    np.testing.assert_array_equal(found, evaluate_images(learner, images, sampler, 30))


def test_episodes_one_by_one_are_those_of_the_plain_definition(monkeypatch):
    images, _, sampler = case()
    monkeypatch.setattr(evaluate, "_BATCH", 4 * 25 * 36 * 4)  # four episodes
    for index, episode in enumerate(episode_images(DeviceImages(images), sampler, 5, 15), start=5):
        support, support_labels, query, query_labels = episode
        drawn = sampler[index]
        for found, indices in ((support, drawn.support), (query, drawn.query)):
            torch.testing.assert_close(found, torch.from_numpy(images.gather(indices.reshape(-1))).float() / 255)
        assert support_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert query_labels.tolist() == np.repeat(np.arange(5), 3).tolist()
    assert index == 14


def test_first_episodes_do_not_depend_on_how_many_follow():
    images, features, sampler = case()
    learner = make_learner("prototypical")
    few = evaluate_features(features, images.labels, learner, sampler, 20)
    np.testing.assert_array_equal(few, evaluate_features(features, images.labels, learner, sampler, 300)[:20])


def test_evaluate_images_reports_progress_and_leaves_the_learner():
    images, _, sampler = case()
    learner = make_learner("prototypical", nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4)))
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    seen = []
    evaluate_images(learner, images, sampler, 3, progress=lambda *args: seen.append(args))
    assert seen == [(1, 3, "episodes"), (2, 3, "episodes"), (3, 3, "episodes")]
    assert all(torch.equal(v, before[k]) for k, v in learner.state_dict().items())
    assert learner.training


def test_features_that_cannot_be_used():
    images, features, sampler = case()
    learner = make_learner("prototypical")
    with pytest.raises(UserError, match="draws from other labels than those of these 40 features"):
        evaluate_features(features[:40], images.labels[:40], learner, sampler, 5)
    broken = features.clone()
    broken[7, 0] = float("nan")
    with pytest.raises(UserError, match="1 of 96 features are not finite, the first in row 7"):
        evaluate_features(broken, images.labels, learner, sampler, 5)
    with pytest.raises(UserError, match="Learner adapts to images, not features: use evaluate_images"):
        evaluate_features.__wrapped__(features, images.labels, Learner(), sampler, 5)


@pytest.mark.parametrize("kind", ["prototypical", "matching"])
def test_a_meta_trained_head_is_tested_on_features_of_its_own_network(kind, monkeypatch, tmp_path):
    """The counts of adapting to the images of each episode, without doing so."""
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    data = glyphs(classes=40, instances=12, image_size=16)
    learner = make_learner(kind, RandomNetwork((1, 16, 16), 0, ModelConfig(trunk="conv", latents=8)))
    episodes = EpisodesConfig(settings=["5w1s", "3w4s"], queries=6, count=40)
    tested = testing.Tested(data, episodes, "cpu", lambda done, total, text: None)
    expected = [tested.on_images(learner, setting, "") for setting in episodes.settings]
    monkeypatch.setattr(evaluate, "evaluate_images", lambda *_, **__: pytest.fail("adapted to images"))
    learner.train()
    found = [tested.on_trained(learner, setting, "") for setting in episodes.settings]
    assert learner.extractor.training  # each part is left in the mode that it had
    for one, other in zip(found, expected, strict=True):
        assert (one == other).mean() >= 0.95 and abs(one - other).max() <= 1  # a tie may fall either way
        assert 0.2 < one.mean() / (6 * 5) < 1.0


def test_learners_that_adapt_to_images_and_few_episodes_are_tested_on_images(monkeypatch, tmp_path):
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path))
    data = glyphs(classes=40, instances=12, image_size=16)
    episodes = EpisodesConfig(settings=["5w1s"], queries=2, count=4)
    seen = []
    none = np.zeros(4, np.int64)
    monkeypatch.setattr(evaluate, "evaluate_images", lambda learner, *_, **__: seen.append(learner) or none)
    extractor = RandomNetwork((1, 16, 16), 0, ModelConfig(trunk="conv", latents=8))
    finetune, head = make_learner("finetune", extractor), make_learner("prototypical", extractor)
    testing.Tested(data, episodes, "cpu", lambda *_: None).on_trained(finetune, episodes.settings[0], "")
    testing.Tested(data, episodes, "cpu", lambda *_: None).on_trained(head, episodes.settings[0], "")
    assert seen == [finetune, head]  # 60 images of 96: it costs less not to extract them all

    class Two(Share):
        processes = 2

        def tell(self, value, source=0):
            return value + 1

    more = episodes.model_copy(update={"count": 10})
    found = testing.Tested(data, more, "cpu", lambda *_: None, Two()).on_trained(head, more.settings[0], "")
    alone = testing.Tested(data, more, "cpu", lambda *_: None).on_trained(head, more.settings[0], "")
    assert (found == alone + 1).all() and len(seen) == 2  # what the first process tells
