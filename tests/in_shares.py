"""What tests/test_processes.py starts under torchrun: trains in shares, then alone, and keeps what both told."""

import json
import sys
from pathlib import Path

from jaxtyping import install_import_hook

with install_import_hook(["gvae"], "beartype.beartype"):
    import gvae.pretrain as loop
    from gvae.augment import Augment
    from gvae.errors import ModelError
    from gvae.objectives import OBJECTIVES
    from gvae.recorder import Recorder
    from gvae.share import ALONE, Processes, join
    from gvae.state import restore

import torch
import torch.distributed as dist
from torch import nn

IMAGES, CLASSES, LATENTS = 50, 5, 10
TRAINING = loop.Training(epochs=1, batch_size=8, learning_rate=2e-3, checkpoint_seconds=0.0)  # 6 steps
WARP = {"rotation": 30.0, "translation": 0.1, "scale": [0.8, 1.2], "shear": 15.0}
AUGMENT = Augment(rotation=20.0, translation=0.1, scale=(0.9, 1.1), flip=0.5, brightness=0.2)
SUPERVISED = {"class_latents": 4, "adversary_hidden": 16}

CASES = {  # name: (objective, its options, trunk, side of the images, augmented)
    "vae": ("vae", {}, "release28", 28, False),
    "vae augmented": ("vae", {}, "conv", 12, True),
    "tc": ("beta_tcvae", {}, "conv", 12, False),
    "dip_i": ("dip_vae_i", {}, "conv", 12, False),
    "dip_ii": ("dip_vae_ii", {}, "conv", 12, False),
    "factor": ("factor_vae", {"discriminator_width": 16, "discriminator_layers": 2}, "conv", 12, False),
    "capacity": ("annealed_vae", {"capacity_steps": 3}, "conv", 12, False),
    "geometry": ("guided_vae", {"transforms": ["rotation", "scale", "translation", "shear"]}, "conv", 12, False),
    "geometry of the release": ("guided_vae_release", {}, "conv", 12, False),
    "supervised": ("guided_vae_supervised", {"head": "prototype", **SUPERVISED}, "conv", 12, True),
    "supervised of the release": ("guided_vae_supervised_release", SUPERVISED, "conv", 12, False),
    "attributes": ("guided", {"parts": [
        {"kind": "attribute", "attribute": "width", "target": "continuous", "adversary_hidden": 8},
        {"kind": "attribute", "attribute": "round", "target": "binary", "adversary_hidden": 8, "form": "release"},
    ]}, "conv", 12, False),
    "warps": ("guided_warps", {"adversary_hidden": 16, "warp": WARP}, "conv", 12, False),
    "instances": ("guided_instances", {"adversary_hidden": 16, "projection": 8, "warp": WARP}, "conv", 12, False),
    "contrastive": ("contrastive", {"warp": WARP}, "conv4", 16, False),
    "conv4": ("guided_beta_tcvae", {}, "conv4", 16, True),
    "resnet12": ("vae", {}, "resnet12", 16, False),
}  # fmt: skip
SINGLE = ("tc", "instances", "conv4")  # in float32 too


class Kept(Recorder):
    """Keeps every number, a step a row."""

    def __init__(self):
        self.rows = []

    def scalars(self, step, values):
        row = {name.removeprefix("train/"): value for name, value in values.items() if name.startswith("train/")}
        self.rows += [row] if row else []  # what an epoch's end tells is no loss


class Unsummed(Processes):
    """Wrong on purpose: gathers as torch.distributed.all_gather does, without a gradient from other processes."""

    def gather(self, own):
        rows = super().gather(own.detach())
        return torch.cat([*rows.split(len(own))[: self.rank], own, *rows.split(len(own))[self.rank + 1 :]])


class Summed(Processes):
    """Wrong on purpose: adds gradients up where they are to be averaged."""

    def average(self, parameters, loss, terms):
        found = super().average(parameters, loss, terms)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad *= self.processes
        return found


class LocalNorm(Processes):
    """Wrong on purpose: batch norm by the statistics of a process's own images."""

    def mean(self, own):
        return own


