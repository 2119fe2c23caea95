"""mini-ImageNet (Vinyals et al. 2016, split of Ravi and Larochelle 2017), in every form that is about."""

import re

from tasks.formats.folders import WNID, by_folders
from tasks.formats.hdf5_parts import HDF5_PARTS
from tasks.formats.lists import csv_parts
from tasks.formats.parquet import PARQUET
from tasks.formats.pickles import CACHE, labelled
from tasks.image_sets import ImageSet

SIDE = 84  # pixels of an image

# Classes of the split, by their WordNet ids; those of train are the other 64 of the 100.
_VAL = """
    n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370 n03417042 n03535780
    n03584254 n03770439 n03773504 n03980874 n09256479
"""
_TEST = """
    n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484 n02871525 n03127925
    n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357 n04522168 n07613480
"""
_PHASES = {
    "train": "miniImageNet_category_split_train_phase_train.pickle",
    "val": "miniImageNet_category_split_val.pickle",
    "test": "miniImageNet_category_split_test.pickle",
}
_OTHERS = [f"miniImageNet_category_split_train_phase_{part}.pickle" for part in ("val", "test")]

MINI_IMAGENET = ImageSet(
    name="mini-imagenet",
    title="mini-ImageNet",
    split="ravi",
    classes={"train": 64, "val": 16, "test": 20},
    a_class=600,
    formats=(
        CACHE,
        labelled(_PHASES, "the pickles of mini-ImageNet", leave=_OTHERS),
        HDF5_PARTS,
        csv_parts(),
        PARQUET,
        by_folders(WNID),
    ),
    archives=re.compile(r"mini.?image.?net", re.IGNORECASE),
    obtain=(
        "its images are ImageNet's, so it is not fetched for you. Put mini-imagenet-cache-{train,val,test}.pkl (links "
        "in learn2learn's vision/datasets/mini_imagenet.py), or a folder or archive with train.csv, val.csv, test.csv "
        "and images/, or one with train/, val/ and test/ of a folder a class, anywhere in the data root"
    ),
    known={"val": frozenset(_VAL.split()), "test": frozenset(_TEST.split())},
)
