"""What is costly and a pure function of its inputs is kept by a key of those inputs: encoders and features."""

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import gvae
from gvae.atomic import write_atomic
from metalearn.kinds import load_attribute


def key_of(**inputs: Any) -> str:
    """Hash named plain inputs to 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:32]


def code_fingerprint() -> str:
    """Hash of gvae's source and of torch's version: other code may give other weights, so it gives another key."""
    return source_fingerprint(gvae)


@functools.cache
def source_fingerprint(*packages: ModuleType) -> str:
    """Hash of the source of packages and of torch's version."""
    digest = hashlib.sha256(torch.__version__.encode())
    for package in packages:
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def outside_code(settings: Any) -> dict[str, str]:
    """Hash of the source of every ``package.module:Name`` that is a kind in plain settings, at any depth, by its name.

    Source is the module's file and, of a class, those of the classes that it inherits from.
    """
    return {path: hashlib.sha256(_code(path)).hexdigest() for path in sorted(set(_outside_kinds(settings)))}


def _outside_kinds(settings: Any) -> Iterator[str]:
    if isinstance(settings, Mapping):
        if isinstance(kind := settings.get("kind"), str) and ":" in kind:
            yield kind
        settings = list(settings.values())
    if isinstance(settings, list):
        for item in settings:
            yield from _outside_kinds(item)


def _code(path: str) -> bytes:
    found, file = load_attribute(path), getattr(sys.modules[path.partition(":")[0]], "__file__", None)
    return (_read(file) if file else b"") + (_source(found) if isinstance(found, type) else b"")


def weights_fingerprint(module: nn.Module) -> str:
    """Hash of all that a network computes with: parameters and buffers by name, shape and content; and its code.

    Code is torch's version and, of every layer, the class, its source outside torch, and its plain settings: two
    extractors may differ in nothing but an option or an edited line.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for name, layer in module.named_modules():
        settings = {key: value for key, value in sorted(vars(layer).items()) if _is_setting(key, value)}
        digest.update(f"{name} {type(layer).__module__}.{type(layer).__qualname__} {settings}".encode())
        digest.update(_source(type(layer)))
    _digest_tensors(digest, dict(module.named_parameters()) | dict(module.named_buffers()))
    return digest.hexdigest()


def tensors_fingerprint(module: nn.Module) -> str:
    """Hash of what a checkpoint keeps of a network, by names and contents: the same once it is saved and read."""
    digest = hashlib.sha256()
    _digest_tensors(digest, module.state_dict())
    return digest.hexdigest()


def _digest_tensors(digest: "hashlib._Hash", tensors: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())


def _is_setting(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return all(_is_setting(name, item) for item in value)
    hidden = name.startswith("_") or name == "training"
    return not hidden and (value is None or isinstance(value, bool | int | float | str))


@functools.cache
def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _source(kind: type) -> bytes:
    """Source file of a class and of those it inherits from outside torch; nothing where it is not in a file."""
    found = b""
    for part in kind.__mro__[:-1]:
        if part.__module__.partition(".")[0] in ("torch", "torchvision"):
            continue
        try:
            found += _read(inspect.getfile(part))
        except (TypeError, OSError):
            found += repr(part).encode()
    return found


def read_tensor(path: Path) -> Tensor | None:
    """Return the tensor kept in ``path``; None when there is none or it is damaged (its checksum disagrees)."""
    try:
        kept = load_file(path)
        data, checksum = kept["data"], kept["sha256"]
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError):
        return None
    return data if torch.equal(_checksum(data), checksum) else None


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Keep a tensor with its checksum, atomically."""
    tensor = tensor.detach().cpu().contiguous()
    data = save({"data": tensor, "sha256": _checksum(tensor)})
    write_atomic(path, lambda file: file.write(data))


def _checksum(tensor: Tensor) -> Tensor:
    digest = hashlib.sha256(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
