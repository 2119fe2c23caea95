"""Where the images of each dataset come from: what `metalearn data` looks at before anything is packed."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tasks import made_runs, omniglot, oneshot
from tasks.cifar_sets import CIFAR_FS, FC100
from tasks.class_lists import vinyals_folder
from tasks.decode import Decoder
from tasks.dsprites import DSPRITES
from tasks.grid_files import GridFile
from tasks.image_sets import ImageSet
from tasks.listing import Listing
from tasks.mini_imagenet import MINI_IMAGENET
from tasks.own_images import open_csv, open_folder
from tasks.progress import Progress
from tasks.shapes3d import SHAPES3D


class Origin(NamedTuple):
    """Where the images of a dataset come from.

    ``find(root)``: the files and folders that hold them, each with what it is; None where that is said by the option
    ``path``. ``open(root, report=, **options)``, with the options of the dataset: its listing and decoder, nothing
    packed. ``obtain``: how to get it, in words.
    """

    find: Callable[[Path], list[tuple[Path, str]]] | None
    open: Callable[..., tuple[Listing, Decoder]]
    obtain: str


def _open_omniglot(root: Path, *, image_size: int, report: Progress, **_: object) -> tuple[Listing, Decoder]:
    return omniglot.listing(root, report=report), omniglot.drawing_decoder(image_size)


def _open_runs(root: Path, *, image_size: int, report: Progress, **_: object) -> tuple[Listing, Decoder]:
    return oneshot.listing(root, report=report), omniglot.drawing_decoder(image_size)


def _find_omniglot(root: Path) -> list[tuple[Path, str]]:
    found, lists = omniglot.find(root), vinyals_folder(root)
    return [*found, (lists, "class lists of the split vinyals")] if found and lists else found


def _of(images: ImageSet | GridFile) -> Origin:
    return Origin(images.find, images.open, images.obtain)


ORIGINS = {
    "omniglot": Origin(_find_omniglot, _open_omniglot, omniglot.OBTAIN),
    made_runs.NAME: Origin(omniglot.find, _open_omniglot, omniglot.OBTAIN),
    "omniglot-runs": Origin(oneshot.find, _open_runs, oneshot.OBTAIN),
    "mini-imagenet": _of(MINI_IMAGENET),
    "cifar-fs": _of(CIFAR_FS),
    "fc100": _of(FC100),
    "dsprites": _of(DSPRITES),
    "shapes3d": _of(SHAPES3D),
    "folder": Origin(None, open_folder, "say where by --set path=FOLDER (or archive)"),
    "csv": Origin(None, open_csv, "say where by --set path=FOLDER (or archive)"),
}
"""Origin of each dataset that is not embedded in the code."""
