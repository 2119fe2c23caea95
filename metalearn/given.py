"""What the command line was given besides a config, made definite: the data root and the device."""

import os
from pathlib import Path

from metalearn.errors import UserError, unknown

DEVICES = ("auto", "cpu", "cuda")


def find_data_root(given: Path | None, create: bool = False) -> Path:
    """Absolute path of the folder of the data. Raises `UserError` if a given one is no folder, unless `create`."""
    root = (given if given is not None else Path("~/.cache/metalearn")).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise UserError(f"data root {root} is not a folder; give a folder by --data-root or METALEARN_DATA")
    if given is not None and not create and not root.exists():
        raise UserError(
            f"data root {root} does not exist; give an existing folder by --data-root or METALEARN_DATA, "
            f"or fetch data into it: metalearn data prepare NAME --data-root {given}"
        )
    os.makedirs(root, exist_ok=True)
    return root


def choose_device(asked: str) -> str:
    """``cpu`` or ``cuda`` for auto, cpu or cuda. Raises `UserError` for another name and for a missing GPU."""
    if asked not in DEVICES:
        raise UserError(unknown("device", asked, DEVICES))
    if asked == "cpu":
        return asked
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise UserError("--device cuda: no CUDA device is available here; give --device auto or --device cpu")
    return "cpu"
