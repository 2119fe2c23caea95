"""The state that a training resumes from: whose it is, what is in it, and putting it back."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gvae.checkpoint import load_state, load_weights
from gvae.errors import ModelError
from gvae.objective import VAEObjective
from gvae.share import Share


def identify(
    objective: VAEObjective,
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    training: Mapping[str, Any],
    seed: int,
    factors: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Return what a training is a function of, as plain data: a state goes on only where all of it is equal."""
    digest = hashlib.sha256()
    for tensor in (images, labels, *(factors[name] for name in sorted(factors))):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    budget = {name: value for name, value in training.items() if name != "checkpoint_seconds"}
    made_of = {"seed": seed, "images": len(images), "data": digest.hexdigest()[:16], **budget, **objective.settings()}
    return json.loads(json.dumps(made_of, default=str))  # tuples as lists: what a state file gives back


def snapshot(
    objective: VAEObjective, optimisers: Mapping[str, torch.optim.Optimizer], identity: Mapping[str, Any], step: int
) -> dict[str, Any]:
    """Return everything that the next step depends on."""
    return {
        "identity": dict(identity),
        "step": step,
        "objective": objective.state_dict(),
        "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
    }


def restore(
    path: Path | None,
    objective: VAEObjective,
    optimisers: Mapping[str, torch.optim.Optimizer],
    identity: Mapping[str, Any],
    share: Share,
) -> int:
    """Load a snapshot where one exists and return how many steps are done, else 0; ModelError if of another run.

    Process 0 reads it and tells the others. ModelError too where they have not all been given the same training.
    """
    wanted = share.tell(identity)
    if wanted != identity:
        raise ModelError(
            f"process {share.rank} was given another training than process 0: {_differences(wanted, identity)}; "
            "give every process the same config, data and version"
        )
    saved = share.tell(load_state(path) if path and path.exists() else None)
    if saved is None:
        return 0
    if saved.get("identity") != identity:
        said = _differences(saved.get("identity"), identity)
        raise ModelError(f"{path} belongs to another training: {said}; choose another output folder or remove it")
    load_weights(objective, saved["objective"], str(path))
    for name, optimiser in optimisers.items():
        optimiser.load_state_dict(saved["optimisers"][name])
    return int(saved["step"])


def _differences(other: Any, identity: Mapping[str, Any]) -> str:
    theirs = other if isinstance(other, Mapping) else {}
    differ = [name for name in {**identity, **theirs} if identity.get(name) != theirs.get(name)]
    return "; ".join(f"{name} is {theirs.get(name)!r} there and {identity.get(name)!r} here" for name in differ[:3])
