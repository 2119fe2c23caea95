"""A benchmark on a Ray cluster: nodes with caches of their own, killed in the middle; the report of a local run."""

import importlib.util
import json
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_bench_steps import counts, environment, equal

import metalearn.bench
from gvae.recorder import Recorder
from metalearn import connect
from metalearn.config import parse
from metalearn.connect import connected, refuse_address
from metalearn.crew import Told
from metalearn.errors import UserError
from metalearn.graph import Failure
from metalearn.node import Job, Node
from metalearn.run import open_run
from metalearn.schema import BenchConfig
from metalearn.shipping import Parcel, packed, unpacked

ROOT = Path(__file__).parents[1]
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
STORE = 80 << 20  # bytes of each node's object store
CONFIG = """
dataset: {kind: glyphs, classes: 60}
pretraining:
  model: {trunk: conv, latents: 4}
  training: {epochs: 6, batch_size: 64, checkpoint_seconds: 0}
  monitor: null
extractors:
  vae: {kind: pretrain, objective: vae}
  pixels: pixels
learners: {prototypical: prototypical, ridge: ridge, maml: {kind: maml, adapt_steps: 1}}
meta_training: {meta_batch: 2, iterations: 2, eval_every: 1, eval_episodes: 2, queries: 2}
episodes: {settings: [5w1s], queries: 5, count: 12}
seeds: [0, 1]
baseline: vae
"""
LIGHT = CONFIG.replace(", maml: {kind: maml, adapt_steps: 1}}", "}")  # without learn2learn, which is slow to import
assert LIGHT != CONFIG


class Nodes:
    """A cluster whose head does no steps, and nodes of one core."""

    def __init__(self, folder: Path):
        from ray.cluster_utils import Cluster

        quick = {f"health_check_{name}": value for name, value in
                 [("initial_delay_ms", 500), ("period_ms", 500), ("failure_threshold", 3)]}  # fmt: skip
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": quick}
        self.folder, self.cluster = folder, Cluster(initialize_head=True, head_node_args=head)
        self.names: dict[str, object] = {}

    def add(self, name: str, source: Path = ROOT, data: Path | None = None) -> Path:
        """Add a node; return its cache, where it also has its data unless they are to be elsewhere."""
        cache = self.folder / name
        cache.mkdir(exist_ok=True)
        own = {"METALEARN_CACHE": cache, "METALEARN_DATA": data or cache, "PYTHONPATH": source}
        self.names[name] = self.cluster.add_node(
            num_cpus=1, object_store_memory=STORE, env_vars={key: str(value) for key, value in own.items()}
        )
        return cache

    def kill(self, name: str) -> None:
        """End a node at once."""
        self.cluster.remove_node(self.names.pop(name), allow_graceful=False)

    def clear(self) -> None:
        for name in list(self.names):
            self.kill(name)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory):
    made = Nodes(tmp_path_factory.mktemp("nodes"))
    yield made
    made.cluster.shutdown()


@pytest.fixture(autouse=True)
def no_nodes_left(request: pytest.FixtureRequest):
    yield
    if "nodes" in request.fixturenames:
        request.getfixturevalue("nodes").clear()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config, and a run of it in one process here."""
    place = tmp_path_factory.mktemp("local")
    (place / "tiny.yaml").write_text(CONFIG)
    done = subprocess.run(bench(place, place / "run"), env=environment(place / "cache"), **SILENT)
    assert done.returncode == 0, done.stderr
    return place / "tiny.yaml", place / "run"


def bench(place: Path, out: Path, *more: str) -> list[str]:
    (place / "cache").mkdir(exist_ok=True)
    given = ["bench", place / "tiny.yaml", "--out", out, "--data-root", place / "cache", *more, "--quiet"]
    return [sys.executable, "-m", "metalearn", *map(str, given)]


def resume(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "metalearn", "resume", str(out), *more, "--quiet"]


def until(true, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait for something while a process runs."""
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def trains(cache: Path) -> bool:
    """Whether a node is in the middle of training an encoder."""
    return any(cache.glob("encoders/*/state.pt"))


def report_of(run: Path) -> dict:
    report = json.loads((run / "report.json").read_text())
    for row in report["rows"]:
        del row["seconds"], row["training_seconds"]
    return report