def train(name, share, **changes):
    """Train a case; return the rows that it told and its weights."""
    objective, options, trunk, side, augmented = CASES[name]
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(IMAGES, 1, side, side, generator=generator).square().mul(255).to(torch.uint8)
    labels = torch.arange(IMAGES) * CLASSES // IMAGES
    factors = {"width": images.double().mean((1, 2, 3)), "round": torch.arange(IMAGES) % 2}
    latents = 40 if name == "geometry" else LATENTS
    built = OBJECTIVES[objective]((1, side, side), CLASSES, IMAGES, 0, trunk, latents, **options)
    kept = Kept()
    loop.pretrain(
        built, images, labels, training=TRAINING, seed=0, augment=AUGMENT if augmented else None, recorder=kept,
        factors=factors, share=share, **changes,
    )  # fmt: skip
    return kept.rows, built.state_dict()


def alike(tensors):
    """Whether tensors are bitwise those of process 0 on every process."""
    flat = torch.cat([value.double().flatten() for value in tensors.values()])
    first = flat.clone()
    dist.broadcast(first, 0)
    equal = torch.tensor(int(torch.equal(first, flat)))
    dist.all_reduce(equal, dist.ReduceOp.MIN)
    return bool(equal)


def both(name, share):
    """Train in shares, then alone; return what was told, how far weights and buffers are apart, whether all agree."""
    told, weights = train(name, share)
    agree = alike(weights)
    if not share.first:
        return None
    alone, expected = train(name, ALONE)
    apart = {key: float((weights[key].double() - value.double()).abs().max()) for key, value in expected.items()}
    return {"told": told, "alone": alone, "apart": apart, "alike": agree}


def gradients(share):
    """A function of gathered rows and of a process's own, against the same of all rows; no training."""
    rows = torch.rand(6 * share.processes, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    power = nn.Parameter(torch.tensor(1.5))

    def loss(whole, own):
        centred = whole - whole.mean(0)
        return (centred.T @ centred).square().sum().sqrt() + own.pow(power).sum(1).mean()

    loss(rows, rows).backward()
    expected = rows.grad, power.grad.clone()
    power.grad = None
    own = nn.Parameter(share.mine(rows.detach()))
    found = loss(share.gather(own), own)
    found.backward()
    mean, _ = share.average([power], found, {})
    pairs = {"rows": (own.grad / share.processes, share.mine(expected[0])), "power": (power.grad, expected[1]),
             "loss": (mean, loss(rows, rows).detach())}  # fmt: skip
    return {name: float((one - other).abs().max()) for name, (one, other) in pairs.items()}


def refused(share):
    """What process 1 says when it is given another seed than process 0."""
    objective = OBJECTIVES["vae"]((1, 12, 12), CLASSES, IMAGES, 0, "conv", LATENTS)
    try:
        restore(None, objective, {}, {"seed": share.rank, "images": 50}, share)
    except ModelError as error:
        share.tell(None)  # process 0 waits for it
        return str(error)


def main(where):
    """Do it all and keep what each process found."""
    join("gloo")
    share = Processes()
    loop.LOG_EVERY = 1
    found = {"float32": {name: both(name, share) for name in SINGLE}}
    torch.set_default_dtype(torch.float64)
    found["float64"] = {name: both(name, share) for name in CASES}
    wrong = {"unsummed": ("tc", Unsummed()), "summed": ("vae", Summed()), "local norm": ("conv4", LocalNorm())}
    found["wrong"] = {name: [case, train(case, one)[0]] for name, (case, one) in wrong.items()}
    found["gradients"] = gradients(share)
    found["refused"] = refused(share)
    state = where / f"state-{share.rank}.pt"
    _, weights = train("conv4", share, state=state)
    told, again = train("conv4", share, state=state)
    same = all(torch.equal(value, weights[key]) for key, value in again.items())
    found["resumed"] = {"told": told, "same": same, "written": state.exists()}
    dist.destroy_process_group()
    found["threads"] = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    (where / f"{share.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
