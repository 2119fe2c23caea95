"""Images a second of the pretraining loop beside a loop as the Guided-VAE release has it, turn by turn in one run.

Run: python benchmarks/pretrain.py [--rounds 5] [--steps 8] [--batch 128] [--trunks release28,conv] [--compile]
     METALEARN_DATA=FOLDER python benchmarks/pretrain.py --until 0.5,0.4 [--limit 600]

release-style: a DataLoader (no workers, as there) over PNGs that PIL decodes one by one, ToTensor, torch's plain Adam,
two .item() a step. ours: `gvae.pretrain.pretrain` as it is. The network, the objective (a VAE) and the batch are the
same. "of peak": floating point operations of the step, counted by torch, over those of a product of two large matrices
in float32, measured in the same round. Ratios are of the same round too.

--until ERRORS: seconds of training until 5-way 1-shot error on validation classes is first no more than each of them,
nearest class mean on posterior means, 500 episodes: configs/pretrain/omniglot_release.yaml trained release-style,
beside configs/pretrain/omniglot_guided.yaml trained by our loop. Validation is not in the seconds; it comes before
training, after 25 steps, and then whenever a fifth more has been trained. Needs Omniglot in METALEARN_DATA.
"""

import argparse
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import metalearn  # noqa: F401  (before torch: it says how torch's threads wait)

# isort: split
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

import gvae.pretrain as loop
from gvae.objective import Batch, VAEObjective
from gvae.objectives import OBJECTIVES
from gvae.recorder import Recorder
from metalearn.augmentation import build_augment
from metalearn.config import load_config
from metalearn.data import build_dataset
from metalearn.encoders import build_objective, validation_accuracy
from metalearn.kinds import resolve
from metalearn.schema import MonitorConfig, PretrainConfig, TrainingConfig

ROOT = Path(__file__).parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WARM = 2  # steps that are not timed
CONFIGS = {"release-style": "omniglot_release.yaml", "ours": "omniglot_guided.yaml"}


class Files(Dataset):
    """Images as PNGs in memory, each decoded when it is asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.labels, self.to_tensor, self.files = labels, transforms.ToTensor(), []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "png")
            self.files.append(file.getvalue())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.to_tensor(Image.open(io.BytesIO(self.files[index]))), int(self.labels[index])


def release_style(objective: VAEObjective, files: Files, training: TrainingConfig) -> Iterator[int]:
    """Train as the release does and yield the number of steps done after each; one phase, no schedule."""
    objective.to(DEVICE).train()
    rate, decay = training.learning_rate, training.weight_decay
    phase = objective.phases()[0]
    adam = torch.optim.Adam(objective.parameters(), lr=rate, weight_decay=decay)
    generator, done, total = torch.Generator(DEVICE).manual_seed(0), 0, 0.0
    for _ in range(training.epochs):
        for images, labels in DataLoader(files, training.batch_size, shuffle=True, drop_last=True):
            adam.zero_grad()
            loss, terms = phase.loss(Batch(images.to(DEVICE), labels.to(DEVICE), generator))
            loss.backward()
            total += loss.item() + terms["reconstruction"].item()
            adam.step()
            done += 1
            yield done


class Times(Recorder):
    """When each record came."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def scalars(self, step: int, values: object) -> None:
        """Note the time of the first record of a step."""
        self.at.setdefault(step, time.perf_counter())


def seconds_release_style(trunk: str, files: Files, shape: tuple[int, int, int], training: TrainingConfig) -> float:
    objective = OBJECTIVES["vae"](shape, 2, len(files), 0, trunk, 10)
    at = {step: time.perf_counter() for step in release_style(objective, files, training)}
    return at[max(at)] - at[WARM]


def seconds_ours(trunk: str, images: np.ndarray, labels: np.ndarray, training: TrainingConfig) -> float:
    objective, times = OBJECTIVES["vae"](images.shape[1:], 2, len(images), 0, trunk, 10), Times()
    loop.pretrain(
        objective, torch.from_numpy(images), torch.from_numpy(labels), training=options(training), seed=0,
        device=DEVICE, recorder=times,
    )  # fmt: skip
    return times.at[max(times.at)] - times.at[WARM]


def options(training: TrainingConfig) -> loop.Training:
    return loop.Training(**training.model_dump(exclude={"augmentation"}))


def peak(size: int = 1536, calls: int = 3) -> float:
    """Floating point operations a second of a float32 product of two square matrices, the best of a few."""
    a, b = torch.rand(2, size, size, device=DEVICE)
    best = np.inf
    for _ in range(calls):
        began = time.perf_counter()
        float((a @ b)[0, 0])  # waits for it
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def operations(trunk: str, shape: tuple[int, int, int]) -> float:
    """Floating point operations of training on one image, forward and backward."""
    objective, batch = OBJECTIVES["vae"](shape, 2, 8, 0, trunk, 10), torch.rand(8, *shape)
    with FlopCounterMode(display=False) as counter:
        noise, labels = torch.Generator().manual_seed(0), torch.zeros(8, dtype=torch.long)
        objective.phases()[0].loss(Batch(batch, labels, noise))[0].backward()
    return counter.get_total_flops() / 8


