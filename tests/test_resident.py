"""Images on a device: the same episodes wherever the images are kept, and a thread that never outlives its use."""

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tasks import resident
from tasks.episodes import EpisodeSampler
from tasks.errors import DataError
from tasks.images import SCALE
from tasks.resident import RESIDENCES, DeviceImages
from tasks.splits import Partition, training_turned
from tasks.store import Store

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
NAMES = tuple("abcdef")
TURNED = training_turned({"train": ["a", "c", "d"]}, rotations=True, reflections=True)["train"]
PARTS = {"upright": NAMES, "some": ("b", "d", "e", "f"), "turned": tuple(TURNED)}


def part(which: str = "upright") -> Partition:
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 5, 5), np.uint8)
    return Partition.of_classes(Store("six", images, np.arange(7) * 10, NAMES), "train", PARTS[which])


def sampler(partition: Partition, ways: int = 3) -> EpisodeSampler:
    return EpisodeSampler(partition.labels, ways=ways, shots=2, queries=4, seed=3)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not threads()


def residences(device: str) -> list[str]:
    return [one for one in RESIDENCES if one != "host" or device == "cpu"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("which", PARTS)
def test_the_same_episodes_over_residences_and_batches(which: str, device: str) -> None:
    partition = part(which)
    drawn = sampler(partition)[5:16]
    for residence in residences(device):
        images = DeviceImages(partition, device, residence=residence)
        for batch in (1, 4, 100):
            got = list(images.episodes(sampler(partition), 5, 16, batch))
            assert [len(one.classes) for one in got] == [min(batch, 11 - i) for i in range(0, 11, batch)]
            for name in ("support", "query"):
                indices = getattr(drawn, name)
                expected = partition.gather(indices).astype(np.float32) * np.float32(SCALE)
                found = torch.cat([getattr(one, name) for one in got])
                assert found.device.type == device
                np.testing.assert_array_equal(found.cpu().numpy(), expected)
                np.testing.assert_array_equal(np.concatenate([getattr(one.indices, name) for one in got]), indices)
            np.testing.assert_array_equal(torch.cat([one.classes for one in got]).cpu().numpy(), drawn.classes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("which", PARTS)
def test_images_by_position_in_batches(which: str, device: str) -> None:
    partition = part(which)
    asked = np.random.default_rng(1).integers(0, len(partition.index), 23)
    expected = partition.gather(asked).astype(np.float32) * np.float32(SCALE)
    for residence in residences(device):
        images = DeviceImages(partition, device, residence=residence)
        for batch in (1, 10, 23, 50):
            got = list(images.batches(asked, batch))
            assert [len(one) for one in got] == [min(batch, 23 - i) for i in range(0, 23, batch)]
            np.testing.assert_array_equal(torch.cat(got).cpu().numpy(), expected)
        assert list(images.batches(asked[:0], 5)) == []


def test_batches_do_not_share_memory() -> None:
    for residence in RESIDENCES:
        images = DeviceImages(part("turned"), residence=residence)
        first, again = (list(images.batches(np.arange(30), 10)) for _ in range(2))
        for one in first:
            one.zero_()
        assert all(one.sum() > 0 for one in again)
        torch.testing.assert_close(next(images.batches(np.arange(10), 10)), again[0])


def test_a_device_copy_holds_a_turned_image_once(monkeypatch) -> None:
    monkeypatch.setattr(resident, "_PIECE", 200)  # a few images at once
    images = DeviceImages(part("turned"), residence="device")
    assert images._kept.images.shape == (30, 3, 5, 5)
    np.testing.assert_array_equal(images._kept.images.numpy(), part().store.images[[*range(10), *range(20, 40)]])


def test_the_host_gathers_ahead_of_use(monkeypatch) -> None:
    partition, begun = part(), []
    plain = EpisodeSampler.__getitem__
    monkeypatch.setattr(EpisodeSampler, "__getitem__", lambda self, at: begun.append(at.start) or plain(self, at))
    episodes = DeviceImages(partition, residence="stream").episodes(sampler(partition), 0, 10, 1)
    assert begun == [] and not threads()  # nothing happens before the first is asked for
    next(episodes)
    assert len(threads()) == 1
    episodes.close()
    assert begun in ([0], [0, 1], [0, 1, 2])  # never further than two ahead
    assert not threads()


def test_a_dropped_iterator_ends_its_thread() -> None:
    partition = part()
    episodes = DeviceImages(partition, residence="stream").episodes(sampler(partition), 0, 1000, 1)
    next(episodes)
    assert len(threads()) == 1
    del episodes
    gc.collect()
    assert not threads()


@pytest.mark.parametrize("residence", RESIDENCES)
def test_an_error_while_gathering_reaches_the_caller(residence: str) -> None:
    images = DeviceImages(part("some"), residence=residence)  # 40 images
    wrong = sampler(part(), ways=6)  # of 60
    with pytest.raises(DataError, match=r"image \d+ of a part of 40: give whole numbers from 0 to 39"):
        list(images.episodes(wrong, 0, 50, 10))
    with pytest.raises(DataError, match="episode index"):
        list(images.episodes(sampler(part("some")), -3, 5, 10))


class Pretended:
    """A device of which only the kind is looked at."""

    type = "cuda"

    def __str__(self) -> str:
        return "cuda:0"


@pytest.mark.parametrize(
    ("free", "share", "residence", "why"),
    [
        (10_000, 0.5, "device", "0.0 MB of images fit into 50% of the 0.0 MB that are free on cuda:0"),
        (2 * 30 * 75, 0.5, "device", "fit into 50%"),
        (2 * 30 * 75 - 1, 0.5, "stream", "0.0 MB of images do not fit into 50% of the 0.0 MB"),
        (10**12, 0.0, "stream", "do not fit into 0%"),
        (None, 0.5, "stream", "how much memory of cuda:0 is free cannot be measured"),
    ],
)
def test_where_the_images_are_kept_and_why(free, share: float, residence: str, why: str, monkeypatch) -> None:
    monkeypatch.setattr(resident, "free_memory", lambda device: free)
    found = resident._choose.__wrapped__(part("turned"), Pretended(), share)  # 30 stored images of 75 bytes
    assert found[0] == residence and why in found[1]


def test_the_choice_is_told() -> None:
    chosen = DeviceImages(part())
    assert chosen.residence == "host" and "the device is the CPU" in chosen.why
    assert DeviceImages(part(), residence="stream").why == "as asked"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"residence": "devise"}, "unknown residence 'devise'; did you mean 'device'. allowed: device, host, stream"),
        ({"residence": "host", "device": "cuda"}, "residence 'host' is for the CPU, not for cuda; give 'device' or"),
        ({"share": 1.5}, "share=1.5 of the device's free memory; allowed: 0 to 1"),
    ],
)
def test_residences_that_cannot_be(given: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        DeviceImages(part(), **given)


def test_batches_of_nothing() -> None:
    images = DeviceImages(part())
    with pytest.raises(DataError, match="batch=0 episodes at a time; give at least 1"):
        next(images.episodes(sampler(part()), 0, 5, 0))
    with pytest.raises(DataError, match="batch=-1 images at a time; give at least 1"):
        next(images.batches(np.arange(5), -1))
