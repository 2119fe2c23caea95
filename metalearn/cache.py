"""What is costly and a pure function of its inputs is kept by a key of those inputs: encoders and features."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import gvae
from gvae.checkpoint import write_atomic


def key_of(**inputs: Any) -> str:
    """Hash named plain inputs to 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:32]


@functools.cache
def code_fingerprint() -> str:
    """Hash of gvae's source and of torch's version: other code may give other weights, so it gives another key."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(Path(gvae.__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def weights_fingerprint(module: nn.Module) -> str:
    """Hash of the class and of every parameter and buffer of a network, by name, shape and content."""
    digest = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}".encode())
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensor(path: Path) -> Tensor | None:
    """Return the tensor kept in ``path``; None when there is none or it is damaged (its checksum disagrees)."""
    try:
        kept = load_file(path)
        data, checksum = kept["data"], kept["sha256"]
    except (OSError, SafetensorError, KeyError):
        return None
    return data if torch.equal(_checksum(data), checksum) else None


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Keep a tensor with its checksum, atomically."""
    tensor = tensor.detach().cpu().contiguous()
    data = save({"data": tensor, "sha256": _checksum(tensor)})
    write_atomic(path, lambda file: file.write(data))


def _checksum(tensor: Tensor) -> Tensor:
    digest = hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)