def hands() -> list[int]:
    """Processes on nodes that do steps, or wait for one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::Node"):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_node_killed_in_the_middle_leaves_the_report_of_a_local_run(nodes: Nodes, local, tmp_path: Path) -> None:
    config, alone = local
    shutil.copy(config, tmp_path)
    one, two = nodes.add("one"), nodes.add("two")
    out, address = tmp_path / "run", nodes.cluster.address
    started = subprocess.Popen(
        bench(tmp_path, out, "--ray", address), env=environment(tmp_path / "cache"), **SILENT
    )
    until(lambda: trains(one), started)
    nodes.kill("one")
    assert trains(one), "killed too late to test anything"
    _, said = started.communicate(timeout=300)
    assert started.returncode == 0 and not unexpected(said), said
    assert equal(counts(out), counts(alone)) and report_of(out) == report_of(alone)
    assert assert_told_once(out) == {f"vae{part}/seed{i}" for part in ("", "/maml/5w1s") for i in (0, 1)} | {
        f"pixels/maml/5w1s/seed{i}" for i in (0, 1)
    }
    events = {path.parent.name for path in (out / "tensorboard").rglob("events*")}
    assert {"seed0", "seed1"} <= events
    assert names(tmp_path / "cache") == names(two) and len(names(two)) == 2  # what the nodes trained came here
    assert not list(two.glob("unfinished/*/checkpoints/*"))
    free_of_hands()


def unexpected(said: str) -> list[str]:
    """Lines of stderr but those in which Ray's own core mourns a node."""
    return [line for line in said.splitlines() if line.strip() and "core_worker.cc" not in line]


def assert_told_once(out: Path) -> set[str]:
    """No row of the record stands twice; return the scopes that told."""
    told = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [(row["scope"], row["step"], *sorted(set(row) - {"scope", "step", "time"})) for row in told]
    assert len(rows) == len(set(rows))
    return {row[0] for row in rows}


def names(cache: Path) -> dict[str, bytes]:
    """Encoders kept in a cache: bytes by key."""
    return {path.parent.name: path.read_bytes() for path in cache.glob("encoders/*/encoder.safetensors")}


def free_of_hands() -> None:
    end = time.monotonic() + 60
    while hands():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_interrupt_and_the_death_of_all_nodes_can_be_gone_on_from(nodes: Nodes, local, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(LIGHT)
    own, out, address = environment(tmp_path / "cache"), tmp_path / "run", nodes.cluster.address
    first = nodes.add("first")
    started = subprocess.Popen(bench(tmp_path, out, "--ray", address), env=own, **SILENT)
    until(lambda: (out / "steps" / "vae-seed0.npz").exists(), started)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=120)
    assert (started.returncode, said) == (130, f"\ninterrupted; go on by: metalearn resume {out}\n")
    free_of_hands()
    trained = names(first)
    nodes.kill("first")

    second = nodes.add("second")
    started = subprocess.Popen(resume(out, "--ray", address), env=own, **SILENT)
    until(lambda: trains(second), started)
    nodes.kill("second")
    _, said = started.communicate(timeout=300)
    assert started.returncode == 2, said
    assert re.fullmatch(
        rf"error: no node of the Ray cluster at {address} has the 1 cores that a step takes, as many as here "
        r"\(cores of the nodes that are left: \S+ 0\); add nodes, or give more --jobs for fewer cores a step\. "
        r"[1-9]\d* steps are done and kept, the same command goes on with the others\n", said,
    ), said  # fmt: skip

    kept = {path.name: path.stat().st_mtime_ns for path in (out / "steps").glob("*.npz")}
    third = nodes.add("third")
    done = subprocess.run(resume(out, "--ray", address), env=own, **SILENT)
    assert done.returncode == 0 and not unexpected(done.stderr), done.stderr
    assert all((out / "steps" / name).stat().st_mtime_ns == when for name, when in kept.items())
    mine, alone = counts(out), counts(local[1])
    assert len(mine) == 4 and equal(mine, {name: alone[name] for name in mine})
    assert names(third) == names(tmp_path / "cache") and len(names(third)) == 2
    assert trained.items() <= names(third).items()  # it came from the first node by way of this machine
    assert_told_once(out)


