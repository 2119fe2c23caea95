"""The steps of a benchmark on the nodes of a Ray cluster."""

import contextlib
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gvae.recorder import Recorder
from metalearn.cache import key_of
from metalearn.connect import last_line
from metalearn.crew import TRIES, Crew, Done, Lost, News
from metalearn.errors import UserError
from metalearn.given import find_data_root
from metalearn.graph import Failure, Graph
from metalearn.interrupt import interrupt_noted
from metalearn.node import Job, Node, Report, facts_of
from metalearn.shipping import packed, unpacked
from metalearn.steps import Step, Steps


class Hand:
    """A process on a node, and what it was asked: ``answer`` to its step, or to how it does; ``told`` meanwhile."""

    def __init__(self, node: str, name: str, actor: Any):
        self.node, self.name, self.actor = node, name, actor
        self.answer = actor.facts.remote()
        self.told: Any = None


class Cluster(Crew[Step]):
    """Processes on the nodes of a cluster that do the steps of a benchmark, each with the threads that one here has.

    A node is asked for as many as it has cores and, on CUDA, GPUs for; nodes that join are asked too, those that are
    gone have their steps tried elsewhere. Encoders come back here, are kept in this machine's cache, and go from there
    to the nodes that need them. Raises UserError for a node that is not like this machine, and when none is left.
    """

    def __init__(
        self,
        graph: Graph[Step],
        job: Job,
        here: Steps,
        tell: Callable[[Step, str, tuple[Any, ...]], None],
        show: Callable[[Sequence[Step]], None],
    ):
        super().__init__(graph, tell, show)
        self.job, self.here, self.facts = job, here, facts_of(here.dataset)
        self.head = ray.get_runtime_context().gcs_address
        self.starting: list[Hand] = []
        self.idle: list[Hand] = []
        self.busy: dict[Step, Hand] = {}
        self.fallen: Counter[str] = Counter()  # of each node, how many processes ended before they could do anything
        self.kept: dict[str, Any] = {}  # references to encoders by key

    def carried_out(self) -> Iterator[tuple[Step, Any]]:
        """Do every step; yield each with its outcome or Failure, as they come. An interrupt is raised between two."""
        with interrupt_noted() as self.raise_interrupt:
            yield from super().carried_out()

    def busy_with(self) -> list[Step]:
        """Steps that are being done."""
        return list(self.busy)

    def room(self) -> bool:
        """Whether a process waits for a step."""
        return bool(self.idle)

    def begin(self, step: Step) -> bool:
        """Give a step to a process, with the encoder that it needs."""
        hand, folder = self.idle.pop(), self.here.encoder(step)
        kept = [] if folder is None else self.reference(folder)
        hand.answer = hand.actor.do.remote(step, folder.name if folder else "", kept)
        self.busy[step] = hand
        return True

    def reference(self, folder: Path) -> list[Any]:
        """A reference to the encoder kept here in a folder, in a list; none where it is still to be made."""
        if folder.name not in self.kept and (parcel := packed(folder, Recorder())) is not None:
            self.kept[folder.name] = ray.put(parcel)
        return [self.kept[folder.name]] if folder.name in self.kept else []

    def news(self) -> Iterator[tuple[Step, News]]:
        """Take what nodes say within a second; processes that have come up may have a step from then on."""
        self.raise_interrupt()
        self.hire()
        ready, _ = ray.wait([hand.answer for hand in [*self.starting, *self.busy.values()]], timeout=1.0)
        for hand in [one for one in self.starting if one.answer in ready]:
            self.welcome(hand)
        for hand in self.busy.values():
            hand.told = hand.told or hand.actor.told.remote()
        asked = [hand.told for hand in self.busy.values()]  # and read at once: what lies on a node is lost with it
        told = ray.wait(asked, num_returns=len(asked), timeout=1.0)[0] if asked else []
        for step, hand in list(self.busy.items()):
            if hand.answer in ready or hand.told in told:
                yield from self.heard_of(step, hand, hand.answer in ready)

    def heard_of(self, step: Step, hand: Hand, done: bool) -> Iterator[tuple[Step, News]]:
        """What a process says of its step, in the order in which it was said."""
        try:
            told, hand.told = pickle.loads(ray.get(hand.told)), None
            report: Report | None = pickle.loads(ray.get(hand.answer)) if done else None
        except ray.exceptions.RayError as error:
            del self.busy[step]
            ray.kill(hand.actor)
            yield step, Lost(f"its node or process was lost {TRIES} times, at last {hand.name}: {last_line(error)}")
            return
        for one in [*told, *(report.told if report else [])]:
            yield step, one
        if report is None:
            return
        folder = self.here.encoder(step)
        if report.parcel is not None and folder is not None:
            unpacked(report.parcel, folder, self.here.recorder(step.name))
        del self.busy[step]
        self.idle.append(hand)
        outcome = report.done.outcome
        failed = isinstance(outcome, Failure)
        yield step, Done(Failure(f"{outcome.message} (on node {hand.name})")) if failed else report.done

    def hire(self) -> None:
        """Ask nodes for the processes that they have room for and do not give yet."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        room = {node["NodeID"]: self.room_on(node["Resources"]) for node in nodes}
        if not any(room.values()):
            self.refuse_without_room(nodes)
        given = Counter(hand.node for hand in [*self.starting, *self.idle, *self.busy.values()])
        for node in nodes:
            for _ in range(room[node["NodeID"]] - given[node["NodeID"]]):
                self.starting.append(self.hired(node))

    def room_on(self, resources: Mapping[str, float]) -> int:
        """How many processes fit on a node."""
        places = int(resources.get("CPU", 0)) // self.job.threads
        return min(places, int(resources.get("GPU", 0))) if self.job.device == "cuda" else places

    def hired(self, node: Mapping[str, Any]) -> Hand:
        """A process that is about to start on a node."""
        options = {
            "num_cpus": self.job.threads, "num_gpus": 1 if self.job.device == "cuda" else 0, "max_restarts": 0,
            "max_concurrency": 2,  # it is asked what its step told while that is done
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        }  # fmt: skip
        actor = ray.remote(Node).options(**options).remote(self.job)
        return Hand(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", actor)

    def welcome(self, hand: Hand) -> None:
        """Take a process that has come up, if its node is like this machine; UserError if it is not."""
        self.starting.remove(hand)
        try:
            found = ray.get(hand.answer)
        except ray.exceptions.RayError as error:
            self.fallen[hand.node] += 1
            if self.fallen[hand.node] == TRIES and self.is_alive(hand.node):
                raise UserError(
                    f"node {hand.name} cannot do steps: {last_line(error)}; install there what is installed here, or "
                    "take the node out of the cluster"
                ) from None
            return
        if isinstance(found, Failure):
            raise UserError(f"node {hand.name}: {found.message}")
        for name, value in self.facts.items():
            if found.get(name) != value:
                raise UserError(
                    f"node {hand.name} has {name} {found.get(name)}, and this machine {value}: their numbers could "
                    "differ; make them equal, or take the node out of the cluster"
                )
        self.idle.append(hand)

    def is_alive(self, node: str) -> bool:
        """Whether a node is still there."""
        return any(one["Alive"] for one in ray.nodes() if one["NodeID"] == node)

    def refuse_without_room(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Raise UserError: no node can do a step."""
        done = f"{len(self.graph.outcomes)} steps are done and kept, the same command goes on with the others"
        gpu = " and a GPU" if self.job.device == "cuda" else ""
        sizes = ", ".join(f"{one['NodeManagerHostname']} {one['Resources'].get('CPU', 0):g}" for one in nodes)
        raise UserError(
            f"no node of the Ray cluster at {self.head} has the {self.job.threads} cores{gpu} that a step takes, as "
            f"many as here (cores of the nodes that are left: {sizes or 'none'}); add nodes, or give more --jobs for "
            f"fewer cores a step. {done}"
        )

    def dismiss(self) -> None:
        """End all processes."""
        for hand in [*self.starting, *self.idle, *self.busy.values()]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(hand.actor)


def job_of(here: Steps, data_root: Path) -> Job:
    """What nodes must know to do the steps that this process would do."""
    run = key_of(folder=str(here.folder.resolve()), host=socket.gethostname())
    root = None if data_root == find_data_root(None) else data_root
    return Job(here.config, root, here.device, torch.get_num_threads(), run)