def compare(trunk: str, given: argparse.Namespace) -> None:
    shape = (1, 28, 28) if not trunk.endswith("64") else (1, 64, 64)
    count = given.batch * (given.steps + WARM)
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    labels, files = np.zeros(count, np.int64), Files(images, np.zeros(count, np.int64))
    training = TrainingConfig(epochs=1, batch_size=given.batch, compile=given.compile)
    loop.LOG_EVERY = WARM  # our loop is timed from record to record
    rows = []
    for _ in range(given.rounds):
        row = [seconds_release_style(trunk, files, shape, training), seconds_ours(trunk, images, labels, training)]
        rows.append([*(given.batch * given.steps / seconds for seconds in row), peak()])
    table, each = np.array(rows), operations(trunk, shape)
    print(
        f"trunk {trunk}, batch {given.batch}, {each / 1e9:.3f} GFLOP an image, {DEVICE}, {torch.get_num_threads()} "
        f"threads, sgemm {np.median(table[:, 2]) / 1e9:.0f} GFLOP/s; images/s, median of {given.rounds} (least to most)"
    )
    for column, name in enumerate(("release-style", "ours")):
        speed, share = table[:, column], np.median(table[:, column] * each / table[:, 2])
        print(f"  {name:14} {np.median(speed):8,.0f} ({speed.min():,.0f} to {speed.max():,.0f})   {share:4.0%} of peak")
    ratios = table[:, 1] / table[:, 0]
    print(f"  ours / release-style {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})", flush=True)


class Reached(Exception):
    """Training may stop: the last error was reached, or time is over."""


class Until(Recorder):
    """Validates an objective now and then, its clock standing still; raises Reached."""

    def __init__(self, objective: VAEObjective, dataset: object, given: argparse.Namespace):
        self.objective, self.dataset, self.given = objective, dataset, given
        self.seconds, self.next, self.began, self.found = 0.0, 0, time.perf_counter(), {}
        self.scalars(0, {})

    def scalars(self, step: int, values: object) -> None:
        """Validate when it is time to."""
        if step < self.next:
            return
        self.seconds += time.perf_counter() - self.began
        self.next = step + max(25, step // 5)
        self.objective.eval()
        with torch.no_grad():
            accuracy = validation_accuracy(self.objective, self.dataset, MonitorConfig(), DEVICE)
        self.objective.train()
        error = 1 - next(iter(accuracy.values()))
        print(f"    step {step}, {self.seconds:.1f} s: error {error:.3f}", flush=True)
        for goal in self.given.until:
            if error <= goal:
                self.found.setdefault(goal, self.seconds)
        if error <= min(self.given.until) or self.seconds > self.given.limit:
            raise Reached
        self.began = time.perf_counter()


def until(given: argparse.Namespace) -> None:
    found = {}
    for name, file in CONFIGS.items():
        config = resolve(load_config(ROOT / "configs" / "pretrain" / file, PretrainConfig))
        dataset = build_dataset(config.dataset, Path(os.environ["METALEARN_DATA"]))
        objective = build_objective(dataset, config.objective, config.model, seed=0)
        images, labels = dataset.train.images(), dataset.train.labels
        print(f"  {name}: {file}, {len(images)} images")
        files = Files(images, labels) if name == "release-style" else None
        objective.to(DEVICE)
        try:
            clock = Until(objective, dataset, given)
            if files:
                for step in release_style(objective, files, config.training):
                    clock.scalars(step, {})
            else:
                loop.pretrain(
                    objective, torch.from_numpy(images), torch.from_numpy(labels), training=options(config.training),
                    seed=0, augment=build_augment(config.training.augmentation, images.shape[1]), device=DEVICE,
                    recorder=clock,
                )  # fmt: skip
        except Reached:
            pass
        found[name] = clock
    for goal in given.until:
        print(f"  error {goal}: {verdict(goal, found['release-style'], found['ours'])}")


def verdict(goal: float, release: Until, ours: Until) -> str:
    """Word how much sooner ours got there; where one did not, what is known is a bound."""
    words = [f"release-style {said(release, goal)}", f"ours {said(ours, goal)}"]
    if goal in ours.found:
        least = "" if goal in release.found else "more than "
        words.append(f"{least}{release.found.get(goal, release.seconds) / max(ours.found[goal], 0.1):.1f} times sooner")
    return ", ".join(words)


def said(clock: Until, goal: float) -> str:
    return f"{clock.found[goal]:.1f} s" if goal in clock.found else f"not within {clock.seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round; a multiple of 2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--trunks", default="release28,conv")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--until", type=lambda text: [float(one) for one in text.split(",")], help="errors to reach")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of training at most, each")
    given = parser.parse_args()
    if given.until:
        until(given)
    else:
        for trunk in given.trunks.split(","):
            compare(trunk, given)


if __name__ == "__main__":
    main()
