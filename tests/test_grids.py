"""Grids of known factors: draws, classes, parts, and that no way round the test of shared classes opens."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from metalearn.errors import UserError
from metalearn.prepare import refuse_leak
from tasks.episodes import EpisodeSampler
from tasks.errors import DataError
from tasks.grids import Draw, Factor, Grid
from tasks.shapes3d import GRID as SHAPES3D
from tasks.sprites import GRID as SPRITES
from tasks.sprites import sprites

TINY = Grid(
    {"kind": Factor("categorical", (0.0, 1.0)), "angle": Factor("cyclic", tuple(map(float, range(12))))},
    classes={"kind": 1, "angle": 5},
)


def draw(images: int = 24, seed: int = 0, split: str = "classes", split_seed: int = 0) -> Draw:
    return Draw(images, seed, split, split_seed)


def trained_on(part) -> torch.nn.Module:
    """An extractor that says what it was trained on, as one read from a checkpoint does."""
    extractor = torch.nn.Identity()
    extractor.training_classes = part.base_classes  # type: ignore[assignment]
    return extractor


def test_classes_group_neighbouring_values() -> None:
    assert TINY.class_names == ("kind0-angle0", "kind0-angle1", "kind0-angle2", "kind1-angle0", "kind1-angle1",
                                "kind1-angle2")  # fmt: skip
    assert {name: rows.tolist() for name, rows in TINY.drawn(draw()).items()} == {
        "kind0-angle0": [0, 1, 2, 3, 4], "kind0-angle1": [5, 6, 7, 8, 9], "kind0-angle2": [10, 11],
        "kind1-angle0": [12, 13, 14, 15, 16], "kind1-angle1": [17, 18, 19, 20, 21], "kind1-angle2": [22, 23],
    }  # fmt: skip
    for grid in (TINY, SPRITES, SHAPES3D):
        assert list(grid.class_names) == sorted(grid.class_names)
    assert len(SPRITES.class_names) == 3 * 6 * 4 * 4 and len(SHAPES3D.class_names) == 10 * 8 * 4
    assert SHAPES3D.count == 480_000 and SHAPES3D.sizes == (10, 10, 10, 8, 4, 15)


def test_indices_and_values_of_rows() -> None:
    rows = np.array([0, 13, 23])
    assert {name: index.tolist() for name, index in TINY.indices(rows).items()} == {
        "kind": [0, 1, 1], "angle": [0, 1, 11]
    }  # fmt: skip
    values = TINY.values(rows)
    assert values["angle"].dtype == np.float32 and values["angle"].tolist() == [0, 1, 11]


@pytest.mark.parametrize("split", ["classes", "images"])
def test_a_draw_is_without_replacement_seeded_and_nested(split: str) -> None:
    def all_rows(**settings: int) -> list[int]:
        return np.concatenate(list(SPRITES.drawn(draw(split=split, **settings)).values())).tolist()

    few, many = all_rows(images=400), all_rows(images=4000)
    assert len(set(few)) == 400 and len(set(many)) == 4000 and set(few) < set(many)
    assert all_rows(images=400) == few
    assert len(set(all_rows(images=400, seed=1)) & set(few)) < 10
    assert set(all_rows(images=401)) > set(few)


def test_a_split_that_there_is_not() -> None:
    with pytest.raises(DataError, match="unknown split 'class'; did you mean 'classes'. allowed: classes, images"):
        TINY.drawn(draw(split="class"))


def test_classes_are_of_equal_size_and_keep_their_part() -> None:
    few, more = sprites(images=288), sprites(images=1000)
    for part, count in {"train": 174, "val": 57, "test": 57}.items():
        assert len(getattr(few, part).class_names) == count
        assert getattr(few, part).class_names == getattr(more, part).class_names
        assert set(np.bincount(getattr(few, part).labels)) == {1}
        assert set(np.bincount(getattr(more, part).labels)) == {3, 4}
    assert sprites(images=288, split_seed=1).test.class_names != few.test.class_names
    # where the grid has fewer of a class, there are fewer of it
    assert [len(rows) for rows in TINY.drawn(draw(images=20)).values()].count(2) == 2


def test_every_image_of_a_class_is_equally_likely() -> None:
    drawn = [np.concatenate(list(TINY.drawn(draw(images=6, seed=seed)).values())) for seed in range(3000)]
    counts = np.bincount(np.concatenate(drawn), minlength=TINY.count)
    assert counts.sum() == 3000 * 6
    for rows in TINY.drawn(draw()).values():
        assert counts[rows].sum() == 3000 and chisquare(counts[rows]).pvalue > 1e-3


def test_every_value_of_every_factor_is_in_every_part() -> None:
    """Only combinations are held out."""
    for seed in range(3):
        dataset = sprites(images=20_000, split_seed=seed)
        for part in (dataset.train, dataset.val, dataset.test):
            assert [len(np.unique(values)) for values in part.factors.values()] == list(SPRITES.sizes)


def test_no_class_and_no_image_is_in_two_parts() -> None:
    for split in ("classes", "images"):
        dataset = sprites(images=3000, split=split)
        parts = (dataset.train, dataset.val, dataset.test)
        assert sum(len(part.class_names) for part in parts) == len(set().union(*(p.class_names for p in parts)))
        assert sum(len(part.index) for part in parts) == len(set(np.concatenate([p.index for p in parts]))) == 3000


def test_equal_images_are_in_one_part_of_the_split_by_classes() -> None:
    """Rotation 39 shows rotation 0 again; as rotation is no part of a class, both are of the same class."""
    dataset = sprites()
    seen = [{image.tobytes() for image in part.images()} for part in (dataset.train, dataset.val, dataset.test)]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert sum(map(len, seen)) < 40_320


def test_the_split_by_images_shares_combinations() -> None:
    dataset = sprites(images=5000, split="images")
    assert dataset.label == "sprites/images"
    assert [len(part.index) for part in (dataset.train, dataset.val, dataset.test)] == [3000, 1000, 1000]
    assert dataset.val.class_names == ("images-val",) and dataset.test.class_names == ("images-test",)
    assert set(dataset.train.class_names) == set(SPRITES.class_names)
    other = sprites(images=5000, split="images", split_seed=1)
    assert other.test.fingerprint != dataset.test.fingerprint
    factors = np.stack([dataset.test.factors[name] for name in ("shape", "scale")])
    assert np.unique(factors, axis=1).shape[1] == 18  # all of them are in test too


def test_what_saw_every_combination_is_refused_on_every_class() -> None:
    saw_all = trained_on(sprites(images=5000, split="images").train)
    by_class = sprites(images=5000)
    for tested in (by_class.test, by_class.val):
        with pytest.raises(UserError, match=f"was trained on {len(tested.class_names)} of the classes"):
            refuse_leak("encoder", saw_all, tested)
    refuse_leak("encoder", trained_on(by_class.train), by_class.test)  # as of any other dataset
    with pytest.raises(UserError, match="of the classes it would be tested on"):
        refuse_leak("encoder", trained_on(by_class.train), sprites(images=5000, split_seed=1).test)


def test_no_episode_can_be_drawn_of_held_out_images() -> None:
    held_out = sprites(images=1000, split="images").test
    with pytest.raises(DataError, match="ways=2, but the data has only 1 classes"):
        EpisodeSampler(held_out.labels, ways=2, shots=1, queries=1, seed=0)
    by_class = sprites(images=10_000).test
    episodes = EpisodeSampler(by_class.labels, ways=20, shots=5, queries=5, seed=0)[0:3]
    assert episodes.support.shape == (3, 20, 5)
