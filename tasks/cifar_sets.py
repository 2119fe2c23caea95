"""CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018): few-shot splits of CIFAR-100, 32x32."""

import re

from tasks.formats.base import PARTS
from tasks.formats.folders import bertinetto
from tasks.formats.pickles import labelled
from tasks.image_sets import ImageSet

SIDE = 32  # pixels of an image

CIFAR_FS = ImageSet(
    name="cifar-fs",
    title="CIFAR-FS",
    split="bertinetto",
    classes={"train": 64, "val": 16, "test": 20},
    a_class=600,
    formats=(
        labelled({part: f"CIFAR_FS_{part}.pickle" for part in PARTS}, "the pickles of CIFAR-FS"),
        bertinetto(),
    ),
    archives=re.compile(r"cifar.?(fs|100)", re.IGNORECASE),
    obtain=(
        "put CIFAR_FS_{train,val,test}.pickle, or the folder or zip that learn2learn fetches (cifar100.zip of record "
        "7978538 on Zenodo), anywhere in the data root"
    ),
)

FC100 = ImageSet(
    name="fc100",
    title="FC100",
    split="oreshkin",
    classes={"train": 60, "val": 20, "test": 20},
    a_class=600,
    formats=(labelled({part: f"FC100_{part}.pickle" for part in PARTS}, "the pickles of FC100"),),
    archives=re.compile(r"fc.?100", re.IGNORECASE),
    obtain=(
        "put FC100_{train,val,test}.pickle, or the zip that learn2learn fetches (fc100.zip of its record 7978538 on "
        "Zenodo), anywhere in the data root"
    ),
)
