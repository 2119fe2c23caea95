"""The episode sampler: uniform, without replacement, and a pure function of (seed, index)."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tasks.episodes import EpisodeSampler, _sample
from tasks.errors import DataError

SIZES = np.array([16, 20, 31, 18, 25, 16, 40])
LABELS = np.repeat(np.arange(7) * 10, SIZES)  # classes of different sizes, labels with gaps


def make(labels=LABELS, ways=5, shots=1, queries=15, seed=0, **more) -> EpisodeSampler:
    return EpisodeSampler(labels, ways=ways, shots=shots, queries=queries, seed=seed, **more)


def flat(episodes) -> np.ndarray:
    return np.concatenate([episodes.support, episodes.query], -1)


def test_shapes_types_and_labels() -> None:
    episodes = make(shots=2, queries=3)[0:10]
    assert (episodes.support.shape, episodes.query.shape) == ((10, 5, 2), (10, 5, 3))
    assert {a.dtype for a in (episodes.support, episodes.query, episodes.classes)} == {np.dtype(np.int64)}
    np.testing.assert_array_equal(LABELS[flat(episodes)], np.repeat(episodes.classes[..., None], 5, -1))
    one = make(shots=2, queries=3)[7]
    np.testing.assert_array_equal(one.support, episodes.support[7:8])


@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1), start=st.integers(0, 2**63 - 100))
def test_no_replacement_and_the_same_in_any_batch(data, seed: int, start: int) -> None:
    sizes = data.draw(st.lists(st.integers(4, 12), min_size=3, max_size=9))
    labels = data.draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist()))
    ways = data.draw(st.integers(1, len(sizes)))
    shots = data.draw(st.integers(1, 3))
    sampler = make(np.array(labels), ways=ways, shots=shots, queries=4 - shots, seed=seed)
    count = data.draw(st.integers(1, 60))
    batch = sampler[start : start + count]
    for classes, images in zip(batch.classes, flat(batch).reshape(count, -1), strict=True):
        assert len(set(classes)) == ways
        assert len(set(images)) == ways * 4  # so support and query are disjoint too
    for i in data.draw(st.lists(st.integers(0, count - 1), max_size=4)):
        alone = sampler[start + i]
        np.testing.assert_array_equal(flat(alone)[0], flat(batch)[i])
        np.testing.assert_array_equal(alone.classes[0], batch.classes[i])


@settings(max_examples=100, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1), start=st.integers(0, 2**63 - 2))
def test_tight_settings_use_every_class_and_every_image(data, seed: int, start: int) -> None:
    """ways = classes and shots + queries = the size of the smallest class, beside classes of any larger size."""
    smallest = data.draw(st.integers(2, 8))
    sizes = [smallest, *data.draw(st.lists(st.integers(smallest, 400), max_size=6))]
    labels = np.array(data.draw(st.permutations(np.repeat(np.arange(len(sizes)) - 3, sizes).tolist())))
    shots = data.draw(st.integers(1, smallest - 1))
    episode = make(labels, ways=len(sizes), shots=shots, queries=smallest - shots, seed=seed)[start]
    assert sorted(episode.classes[0].tolist()) == sorted(set(labels.tolist()))
    for kind, images in zip(episode.classes[0], flat(episode)[0], strict=True):
        assert len(set(images)) == smallest and set(labels[images]) == {kind}
        if kind == -3:
            assert sorted(images) == np.flatnonzero(labels == kind).tolist()


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), ways=st.integers(1, 10), needed=st.integers(2, 12))
def test_too_few_classes_or_images_are_named_whatever_the_sizes(sizes: list[int], ways: int, needed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    fits = ways <= len(sizes) and needed <= min(sizes)
    if fits:
        assert make(labels, ways=ways, shots=1, queries=needed - 1)[0].support.shape == (1, ways, 1)
        return
    with pytest.raises(DataError) as caught:
        make(labels, ways=ways, shots=1, queries=needed - 1)
    if ways > len(sizes):
        assert f"ways={ways}, but the data has only {len(sizes)} classes" in str(caught.value)
    else:
        small = [k for k, size in enumerate(sizes) if size < needed]
        assert f"class {small[0]} has {sizes[small[0]]} images" in str(caught.value)
        assert f"give shots + queries <= {min(sizes)}" in str(caught.value)
        assert (f"({len(small) - 1} more classes are too small)" in str(caught.value)) == (len(small) > 1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(max_value=-1), index=st.integers(max_value=-1), huge=st.integers(2**63, 2**70))
def test_negative_and_too_large_numbers_have_their_words(seed: int, index: int, huge: int) -> None:
    with pytest.raises(DataError, match=f"episode seed {seed}: allowed are whole numbers from 0 to 2"):
        make(seed=seed)
    for wrong in (index, huge):
        with pytest.raises(DataError, match=f"episode index {wrong}: allowed are whole numbers from 0 to 2"):
            make()[wrong]
    with pytest.raises(DataError, match="episode index slice"):
        make()[index:3]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), index=st.integers(0, 2**63 - 3), kind=st.sampled_from([np.int64, np.uint64]))
def test_numpy_numbers_do_as_whole_numbers_do(seed: int, index: int, kind: type) -> None:
    plain = make(seed=seed)[index : index + 2]
    sampler = make(ways=kind(5), shots=kind(1), queries=kind(15), seed=kind(seed))
    np.testing.assert_array_equal(flat(sampler[kind(index)])[0], flat(plain)[0])
    np.testing.assert_array_equal(flat(sampler[kind(index) : kind(index + 2)]), flat(plain))


@pytest.mark.parametrize("seed", [0, 2**32, 2**64 - 1])
def test_the_last_indices_and_seeds(seed: int) -> None:
    sampler = make(seed=seed)
    last = sampler[2**63 - 3 : 2**63]
    assert len(np.unique(flat(last).reshape(3, -1), axis=0)) == 3
    np.testing.assert_array_equal(flat(sampler[2**63 - 1])[0], flat(last)[2])
    np.testing.assert_array_equal(flat(make(seed=np.uint64(seed))[7]), flat(sampler[7]))


def test_the_same_over_blocks_steps_and_orders() -> None:
    sampler = make(seed=5)
    whole = flat(sampler[0:3000])
    np.testing.assert_array_equal(whole, np.concatenate([flat(sampler[a : a + 600]) for a in range(0, 3000, 600)]))
    np.testing.assert_array_equal(whole[::7], flat(sampler[0:3000:7]))
    np.testing.assert_array_equal(whole[100:50:-1], flat(sampler[100:50:-1]))
    assert len(flat(sampler[5:5])) == 0


def test_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from tasks.episodes import EpisodeSampler;"
        "s = EpisodeSampler(np.repeat(np.arange(50), 20), ways=5, shots=1, queries=15, seed=9)[1000:1005];"
        "print(s.support.ravel().tolist() + s.query.ravel().tolist())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = make(np.repeat(np.arange(50), 20), seed=9)[1000:1005]
    assert told.strip() == str(here.support.ravel().tolist() + here.query.ravel().tolist())


def test_golden_episode() -> None:
    """A change here means that episodes of old runs can no longer be paired with new ones."""
    episode = make(np.repeat(np.arange(100), 20), shots=1, queries=2, seed=1)[0]
    assert episode.classes.tolist() == [[50, 58, 14, 67, 60]]
    assert flat(episode)[0].tolist() == [
        [1010, 1011, 1000],
        [1177, 1160, 1175],
        [288, 294, 287],
        [1354, 1351, 1356],
        [1206, 1218, 1219],
    ]


def test_seeds_and_indices_differ() -> None:
    labels = np.repeat(np.arange(200), 20)
    drawn = np.concatenate([flat(make(labels, seed=seed)[0:200]).reshape(200, -1) for seed in range(5)])
    assert len(np.unique(drawn, axis=0)) == 1000


def uniform_p(observed: np.ndarray) -> float:
    return chisquare(observed).pvalue


def test_classes_are_uniform_at_every_position() -> None:
    sampler = make(ways=3, shots=1, queries=1, seed=3)
    classes = sampler[0:20000].classes // 10
    assert all(uniform_p(np.bincount(classes[:, way], minlength=7)) > 1e-3 for way in range(3))
    pairs = classes[:, 0] * 7 + classes[:, 1]
    assert uniform_p(np.bincount(pairs, minlength=49)[np.arange(49) % 8 != 0]) > 1e-3


def test_images_are_uniform_at_every_position() -> None:
    sampler = make(np.repeat(np.arange(2), 6), ways=2, shots=2, queries=2, seed=4)
    images = flat(sampler[0:20000])
    for position in range(4):
        assert uniform_p(np.bincount(images[:, :, position].ravel(), minlength=12)) > 1e-3
    in_class = images % 6
    for a in range(4):
        for b in range(a):
            pairs = (in_class[..., a] * 6 + in_class[..., b]).ravel()
            assert uniform_p(np.bincount(pairs, minlength=36)[np.arange(36) % 7 != 0]) > 1e-3


def test_classes_of_very_different_sizes_are_uniform_and_so_are_the_images_of_each() -> None:
    sizes = np.array([3, 4, 50, 300])
    sampler = make(np.repeat(np.arange(4), sizes), ways=2, shots=1, queries=2, seed=8)
    episodes = sampler[0:40000]
    for way in range(2):
        assert uniform_p(np.bincount(episodes.classes[:, way], minlength=4)) > 1e-3
    starts = np.cumsum(sizes) - sizes
    for k, size in enumerate(sizes):
        images = flat(episodes)[episodes.classes == k] - starts[k]  # (times, 3)
        for position in range(3):
            assert uniform_p(np.bincount(images[:, position], minlength=size)) > 1e-3


def test_ways_are_independent_of_each_other() -> None:
    images = make(np.repeat(np.arange(2), 4), ways=2, shots=1, queries=1, seed=6)[0:16000].support[..., 0] % 4
    assert uniform_p(np.bincount(images[:, 0] * 4 + images[:, 1], minlength=16)) > 1e-3


def test_successive_episodes_are_independent() -> None:
    first = make(np.repeat(np.arange(8), 2), ways=1, shots=1, queries=1, seed=0)[0:20001].classes[:, 0]
    assert uniform_p(np.bincount(first[:-1] * 8 + first[1:], minlength=64)) > 1e-3


def test_huge_classes_need_no_table_of_their_images() -> None:
    sampler = make(np.repeat(np.arange(5), 200_000), seed=1)
    tracemalloc.start()
    images = flat(sampler[0:1000])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 32 * 2**20  # a key for every image of every episode would take 8 GB
    assert images.max() > 990_000 and all(len(set(row)) == 80 for row in images.reshape(1000, -1))


def kept_by(sampler: EpisodeSampler) -> int:
    """Bytes of the arrays that a sampler holds."""
    return sum(value.nbytes for value in vars(sampler).values() if isinstance(value, np.ndarray))


def test_what_a_sampler_keeps_of_sorted_labels_does_not_grow_with_the_images() -> None:
    few, many = (make(np.repeat(np.arange(50), size)) for size in (20, 20_000))
    assert kept_by(few) == kept_by(many) == 3 * 50 * 8
    unsorted = np.tile(np.arange(50), 20)
    assert kept_by(make(unsorted)) == kept_by(few) + unsorted.nbytes


def fisher_yates(chances: np.ndarray, size: int) -> list[int]:
    """The definition: the first steps of a shuffle of 0..size-1, swap by swap."""
    places = list(range(size))
    for i, word in enumerate(chances):
        j = i + (((int(word) >> 32) * (size - i)) >> 32)
        places[i], places[j] = places[j], places[i]
    return places[: len(chances)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), m=st.integers(1, 8), seed=st.integers(0, 2**32))
def test_drawing_within_classes_is_the_start_of_a_shuffle(data, m: int, seed: int) -> None:
    largest = data.draw(st.sampled_from([m, 4 * m, 100, 10**6]))
    sizes = np.array(data.draw(st.lists(st.integers(m, largest), max_size=5)))
    chances = np.random.default_rng(seed).integers(0, 2**64, (m, len(sizes)), np.uint64)
    expected = [fisher_yates(chances[:, row], int(size)) for row, size in enumerate(sizes)]
    np.testing.assert_array_equal(_sample(chances, sizes.astype(np.int64)).T, np.array(expected).reshape(-1, m))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"ways": 8}, r"ways=8, but the data has only 7 classes; give ways <= 7"),
        (
            {"shots": 2},
            r"class 0 has 16 images, but shots=2 .* need 17 \(1 more .*; give shots \+ queries <= 16",
        ),
        ({"ways": 0}, "ways=0: an episode needs at least 1"),
        ({"shots": 0}, "shots=0: an episode needs at least 1"),
        ({"queries": -1}, "queries=-1: an episode needs at least 1"),
        ({"seed": -1}, r"episode seed -1: allowed are whole numbers from 0 to 2\*\*64 - 1"),
        ({"seed": 2**64}, "episode seed 18446744073709551616: allowed"),
    ],
)
def test_settings_out_of_range(setting: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make(**setting)


def test_a_small_class_is_named() -> None:
    with pytest.raises(DataError, match="class 'Greek/character01' has 3 images"):
        make(
            np.array([0, 0, 0, 0, 1, 1, 1]),
            ways=2,
            queries=3,
            class_names=["Latin/character01", "Greek/character01"],
        )


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (-1, "episode index -1: allowed are whole numbers from 0"),
        (slice(-5, 3), "episode index slice"),
        (2**63, "episode index 9223372036854775808"),
        (slice(3, None), "give the slice a stop"),
    ],
)
def test_indices_out_of_range(index, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make()[index]


# within groups of classes

GROUPS = np.array([2, 0, 2, 1, 2, 0, 2])  # of 4, 2 and 1 classes


def test_within_groups_an_episode_has_classes_of_one_group_that_has_enough() -> None:
    sampler = make(ways=2, groups=GROUPS)
    of = dict(zip(np.unique(LABELS).tolist(), GROUPS.tolist(), strict=True))
    episodes = sampler[0:4000]
    groups = np.vectorize(of.get)(episodes.classes)
    assert (groups[:, 0] == groups[:, 1]).all() and (episodes.classes[:, 0] != episodes.classes[:, 1]).all()
    np.testing.assert_array_equal(LABELS[flat(episodes)], np.repeat(episodes.classes[..., None], 16, -1))
    assert chisquare(np.bincount(groups[:, 0])[[0, 2]]).pvalue > 1e-3  # group 1 has but one class
    assert chisquare(np.unique(episodes.classes[groups[:, 0] == 2], return_counts=True)[1]).pvalue > 1e-3
    np.testing.assert_array_equal(sampler[37].support[0], episodes.support[37])
    np.testing.assert_array_equal(sampler.of_each(4, range(1, 3))[2].classes[0], episodes.classes[5])


def test_one_group_of_all_classes_asks_for_other_words_but_the_same_images() -> None:
    """The group takes the last word of an episode, so the draw within it is that of no groups."""
    np.testing.assert_array_equal(flat(make(groups=np.zeros(7, np.int64))[0:50]), flat(make()[0:50]))


def test_groups_without_enough_classes_are_told() -> None:
    words = "ways=5 of one group, but the largest group has only 4 classes; give ways <= 4, or draw from all classes"
    with pytest.raises(DataError, match=words):
        make(groups=GROUPS)
    with pytest.raises(DataError, match=r"groups of shape \(6,\), of 7 classes; give a number from 0 for each class"):
        make(ways=2, groups=GROUPS[:6])
