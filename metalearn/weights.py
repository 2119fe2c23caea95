"""Weights of any network from a local file: safetensors, or a torch state dict; nothing in a file is executed."""

import hashlib
import io
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from gvae.checkpoint import UNREADABLE, load_weights
from gvae.errors import ModelError
from metalearn.errors import UserError
from metalearn.settings import Settings

COUNTER = "num_batches_tracked"  # of batch norm; files of old versions lack it, and no feature depends on it


class WeightsFile(Settings):
    """A file of weights, and which of them: a path alone stands for ``{path: PATH}``.

    ``inside``: the entry that holds them, in a file with more than weights. ``prefix``: only names that begin with it
    are taken, and it is cut off. ``leave_out``: beginnings of names (after that) that are not for the network.
    """

    path: str
    inside: str | None = None
    prefix: str = ""
    leave_out: list[str] = []


def fill(
    network: nn.Module,
    given: str | WeightsFile,
    *,
    how: str,
    heads: Collection[str] = (),
    rename: Callable[[str], str] = str,
) -> str:
    """Fill a network from a file and return words on it for a report.

    ``heads``: beginnings of names that were cut off the network. ``rename``: from the file's names to the network's.
    ``how``: how one comes by such a file. Raises UserError where there is none, for one that cannot be read without
    executing code, and for weights of another network, naming the first that are missing, unknown or of another shape.
    """
    file = WeightsFile(path=given) if isinstance(given, str) else given
    path = Path(file.path)
    if not path.is_file():
        raise UserError(f"no file of weights at {path}; nothing is downloaded: {how}")
    data = path.read_bytes()
    found = {
        rename(name.removeprefix(file.prefix)): value
        for name, value in _tensors(data, file).items()
        if name.startswith(file.prefix)
    }
    wanted = network.state_dict()
    outside = tuple([*heads, *file.leave_out])
    kept = {name: value for name, value in found.items() if name in wanted or not name.startswith(outside)}
    kept |= {name: value for name, value in wanted.items() if name.endswith(COUNTER) and name not in kept}
    try:
        load_weights(network, kept, str(path))
    except ModelError as error:
        raise UserError(f"{error}{_hint(found, wanted, file)}") from None
    shown = {name: value for name, value in file if name != "path" and value}
    return f"weights {path.name} (sha256 {hashlib.sha256(data).hexdigest()[:12]}{_listed(shown)})"


def _listed(shown: Mapping[str, Any]) -> str:
    return "".join(f", {name} {value}" for name, value in shown.items())


def _tensors(data: bytes, file: WeightsFile) -> dict[str, Tensor]:
    """Named tensors of a file. UserError for what is no flat mapping of them."""
    stored = _read(data, file.path)
    if file.inside is not None:
        if not isinstance(stored, Mapping) or file.inside not in stored:
            raise UserError(f"{file.path} has no entry {file.inside!r}; it holds {_contents(stored)}")
        stored = stored[file.inside]
    if isinstance(stored, Mapping) and stored and all(isinstance(value, Tensor) for value in stored.values()):
        return {str(name): value for name, value in stored.items()}
    raise UserError(
        f"{file.path}{f', {file.inside},' if file.inside else ''} holds {_contents(stored)}; allowed: names with "
        "tensors; say which entry has them by `weights: {path: PATH, inside: ENTRY}`"
    )


def _read(data: bytes, path: str) -> Any:
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError):  # another kind of file
        pass
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds a {named[1]}, and such an object could run code" if named else type(error).__name__
        raise UserError(
            f"{path} cannot be read as weights ({reason}); allowed: safetensors, or what "
            "torch.save(network.state_dict(), PATH) writes; where you trust it, load it yourself and save that"
        ) from error


def _contents(stored: Any) -> str:
    if not isinstance(stored, Mapping):
        return f"a {type(stored).__name__}"
    names = [f"{name} (a {type(value).__name__})" for name, value in stored.items() if not isinstance(value, Tensor)]
    if not names:
        return f"{len(stored)} tensors"
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _hint(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: WeightsFile) -> str:
    """Which prefix would make the names fit, if one would."""
    names = [name for name in wanted if not name.endswith(COUNTER)]
    for name in found:
        before = name.removesuffix(names[0]) if names else name
        if before != name and all(f"{before}{one}" in found for one in names):
            return f"; its names fit with prefix: {file.prefix + before!r}"
    if not found and file.prefix:
        return f"; no name in it begins with {file.prefix!r}"
    return ""
