"""Groups of classes, such as the characters of an alphabet: by name, together in a batch, in an episode."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from gvae.errors import ModelError
from gvae.objectives import guided
from gvae.pretrain import Training, pretrain
from gvae.sets import Sets
from tasks.class_names import class_groups
from tasks.datasets import omniglot, omniglot_runs_generated
from tasks.errors import DataError
from tasks.splits import PARTS, Partition
from tasks.store import Store


def test_the_group_is_the_alphabet_and_how_it_is_turned():
    assert class_groups(["Greek/character01", "Latin/character01", "Latin/character02"]).tolist() == [0, 1, 1]
    turned = [f"{alphabet}/character01/rot{turn}" for alphabet in ("Greek", "Latin") for turn in ("000", "090")]
    assert class_groups(turned).tolist() == [0, 1, 2, 3]
    assert class_groups(["Latin/character01", "dog"]) is None and class_groups([]) is None
    assert class_groups(["pets/cats/tabby", "pets/dogs/poodle", "pets/dogs/pug"]).tolist() == [0, 1, 1]
    assert class_groups(["a/b/rot090", "dog/rot090"]) is None


def labels_and_groups():
    """Groups of 5, 3 and 8 classes of 6 images: sets of 2 by rows of 4 leave 3, 1 and 0 of their 15, 9 and 24 sets."""
    return torch.arange(16).repeat_interleave(6), np.repeat([1, 0, 2], [5, 3, 8])


def formed(seed, alike=4):
    labels, groups = labels_and_groups()
    draw = torch.Generator().manual_seed(seed)
    order = Sets(labels, 2, 16, alike=alike, groups=groups).form(torch.randperm(len(labels), generator=draw), draw)
    return order, labels[order].view(-1, 2), torch.from_numpy(groups)[labels[order]].view(-1, 2 * alike)


def test_rows_are_of_one_group_as_far_as_there_are_and_every_image_is_shown_once():
    for seed in range(20):
        order, sets, rows = formed(seed)
        assert sorted(order.tolist()) == list(range(96)) and (sets[:, 0] == sets[:, 1]).all()
        pure = Counter(row[0].item() for row in rows if len(row.unique()) == 1)
        assert all(pure[group] >= whole for group, whole in {1: 3, 0: 2, 2: 6}.items())
        assert sum(pure.values()) <= len(rows)


def test_rows_come_at_random_and_so_do_classes_in_them():
    first = Counter(formed(seed)[2][0, 0].item() for seed in range(200))
    assert set(first) == {0, 1, 2} and first[2] > first[0]
    companions = {frozenset(formed(seed)[1][:4, 0].tolist()) for seed in range(50)}
    assert len(companions) > 30


def test_what_cannot_be_formed_is_told():
    labels, groups = labels_and_groups()
    with pytest.raises(ModelError) as caught:
        Sets(labels, 2, 16, alike=3, groups=groups)
    words = "group_size: given 3 sets of a group together, of 8 in a batch; allowed: what divides them, or another "
    assert str(caught.value) == words + "training.batch_size"
    with pytest.raises(ModelError, match="^group_size: the training classes have no groups; allowed: where they are"):
        Sets(labels, 2, 16, alike=4)


def test_the_objective_asks_for_groups_and_a_state_goes_on_only_with_the_same(tmp_path):
    same_class = {"kind": "same_class", "set_size": 2, "group_size": 4}
    labels, groups = labels_and_groups()
    images = torch.randint(256, (len(labels), 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def built():
        return guided((1, 28, 28), 16, len(labels), 0, "conv", 4, parts=[same_class], elbo=0.0)

    def trained(epochs, groups):
        training, state = Training(epochs=epochs, batch_size=16), tmp_path / "state.pt"
        return pretrain(built(), images, labels, training=training, seed=0, state=state, groups=groups)

    assert built().group_size == 4
    trained(1, groups)
    with pytest.raises(ModelError, match="data"):
        trained(1, groups[::-1].copy())
    with pytest.raises(ModelError, match="^group_size: the training classes have no groups"):
        trained(1, None)


def test_a_part_says_so_where_its_classes_have_no_groups():
    store = Store("two", np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 2, 4]), ("cat", "dog"))
    part = replace(Partition.of_classes(store, "val", store.class_names), within_groups=True)
    with pytest.raises(DataError, match="^part 'val' has classes without a group, whose episodes are to be within"):
        part.episodes(ways=2, shots=1, queries=1, seed=0)


@pytest.mark.parametrize(("split", "ways"), [("lake", 20), ("vinyals", 5)])
def test_real_omniglot_within_alphabets(omniglot_root, split, ways):
    """All parts, and the name of the split, which rows and pairs go by."""
    plain, within = (omniglot(omniglot_root, split=split, within_alphabet=choice) for choice in (False, True))
    assert (plain.label, within.label) == (f"omniglot/{split}", f"omniglot/{split}-within")
    for name in PARTS:
        part, same = getattr(within, name), getattr(plain, name)
        assert part.drawn_from != same.drawn_from and part.fingerprint == same.fingerprint
        for classes in part.episodes(ways=ways, shots=1, queries=5, seed=0)[0:200].classes:
            names = [part.class_names[label].split("/") for label in classes]
            assert len({(alphabet, *turn) for alphabet, _, *turn in names}) == 1 and len(names) == ways


def test_real_one_shot_runs_validate_on_what_they_test(omniglot_root):
    dataset = omniglot_runs_generated(omniglot_root)
    tasks = dataset.val.episodes(ways=20, shots=1, queries=1, seed=0)[0:100]
    alphabets = [{dataset.val.class_names[label].split("/")[0] for label in task} for task in tasks.classes]
    assert all(len(one) == 1 for one in alphabets) and len(set.union(*alphabets)) == 3  # of 6, those with 20 characters
    assert not omniglot_runs_generated(omniglot_root, within_alphabet=False).val.within_groups
