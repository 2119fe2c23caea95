"""3D Shapes (Burgess and Kim 2018): 480,000 pictures of a solid in a room, read from the published HDF5 file."""

import re
from pathlib import Path

import numpy as np

from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.grid_files import GridFile, Opened, compare, expect
from tasks.grids import Factor, Grid
from tasks.hdf5 import Hdf5

_SIDE = 64
_HUES = Factor("cyclic", tuple((np.arange(10) / 10).tolist()))  # 1 would be 0 again
GRID = Grid(
    {
        "floor_hue": _HUES,
        "wall_hue": _HUES,
        "object_hue": _HUES,
        "scale": Factor("ordinal", tuple(np.linspace(0.75, 1.25, 8).tolist())),
        "shape": Factor("categorical", (0.0, 1.0, 2.0, 3.0)),
        "orientation": Factor("ordinal", tuple(np.linspace(-30, 30, 15).tolist())),  # degrees
    },
    classes={"object_hue": 1, "scale": 1, "shape": 1},
)


def _open(path: Path, grid: Grid, last: int) -> Opened:
    """Open the file and compare its labels."""
    file = Hdf5(path)
    there = file.datasets()
    for name, kind, wanted in (
        ("images", np.uint8, (grid.count, _SIDE, _SIDE, 3)),
        ("labels", np.floating, (grid.count, len(grid.factors))),
    ):
        if name not in there:
            raise DataError(f"{path} has no dataset {name!r}, only {', '.join(there) or 'none'}; fetch the file again")
        shape, dtype = there[name]
        expect(f"{path}: {name}", dtype, shape, kind, wanted)
    compare(f"{path}: labels", file.array("labels"), grid)
    stamp = file.stamp()
    file.close()
    return Opened(file, "images", stamp)


SHAPES3D = GridFile(
    name="shapes3d",
    title="3D Shapes",
    grid=GRID,
    files=re.compile(r"3dshapes.*\.h(df)?5"),
    form="HDF5",
    decoder=Decoder(3, _SIDE),
    open_file=_open,
    obtain="put 3dshapes.h5 of github.com/google-deepmind/3d-shapes (268 MB) anywhere in the data root",
)
