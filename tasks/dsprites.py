"""dSprites (Matthey, Higgins, Hassabis and Lerchner 2017): 737,280 white shapes, read from the published .npz."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tasks import sprites
from tasks.decode import Decoder
from tasks.errors import DataError
from tasks.grid_files import GridFile, Opened, compare, expect
from tasks.grids import Grid
from tasks.npz import Npz


class _Binary(Npz):
    """Images of 0 and 1, as 0 and 255."""

    def read(self, key: tuple[str, int]) -> UInt8[np.ndarray, "h w *c"]:
        """One image (h, w), 0 or 255. Raises DataError as Npz does, and for another value than 0 and 1."""
        image = super().read(key)
        if image.max() > 1:
            raise DataError(
                f"{self.path}: row {key[1]} of {key[0]} has a pixel of {image.max()}, expected 0 and 1; fetch the file "
                "again"
            )
        return image * np.uint8(255)


def _open(path: Path, grid: Grid, last: int) -> Opened:
    """Open the .npz and compare what it says of its factors; their first column is the colour, which is always 1."""
    file = _Binary(path, last)
    for name, kind, shape in (
        ("imgs", np.uint8, (grid.count, sprites.SIDE, sprites.SIDE)),
        ("latents_values", np.floating, (grid.count, 1 + len(grid.factors))),
    ):
        header = file.header(name)
        expect(f"{path}: {name}", header.dtype, header.shape, kind, shape)
    compare(f"{path}: latents_values", file.array("latents_values")[:, 1:], grid)
    stamp = file.stamp()
    file.close()
    return Opened(file, "imgs", stamp)


DSPRITES = GridFile(
    name="dsprites",
    title="dSprites",
    grid=sprites.GRID,
    files=re.compile(r"dsprites.*\.npz"),
    form="numpy .npz",
    decoder=Decoder(1, sprites.SIDE),
    open_file=_open,
    obtain=(
        "put dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz of github.com/google-deepmind/dsprites-dataset (26 MB) "
        "anywhere in the data root; sprites has the same factors and needs no file"
    ),
)
