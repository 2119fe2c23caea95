"""A benchmark as steps: several processes, cells that fail, equal things done once, kills at random."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from metalearn.cells import load_cell

TINY = """
dataset: {kind: glyphs, classes: 60}
pretraining:
  model: {trunk: conv, latents: 4}
  training: {epochs: 1, batch_size: 64, checkpoint_seconds: 0}
  monitor: null
extractors:
  pixels: pixels
  vae: {kind: pretrain, objective: vae}
  twin: {kind: pretrain, objective: vae}
learners: {prototypical: prototypical, same: prototypical, maml: {kind: maml, adapt_steps: 1}}
meta_training: {meta_batch: 2, iterations: 2, eval_every: 1, eval_episodes: 2, queries: 2}
episodes: {settings: [5w1s], queries: 5, count: 12}
seeds: [0, 1]
baseline: vae
"""
BROKEN = '''
from metalearn.extractors import Pixels


class Mine(Pixels):
    """Pixels that cannot be had before a file is there."""

    def forward(self, images):
        open({flag!r}).close()
        return super().forward(images)
'''


def environment(cache: Path, *paths: Path) -> dict[str, str]:
    here = os.pathsep.join(map(str, [*paths, Path(__file__).parents[1]]))
    return {**os.environ, "METALEARN_CACHE": str(cache), "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}


def words(config: Path, cache: Path, out: Path, *more: object) -> list[str]:
    told = ["bench", config, "--data-root", cache, "--out", out, *more]
    return [sys.executable, "-m", "metalearn", *map(str, told)]


def command(config: Path, cache: Path, out: Path, *more: object, paths=()) -> subprocess.CompletedProcess[str]:
    given = words(config, cache, out, *more)
    cache.mkdir(exist_ok=True)
    return subprocess.run(given, capture_output=True, text=True, env=environment(cache, *paths))


def counts(run: Path) -> dict[str, np.ndarray]:
    cells = [load_cell(path) for path in run.glob("episodes-*.npz")]
    return {cell.slug: cell.correct for cell in cells}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A config, a cache and a run of it in one process with one thread, as each of two on two cores has."""
    place = tmp_path_factory.mktemp("whole")
    config, cache, out = place / "tiny.yaml", place / "cache", place / "run"
    config.write_text(TINY)
    done = command(config, cache, out, "--quiet")
    assert done.returncode == 0, done.stderr
    return config, cache, out


def test_equal_things_under_two_names_are_done_once(whole) -> None:
    _, cache, out = whole
    assert len(list(cache.glob("encoders/*/encoder.safetensors"))) == 2  # one a seed
    found = counts(out)
    assert len(found) == 9  # 3 extractors, 3 learners
    named = {name.removeprefix("glyphs+random-test-5w1s-"): value for name, value in found.items()}
    assert (named["vae-prototypical"] == named["twin-same"]).all()
    assert (named["vae-maml"] == named["twin-maml"]).all()
    steps = {path.stem for path in (out / "steps").glob("*.npz")}
    assert not {step for step in steps if "twin" in step or "same" in step}
    scopes = {json.loads(line)["scope"] for line in (out / "metrics.jsonl").read_text().splitlines()}
    assert {"vae/seed0", "vae/seed1", "vae/maml/5w1s/seed0"} <= scopes and "twin/seed0" not in scopes


