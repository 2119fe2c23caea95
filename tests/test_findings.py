"""What looking at every image finds, in files and in packed stores."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tasks.decode import Decoder
from tasks.findings import look_at_listing, look_at_store
from tasks.listing import Image, Listing, Source
from tasks.packing import packed


class Files(Source):
    path = Path("files.zip")

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    def read(self, key: str) -> bytes:
        return self.files[key]


def jpeg(seed: int, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


FILES = {
    "train/a/0.png": jpeg(0),
    "train/a/1.png": jpeg(1, size=(30, 20)),
    "train/a/2.png": jpeg(2, mode="L"),
    "val/b/3.png": jpeg(0),
    "val/b/4.png": jpeg(4),
    "test/c/5.png": jpeg(5),
    "test/c/6.png": jpeg(5),
}


def listing(files: dict[str, bytes]) -> Listing:
    source = Files(files)
    classes: dict[str, list[Image]] = {}
    for name in files:
        classes.setdefault(name.split("/")[1], []).append(Image(name, source, name))
    return Listing("files", source.path, classes, "stamp")


def test_what_is_in_the_files() -> None:
    found = look_at_listing(listing(FILES), Decoder(3, 16))
    assert found.counts == {"a": 3, "b": 2, "c": 2}
    assert found.sizes == {(20, 20): 6, (30, 20): 1}
    assert found.grey == ["train/a/2.png"]
    assert found.equal == [
        [("a", "train/a/0.png"), ("b", "val/b/3.png")],
        [("c", "test/c/5.png"), ("c", "test/c/6.png")],
    ]
    assert found.problems == []


def test_a_packed_store_tells_the_same_but_for_sizes(tmp_path: Path) -> None:
    decoder = Decoder(3, 16)
    found = look_at_store(packed("toy", listing(FILES), decoder, root=tmp_path))
    files = look_at_listing(listing(FILES), decoder)
    assert (found.counts, found.grey, found.equal) == (files.counts, files.grey, files.equal)
    assert not found.sizes


def test_every_broken_image_is_named_and_the_rest_is_looked_at() -> None:
    files = FILES | {"val/b/3.png": b"<html>", "test/c/5.png": jpeg(5)[:-40], "test/c/7.png": b""}
    found = look_at_listing(listing(files), Decoder(3, 16))
    assert sorted(problem.split(" is not")[0] for problem in found.problems) == [
        "files.zip: test/c/5.png",
        "files.zip: test/c/7.png",
        "files.zip: val/b/3.png",
    ]
    assert sum(found.sizes.values()) == 5
    assert not found.equal  # broken images are not equal to each other


def test_drawings_have_no_colour_to_lack() -> None:
    assert look_at_listing(listing(FILES), Decoder(1, 16)).grey == []


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_a_dictionary(seed: int) -> None:
    random = np.random.default_rng(seed)
    files = {f"x/k{i % 7}/{i:03d}.png": jpeg(int(random.integers(0, 40))) for i in range(90)}
    groups: dict[bytes, list[str]] = {}
    for name in sorted(files, key=lambda name: name.split("/")[1]):
        groups.setdefault(files[name], []).append(name)
    expected = sorted(group for group in groups.values() if len(group) > 1)
    found = look_at_listing(listing(files), Decoder(3, 20)).equal
    assert sorted([name for _, name in group] for group in found) == expected
