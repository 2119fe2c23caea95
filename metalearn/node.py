"""What does steps of a benchmark on a node of a Ray cluster."""

import os
import pickle
import platform
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from threadpoolctl import threadpool_limits

import gvae
import metalearn
import tasks
from gvae.recorder import Recorder
from metalearn.cache import key_of, source_fingerprint
from metalearn.crew import Done, Told
from metalearn.data import build_dataset
from metalearn.environment import PACKAGES, version
from metalearn.errors import UserError
from metalearn.given import choose_device, find_data_root
from metalearn.graph import Failure, attempt
from metalearn.memory import keep_freed_memory
from metalearn.remote import RemoteRecorder
from metalearn.schema import BenchConfig
from metalearn.shipping import Parcel, packed, unpacked
from metalearn.steps import CountStep, Step, Steps
from tasks.folders import cache_folder
from tasks.splits import PARTS, Dataset


@dataclass(frozen=True)
class Job:
    """What a node must know of a benchmark.

    ``root``: data root of the machine that gives the command, None where that is its cache. ``threads``: of each step.
    ``run``: a name for the run, its own among all.
    """

    config: BenchConfig
    root: Path | None
    device: str
    threads: int
    run: str


@dataclass(frozen=True)
class Report:
    """What a step told since it was last asked, what came of it, and the encoder that it had to make, if any."""

    told: list[Told]
    done: Done
    parcel: Parcel | None


def facts_of(dataset: Dataset) -> dict[str, str]:
    """What must be equal on all machines for equal numbers: versions, source, images and their classes."""
    facts = {"Python": ".".join(platform.python_version_tuple()[:2])}
    facts |= {name: str(version(name)) for name in PACKAGES}
    facts["metalearn"] = f"{metalearn.__version__} (source {source_fingerprint(metalearn, gvae, tasks)[:12]})"
    parts = {part: getattr(dataset, part) for part in PARTS}
    images = key_of(**{name: (part.fingerprint, part.class_names) for name, part in parts.items()})
    return facts | {f"dataset {dataset.label}": f"fingerprint {images[:12]}"}


def data_root(given: Path | None) -> Path:
    """Data root of this machine: METALEARN_DATA here, else the given path, else the cache. UserError if missing."""
    here = os.environ.get("METALEARN_DATA")
    return find_data_root(Path(here) if here else given)


class Node:
    """Does one step after the other in a process of its own; may be asked meanwhile what the step told."""

    def __init__(self, job: Job):
        keep_freed_memory()
        threadpool_limits(job.threads)
        self.job = job
        self._lock = threading.Lock()
        self._told: list[Told] = []
        self._steps: Steps | None = None

    def facts(self) -> dict[str, str] | Failure:
        """Facts of this node, see ``facts_of``; a Failure where it lacks the data or the device."""
        return attempt(lambda steps: facts_of(steps().dataset), self.steps)

    def steps(self) -> Steps:
        """What does steps, made once."""
        if self._steps is None:
            job = self.job
            choose_device(job.device)
            dataset = build_dataset(job.config.dataset, data_root(job.root))
            folder = cache_folder() / "unfinished" / job.run
            self._steps = Steps(
                job.config, dataset, job.device, folder, partial(RemoteRecorder, tell=self.tell),
                lambda done, total, text: self.tell("", ("progress", done, total, text)),
            )  # fmt: skip
        return self._steps

    def do(self, step: Step, key: str, kept: Sequence[Any]) -> bytes:
        """Do a step; return the pickled Report of it, so that its arrays are none of Ray's store.

        ``key``: of the encoder that it makes or needs. ``kept``: a reference to that encoder, if it is made.
        """
        torch.set_num_threads(self.job.threads)  # of this thread
        parcels: list[Parcel | None] = []

        def work(step: Step) -> Any:
            steps = self.steps()
            folder, silent = steps.encoder(step), Recorder()
            if folder is not None and folder.name != key:
                raise UserError(f"this node would keep its encoder as {folder.name}, and is asked for {key}")
            if folder is not None and kept and packed(folder, silent) is None:
                unpacked(ray.get(kept[0]), folder, silent)
            outcome = steps(step)
            if folder is not None and not kept:
                parcels.append(packed(folder, silent))
            if isinstance(step, CountStep):
                steps.state(step).unlink(missing_ok=True)
            return outcome

        done = Done(attempt(work, step))
        return pickle.dumps(Report(self._taken(), done, parcels[0] if parcels else None))

    def tell(self, scope: str, told: tuple[Any, ...]) -> None:
        """Keep what a step tells until it is asked for; of progress the last."""
        with self._lock:
            if told[0] == "progress" and self._told and self._told[-1].told[0] == "progress":
                self._told.pop()
            self._told.append(Told(scope, told))

    def told(self) -> bytes:
        """What was told since the last time, pickled: a list of Told."""
        return pickle.dumps(self._taken())

    def _taken(self) -> list[Told]:
        with self._lock:
            told, self._told = self._told, []
        return told
