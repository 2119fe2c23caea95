"""What tests/test_meta_processes.py starts under torchrun: meta-trains in shares, then alone, keeps what was told."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

from jaxtyping import install_import_hook

with install_import_hook(["gvae", "metalearn", "tasks"], "beartype.beartype"):
    import metalearn.evaluate
    import metalearn.features
    import metalearn.meta_step
    import metalearn.train
    from gvae.augment import Augment
    from gvae.errors import ModelError
    from gvae.objectives import OBJECTIVES
    from gvae.recorder import Recorder
    from gvae.share import ALONE, Processes, join
    from metalearn.auxiliary import Auxiliary
    from metalearn.errors import UserError
    from metalearn.extractors import FeatureExtractor, PosteriorMean
    from metalearn.features import extract
    from metalearn.learners import make_learner
    from metalearn.learners.prototypical import Prototypical
    from metalearn.train import meta_train
    from tasks.datasets import glyphs

import torch
import torch.distributed as dist
from in_shares import alike
from torch import nn

SETTINGS = {
    "ways": 3, "shots": 1, "queries": 4, "meta_batch": 4, "iterations": 4, "learning_rate": 0.01, "seed": 0,
    "eval_every": 2, "eval_episodes": 7,
}  # fmt: skip
GRADIENT = {"ways": 3, "adapt_steps": 2, "inner_lr": 0.1}
UNEVEN = {"meta_batch": 5, "tasks_at_once": 2}

CASES = {  # name: (learner, its options, what is trained otherwise, momentum of batch norm)
    "maml": ("maml", GRADIENT, {}, 0.1),
    "maml uneven": ("maml", GRADIENT, UNEVEN, 0.1),
    "maml first order": ("maml", {**GRADIENT, "first_order": True}, {}, 0.1),
    "maml by learn2learn": ("maml", {**GRADIENT, "engine": "learn2learn"}, UNEVEN, 0.1),
    "maml average": ("maml", GRADIENT, {}, None),
    "maml support": ("maml", {**GRADIENT, "batch_norm": "support"}, {}, 0.1),
    "anil": ("anil", GRADIENT, UNEVEN, 0.1),
    "meta_sgd": ("meta_sgd", GRADIENT, {}, 0.1),
    "prototypical": ("prototypical", {}, {}, 0.1),
    "prototypical uneven": ("prototypical", {}, UNEVEN, 0.1),
    "prototypical average": ("prototypical", {}, {}, None),
    "prototypical augmented": ("prototypical", {}, {"augment": Augment(rotation=30.0, translation=0.1)}, 0.1),
    "r2d2": ("r2d2", {}, UNEVEN, 0.1),
}
AUXILIARY = ["vae", "factor_vae", "guided_vae_supervised", "guided_instances"]
DATA = glyphs(classes=60, instances=8, image_size=14)


class Net(nn.Module):
    """Convolution and batch norm, without a bias that gets no gradient: Adam makes steps of its rounding."""

    image_shape, feature_dim = (1, 14, 14), 16

    def __init__(self, momentum):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(0)
            self.net = nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.Flatten(),
                nn.Linear(8 * 7 * 7, 16, bias=False),
            )  # fmt: skip

    def forward(self, images):
        return self.net(images)


class Noted(Net):
    """With a buffer of its own that changes."""

    def __init__(self):
        super().__init__(0.1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        return self.net(images)


class Kept(Recorder):
    """Keeps every number."""

    def __init__(self):
        self.rows = []

    def scalars(self, step, values):
        self.rows.append({"step": step, **values})


def train(learner, share, **changes):
    """Meta-train; return what was told, the gradients of every step, the result, and weights and buffers at the end."""
    kept, gradients = Kept(), []
    real = torch.optim.Adam.step

    def step(self, *args):
        gradients.append({str(place): p.grad.clone() for place, p in enumerate(self.param_groups[0]["params"])
                          if p.grad is not None})  # fmt: skip
        return real(self, *args)

    torch.optim.Adam.step = step
    try:
        result = meta_train(learner, DATA.train, DATA.val, recorder=kept, share=share, **{**SETTINGS, **changes})
    finally:
        torch.optim.Adam.step = real
    return kept.rows, gradients, [result.best_accuracy, result.best_iteration], learner.state_dict()


def of_case(name, share):
    kind, options, changes, momentum = CASES[name]
    return train(make_learner(kind, Net(momentum), **options), share, **changes)


def of_auxiliary(name, share):
    """A learner on a VAE's encoder with an objective's losses beside it; what the objective has is kept too."""
    options = {"class_latents": 8} if name == "guided_vae_supervised" else {}
    made, beside = (
        OBJECTIVES[name](DATA.train.image_shape, len(DATA.train.class_names), len(DATA.train.labels), seed, "conv", 16,
                         **options)
        for seed in (0, 1)
    )  # fmt: skip
    learner = make_learner("prototypical", PosteriorMean(made.vae))
    auxiliary = Auxiliary(
        beside, made.vae, DATA.train, weight=0.01, batch_size=10, learning_rate=0.01, seed=0, device="cpu", share=share
    )
    *told, weights = train(learner, share, auxiliary=auxiliary, iterations=3)
    return *told, {**weights, **auxiliary.objective.state_dict()}


def furthest(some, others):
    """Largest difference between tensors of the same names."""
    assert some.keys() == others.keys()
    return max(float((some[name].double() - value.double()).abs().max()) for name, value in others.items())


def both(of, name, share):
    """Train in shares, then alone; return what was told and how far gradients, weights and buffers are apart."""
    rows, gradients, result, weights = of(name, share)
    agree = alike(weights)
    if not share.first:
        return {"silent": not rows}
    alone_rows, alone_gradients, alone_result, alone = of(name, ALONE)
    return {
        "rows": rows, "alone": alone_rows, "alike": agree, "results": [result, alone_result],
        "gradients": [furthest(*pair) for pair in zip(gradients, alone_gradients, strict=True)],
        "sizes": [max(float(g.abs().max()) for g in step.values()) for step in alone_gradients],
        "weights": furthest(weights, alone),
    }  # fmt: skip


def wrong(name, share):
    """What comes of processes whose running statistics follow their own tasks alone."""
    real = metalearn.meta_step.in_order
    metalearn.meta_step.in_order = lambda *_: contextlib.nullcontext()
    try:
        return both(of_case, name, share)
    finally:
        metalearn.meta_step.in_order = real


def refused(learner, share, **changes):
    """What a training says that must not take a step."""
    before = {name: value.clone() for name, value in learner.named_parameters()}
    try:
        train(learner, share, **changes)
    except (UserError, ModelError) as error:
        same = all(torch.equal(before[name], value) for name, value in learner.named_parameters())
        return {"said": str(error), "still": same}


def refusals(share, where):
    """What is refused: in numbers of one process alone, of one task, and in settings."""
    real, calls = Prototypical.meta_loss, []

    def spoiled(self, *args):  # task 2 of the meta-batch: the first of process 1
        loss, correct = real(self, *args)
        calls.append(loss)
        return loss * (float("nan") if share.rank == 1 and len(calls) == 1 else 1), correct

    Prototypical.meta_loss = spoiled
    found = {"loss": refused(make_learner("prototypical", Net(0.1)), share)}
    Prototypical.meta_loss = real
    learner = make_learner("prototypical", Net(0.1))
    if share.rank == 1:
        learner.extractor.net[4].weight.register_hook(lambda gradient: gradient * float("inf"))
    found["gradient"] = refused(learner, share)
    inner = make_learner("maml", Net(0.1), **{**GRADIENT, "inner_lr": 1e200 if share.rank == 1 else 0.1})
    found["inner"] = refused(inner, share)
    found["buffer"] = refused(make_learner("prototypical", Noted()), share)
    found["few"] = refused(make_learner("prototypical", Net(0.1)), share, meta_batch=1)
    state = where / f"state-{share.rank}.pt"
    _, _, result, weights = train(make_learner("anil", Net(0.1), **GRADIENT), share, state=state)
    rows, _, again, other = train(make_learner("anil", Net(0.1), **GRADIENT), share, state=state)
    same = all(torch.equal(value, weights[key]) for key, value in other.items())
    found["resumed"] = {"same": same and result == again, "told": rows, "written": state.exists()}
    try:  # last: process 0 waits for what process 1 does not do
        metalearn.train.resume(None, {"seed": share.rank}, learner, torch.optim.Adam(learner.parameters()), None, share)
        found["settings"] = None
    except UserError as error:
        share.tell(None)
        found["settings"] = str(error)
    return found


def in_double(episode_images):
    """Episodes with images in float64."""

    def episodes(*args):
        for support, labels, query, truth in episode_images(*args):
            yield support.double(), labels, query.double(), truth

    return episodes


def extract_in_double(extractor, images, **_):
    """Features in float64, extracted once."""
    with torch.no_grad():
        return extractor(torch.from_numpy(images.partition.images()).double() / 255)


class Counted(FeatureExtractor):
    """Notes how many images it is given at a time."""

    image_shape, feature_dim = (1, 14, 14), 16

    def __init__(self):
        super().__init__()
        self.net, self.given = Net(0.1), []

    def forward(self, images):
        self.given.append(len(images))
        return self.net(images)


def features(share, where):
    """Features in shares, kept by each process in a folder of its own; again; again where one process has none."""
    metalearn.features.BATCH = 32
    counted, alone, cache = Counted(), Counted(), where / f"cache-{share.rank}"

    def passed():
        counted.given.clear()
        kept = extract(counted, DATA.val, cache=cache, share=share)
        return list(counted.given), kept

    first, found = passed()
    again, kept = passed()
    if share.rank == 1:
        shutil.rmtree(cache)
    last, other = passed()
    whole = extract(alone, DATA.val)
    return {"given": [first, again, last], "alone": alone.given,
            "same": all(torch.equal(whole, one) for one in (found, kept, other))}  # fmt: skip


def main(where):
    """Do it all and keep what each process found."""
    join("gloo")
    share = Processes()
    found = {"features": features(share, where)}
    torch.set_default_dtype(torch.float64)
    metalearn.evaluate.episode_images = metalearn.train.episode_images = in_double(metalearn.evaluate.episode_images)
    metalearn.evaluate.extract = extract_in_double
    found["cases"] = {name: both(of_case, name, share) for name in CASES}
    found["cases"] |= {f"beside {name}": both(of_auxiliary, name, share) for name in AUXILIARY}
    found["wrong"] = {name: wrong(name, share) for name in ("maml", "prototypical")}
    found["refused"] = refusals(share, where)
    dist.destroy_process_group()
    found["threads"] = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    (where / f"{share.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