@pytest.mark.skipif(len(os.sched_getaffinity(0)) > 3, reason="two processes would have more than a thread each")
def test_several_processes_give_the_numbers_of_one(whole, tmp_path: Path) -> None:
    """Also when all of them are ended in the middle, and the same command is given again."""
    config, _, out = whole
    cold, cut = tmp_path / "cache", tmp_path / "cut"
    cold.mkdir()
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = subprocess.Popen(words(config, cold, cut, "--jobs", 2), env=environment(cold), **silent)
    deadline = time.monotonic() + 240
    while not list((cut / "steps").glob("vae-seed*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (cut / "result.json").exists(), "killed too late to test anything"
    kept = {path.name: path.stat().st_mtime_ns for path in (cut / "steps").glob("*.npz")}
    done = command(config, cold, cut, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert equal(counts(cut), counts(out))
    assert all((cut / "steps" / name).stat().st_mtime_ns == time for name, time in kept.items())
    told = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    rows = [(row["scope"], row["step"], *sorted(set(row) - {"scope", "step", "time"})) for row in told]
    assert len(rows) == len(set(rows))
    assert {row[0] for row in rows} >= {"vae/seed0", "vae/seed1", "vae/maml/5w1s/seed1"}


def test_a_cell_that_fails_is_reported_and_the_others_stand(tmp_path: Path) -> None:
    flag = tmp_path / "there"
    (tmp_path / "broken_extractor.py").write_text(BROKEN.format(flag=str(flag)))
    config, cache, out = tmp_path / "c.yaml", tmp_path / "cache", tmp_path / "run"
    config.write_text(
        "dataset: {kind: glyphs, classes: 60}\nbaseline: pixels\n"
        "extractors: {mine: 'broken_extractor:Mine', pixels: pixels, random: random}\n"
        "learners: {prototypical: prototypical}\nepisodes: {settings: [5w1s, 5w5s], queries: 5, count: 10}\n"
    )
    done = command(config, cache, out, paths=[tmp_path])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "2 of 6 cells failed, first mine with prototypical, 5w1s: " in done.stderr
    assert f"{out / 'report.md'}, and the same command tries these again" in done.stderr
    report = json.loads((out / "report.json").read_text())
    assert sorted((row["extractor"], row["shots"]) for row in report["rows"]) == [
        ("pixels", 1), ("pixels", 5), ("random", 1), ("random", 5)
    ]  # fmt: skip
    assert len(report["comparisons"]) == 2 and len(report["failures"]) == 2
    assert re.search(r"Not measured:\n\n- mine with prototypical, 5w1s: .*there", (out / "report.md").read_text())
    assert not (out / "result.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("episodes-*.npz")}
    flag.touch()
    done = command(config, cache, out, paths=[tmp_path])
    assert done.returncode == 0, done.stderr
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("episodes-*.npz")}
    assert len(after) == 6 and all(after[name] == time for name, time in before.items())
    assert "failures" not in json.loads((out / "report.json").read_text())
    assert "Not measured" not in (out / "report.md").read_text()


def test_a_baseline_that_fails_is_the_error(tmp_path: Path) -> None:
    (tmp_path / "broken_extractor.py").write_text(BROKEN.format(flag=str(tmp_path / "never")))
    config = tmp_path / "c.yaml"
    config.write_text(
        "dataset: {kind: glyphs, classes: 60}\nextractors: {mine: 'broken_extractor:Mine', pixels: pixels}\n"
        "learners: {prototypical: prototypical}\nepisodes: {settings: [5w1s], queries: 5, count: 10}\n"
    )
    done = command(config, tmp_path / "cache", tmp_path / "run", paths=[tmp_path])
    assert done.returncode == 2 and "error: mine with prototypical, 5w1s: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_all_processes_and_can_be_gone_on_from(whole, tmp_path: Path) -> None:
    config, _, out = whole
    cold, cut = tmp_path / "cache", tmp_path / "cut"
    cold.mkdir()
    started = subprocess.Popen(
        words(config, cold, cut, "--jobs", 2), env=environment(cold), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(cut.glob("steps/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 130 and f"interrupted; go on by: metalearn resume {cut}" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):  # none of its processes is left
        while time.monotonic() < deadline:
            os.killpg(started.pid, 0)
            time.sleep(0.1)
    given = [sys.executable, "-m", "metalearn", "resume", str(cut), "--jobs", "2", "--quiet"]
    done = subprocess.run(given, capture_output=True, text=True, env=environment(cold))
    assert done.returncode == 0, done.stderr
    assert counts(cut).keys() == counts(out).keys()


def test_what_cannot_be_shared_is_said(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(TINY)
    done = command(config, tmp_path / "cache", tmp_path / "run", "--jobs", 0)
    assert done.returncode == 2 and "error: jobs 0, memory None: allowed are jobs of 1 or more" in done.stderr


def test_a_large_grid_with_processes_killed_at_random_has_every_row_once(tmp_path: Path) -> None:
    """216 cells; processes are killed now and then, the command too, which is given again until all is done."""
    extractors = {"pixels": "pixels", "random": "random"}
    learners = {f"ridge{i}": f"{{kind: ridge, penalty: {i + 1}}}" for i in range(27)}
    config, cache, out = tmp_path / "grid.yaml", tmp_path / "cache", tmp_path / "run"
    config.write_text(
        "dataset: {kind: glyphs, classes: 60}\npretraining: {model: {trunk: conv, latents: 4}}\n"
        f"extractors: {{{', '.join(f'{name}: {kind}' for name, kind in extractors.items())}}}\n"
        f"learners: {{{', '.join(f'{name}: {kind}' for name, kind in learners.items())}}}\n"
        "episodes: {settings: [5w1s, 5w2s, 3w1s, 3w2s], queries: 3, count: 10}\nseeds: [0, 1]\n"
    )
    cache.mkdir()
    chance, starts = random.Random(0), 0
    for starts in range(1, 30):
        log = (tmp_path / f"log{starts}").open("w")
        started = subprocess.Popen(
            words(config, cache, out, "--jobs", 2), env=environment(cache), stdout=log, stderr=log,
        )  # fmt: skip
        before, kills = len(list(out.glob("steps/*.npz"))), 0
        while started.poll() is None:
            time.sleep(0.05)
            if starts <= 3 and len(list(out.glob("steps/*.npz"))) > before + 15 * (kills + 1):
                kills += 1
                victims = children(started.pid)
                os.kill(chance.choice(victims) if victims and kills < 3 else started.pid, signal.SIGKILL)
        if started.returncode == 0:
            break
    assert starts > 1, "nothing was killed"
    rows = json.loads((out / "report.json").read_text())["rows"]
    keys = [(row["extractor"], row["learner"], row["ways"], row["shots"]) for row in rows]
    assert len(keys) == len(set(keys)) == 216
    assert len(list(out.glob("episodes-*.npz"))) == 216
    whole = tmp_path / "whole"
    done = command(config, cache, whole, "--quiet")
    assert done.returncode == 0, done.stderr
    assert equal(counts(whole), counts(out))


def children(pid: int) -> list[int]:
    """Processes that a process has started and that run Python's own server of steps."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parts = stat.read_text().rpartition(")")[2].split()
            if int(parts[1]) == pid and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
