"""Weights and training state on disk: atomic, and nothing in a file is executed when it is read."""

import io
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gvae.atomic import write_atomic
from gvae.errors import ModelError
from gvae.statistician import Statistician
from gvae.vae import VAE

SCHEMA = 1
NETWORKS: dict[str, type[VAE]] = {"vae": VAE, "statistician": Statistician}
ENCODER = "encoder.safetensors"
UNREADABLE = (  # what torch.load raises on bytes that are not its own
    RuntimeError, EOFError, pickle.UnpicklingError, LookupError, ValueError, TypeError, AttributeError, OSError,
    struct.error,
)  # fmt: skip


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state (tensors, numbers, strings, containers of these) atomically."""
    data = io.BytesIO()  # torch.save to a file that fails hides the file's error behind one of its own
    torch.save(dict(state), data)
    write_atomic(path, lambda file: file.write(data.getbuffer()))


def load_state(path: Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote, onto the CPU; raises ModelError when it is truncated or holds code."""
    wrong = f"{path} is not a readable training state (%s); it is truncated or was not written by this program: "
    wrong += "remove it to start again"
    data = io.BytesIO(path.read_bytes())  # an OSError of what follows is then about the bytes, not the disk
    try:
        state = torch.load(data, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ModelError(wrong % type(error).__name__) from error
    if not isinstance(state, dict):
        raise ModelError(wrong % f"a {type(state).__name__}")
    return state


def save_encoder(folder: Path, vae: VAE, info: Mapping[str, Any]) -> Path:
    """Write ``encoder.safetensors`` (weights, and ``info`` with the architecture as its metadata); return its path.

    ``encoder.json`` beside it is the same metadata for people; it is never read.
    """
    header = {
        "schema": SCHEMA,
        "image_shape": list(vae.image_shape),
        "trunk": vae.trunk_name,
        "latents": vae.latents,
        "slots": vae.slot_sizes,
        "likelihood": vae.likelihood,
        "network": vae.network,
        **info,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in vae.state_dict().items()}
    data = save(tensors, metadata={"gvae": json.dumps(header)})
    write_atomic(folder / ENCODER, lambda file: file.write(data))
    readable = json.dumps(header, indent=2).encode()
    write_atomic(folder / "encoder.json", lambda file: file.write(readable))
    return folder / ENCODER


def load_encoder(path: Path) -> tuple[VAE, dict[str, Any]]:
    """Read a VAE and its info from ``encoder.safetensors`` or the folder (or run) that holds it.

    Raises ModelError when there is none, it is truncated, or its weights are of another architecture.
    """
    file = _find_encoder(Path(path))
    info, tensors = _read(file, weights=True)
    try:
        schema = info["schema"]
        if schema == SCHEMA:
            shape, likelihood = tuple(info["image_shape"]), info.get("likelihood", "bernoulli")
            network = dict(info.get("network", {"kind": "vae"}))
            kind = network.pop("kind")
            if kind not in NETWORKS:
                raise ModelError(f"{file} has a network {kind!r}; this version knows: {', '.join(sorted(NETWORKS))}")
            vae = NETWORKS[kind](
                shape, trunk=info["trunk"], latents=info["latents"], slots=info["slots"], likelihood=likelihood,
                **network,
            )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, error) from error
    if schema != SCHEMA:
        raise ModelError(f"{file} has schema {schema}, this version reads schema {SCHEMA}; train it again")
    load_weights(vae, tensors, str(file))
    return vae.eval(), info


def read_info(path: Path) -> dict[str, Any]:
    """Read an encoder's info as ``load_encoder`` does, but none of its weights. Raises ModelError as it does."""
    return _read(_find_encoder(Path(path)), weights=False)[0]


def _read(file: Path, *, weights: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Info, and tensors where ``weights``."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            names = opened.keys() if weights else ()
            tensors = {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is not a readable safetensors file ({error}); it is truncated or another kind"
        ) from error
    if "gvae" not in metadata:
        raise ModelError(f"{file} holds weights but not an encoder written by this program; use a run's {ENCODER}")
    try:
        return dict(json.loads(metadata["gvae"])), tensors
    except (ValueError, TypeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ModelError:
    return ModelError(f"the metadata of {file} is damaged ({error!r}); copy it again or train it again")


def load_weights(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Fill ``module`` from named tensors; raises ModelError naming the first ones that do not fit."""
    expected = module.state_dict()
    missing = sorted(set(expected) - set(tensors))
    surplus = sorted(set(tensors) - set(expected))
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, the network has {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    if missing or surplus or shapes:
        found = [f"missing {name}" for name in missing] + [f"unknown {name}" for name in surplus] + shapes
        raise ModelError(
            f"{source} is a checkpoint of another architecture: {'; '.join(found[:3])}"
            f"{f' and {len(found) - 3} more' if len(found) > 3 else ''}; build the network it was trained with"
        )
    module.load_state_dict(dict(tensors))


def _find_encoder(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / ENCODER, path / "checkpoints" / ENCODER]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ModelError(
        f"no encoder at {path}: give an {ENCODER}, or the folder, or the run of `pretrain` or `train`, that holds one"
    )