def test_a_node_that_differs_from_this_machine_is_refused_by_name(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(LIGHT)
    for package in ("metalearn", "gvae", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / "old" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "old" / "tasks" / "__init__.py").open("a") as stream:
        stream.write("\n# another line\n")
    nodes.add("old", source=tmp_path / "old")
    given = bench(tmp_path, tmp_path / "run", "--ray", nodes.cluster.address)
    done = subprocess.run(given, env=environment(tmp_path / "cache"), cwd=tmp_path, **SILENT)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: node \S+ \(\S+\) has metalearn \S+ \(source \w{12}\), and this machine \S+ \(source \w{12}\): their "
        r"numbers could differ; make them equal, or take the node out of the cluster\n", done.stderr,
    ), done.stderr  # fmt: skip


def node(root: Path, config: str = LIGHT) -> Node:
    """What a node has, in this process."""
    return Node(Job(BenchConfig.model_validate(parse(config, "tiny")), root, "cpu", 1, "run"))


def test_a_node_without_the_data_says_so_and_other_images_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "there"))
    refused = node(tmp_path).facts()
    assert isinstance(refused, Failure)
    assert refused.message.startswith(f"data root {tmp_path / 'there'} does not exist; give an existing folder by")
    monkeypatch.delenv("METALEARN_DATA")
    one, other = (node(tmp_path, LIGHT.replace("classes: 60", f"classes: {n}")).facts() for n in (60, 61))
    assert {name for name in one if one[name] != other[name]} == {"dataset glyphs/random"}


def test_progress_is_kept_to_the_last(tmp_path: Path) -> None:
    mine = node(tmp_path)
    for told in ("progress", 1, 9, "a"), ("progress", 2, 9, "a"), ("scalars", 1, {}), ("progress", 3, 9, "a"):
        mine.tell("s", told)
    expected = [("progress", 2, 9, "a"), ("scalars", 1, {}), ("progress", 3, 9, "a")]
    assert pickle.loads(mine.told()) == [Told("s", told) for told in expected]
    assert pickle.loads(mine.told()) == []


def test_where_no_cluster_answers_it_is_said_within_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{other.getsockname()[1]}"
        wanted = rf"--ray {address}: no Ray cluster answers there \(.*refused\); start one on this machine, or let "
        with pytest.raises(UserError, match=wanted), connected(address):
            pass
        other.listen()  # something that is no head of Ray
        monkeypatch.setattr(connect, "PATIENCE", 2)
        with pytest.raises(UserError, match="no Ray cluster answers there within 2 s; start one"), connected(address):
            pass
    with pytest.raises(UserError, match="no Ray cluster answers there"), connected("127.0.0.1:99999"):
        pass


@pytest.mark.parametrize("address", ["", "local", "host", "ray://host:1", "http://host:80", "host:port", "host:1:2"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match=f"--ray {address}: allowed are HOST:PORT of the head of a Ray "):
        refuse_address(address)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_address("auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wanted = r"--ray auto needs Ray, which is not installed: pip install 'metalearn\[ray\]'"
    with pytest.raises(UserError, match=wanted):
        refuse_address("auto")


def test_memory_is_of_this_machine_only(tmp_path: Path) -> None:
    config = BenchConfig.model_validate(parse(LIGHT, "tiny"))
    wanted = "--memory is for processes on this machine, and --ray has none here; omit one"
    with (
        open_run(tmp_path / "run", "bench", config, quiet=True) as run,
        pytest.raises(UserError, match=wanted),
    ):
        metalearn.bench.bench(config, run, data_root=tmp_path, device="cpu", memory=2.0, ray="auto")


def test_an_encoder_comes_as_it_was_sent_or_is_refused(local, tmp_path: Path) -> None:
    _, run = local
    kept = next((run.parent / "cache" / "encoders").glob("*/encoder.safetensors")).parent
    parcel = packed(kept, Recorder())
    assert parcel is not None and packed(tmp_path / "none", Recorder()) is None
    unpacked(parcel, tmp_path / kept.name, Recorder())
    assert {path.name: path.read_bytes() for path in (tmp_path / kept.name).iterdir()} == parcel.files
    (tmp_path / kept.name / "encoder.safetensors").write_bytes(b"cut")  # a damaged one is replaced
    unpacked(parcel, tmp_path / kept.name, Recorder())
    assert packed(tmp_path / kept.name, Recorder()) == parcel
    data = parcel.files["encoder.safetensors"]
    wrong = Parcel(parcel.files | {"encoder.safetensors": bytes([data[0] ^ 1]) + data[1:]}, parcel.sha256)
    with pytest.raises(UserError, match="encoder other was damaged on its way to this machine; start again"):
        unpacked(wrong, tmp_path / "other", Recorder())
    assert not (tmp_path / "other").exists()
