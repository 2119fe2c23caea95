"""The benchmark: extractors x learners x episode settings x seeds, the same episodes for all, one paired report."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from metalearn.augmentation import build_augment
from metalearn.cells import Cell, slug
from metalearn.connect import connected, refuse_address
from metalearn.data import build_dataset
from metalearn.errors import UserError
from metalearn.evaluate import located
from metalearn.graph import Failure, Graph, in_turn
from metalearn.grid import Entry, entries_of, kept_outcomes
from metalearn.learners import learner_class, make_learner
from metalearn.meta import refuse_untrainable
from metalearn.outcomes import Outcome
from metalearn.pool import Limits, Pool, Tell
from metalearn.prepare import before_training, gives_posterior, refuse_known_leak
from metalearn.remote import RemoteRecorder, hear
from metalearn.report import Report, build_report
from metalearn.run import Run
from metalearn.schema import BenchConfig, Kind
from metalearn.shown import show_extractor, show_hparams
from metalearn.stats import mean_interval
from metalearn.steps import Step, Steps, alike, budget_of
from metalearn.testing import Cost, Tested, make_cell
from metalearn.watch import Watch
from tasks.splits import Dataset


def bench(
    config: BenchConfig, run: Run, *, data_root: Path, device: str, jobs: int = 1, memory: float | None = None,
    ray: str | None = None,
) -> Report:  # fmt: skip
    """Carry out a benchmark into ``run``: every step once, then the report, HParams and the projector.

    Steps and cells that an earlier start left are read, not made again. ``jobs``, ``memory``: how many processes work
    at once, and the GB that they may take; see `metalearn.pool.Limits`. ``ray``: address of a Ray cluster whose nodes
    do the steps, as many at once as there is room for, each with the threads that ``jobs`` gives it here. A step that
    fails takes with it the cells that need it; the others are measured and reported, and the run can be gone on with.
    Raises UserError then, and before any work what would fail later; DataError or ModelError.
    """
    limits = Limits(jobs, memory)
    if ray is not None:
        refuse_address(ray)
        if memory is not None:
            raise UserError("--memory is for processes on this machine, and --ray has none here; omit one of them")
    dataset = build_dataset(config.dataset, data_root, run.report)
    tested = Tested(dataset, config.episodes, device, run.progress)
    check_settings(config, dataset, tested)
    entries = [entry for entry in entries_of(config) if run.cell(entry.slug(tested)) is None]
    for name in dict.fromkeys(entry.extractor for entry in entries):
        refuse_known_leak(name, config.extractors[name], tested.partition)
    outcomes = kept_outcomes(run, entries)
    here = Steps(config, dataset, device, run.path, run.scope, run.progress)
    make = partial(remote_steps, config, data_root, device, run.path)
    graph: Graph[Step] = Graph([step for entry in entries for step in entry.needed()], outcomes)
    run.checkpoints.mkdir(exist_ok=True)
    watch = Watch(graph, partial(alike, config), entries, len(entries_of(config)) - len(entries))
    for entry in entries:  # all steps of which an earlier start did, and no more
        write_cell(run, tested, entry, outcomes, watch)
    with limits.threaded():
        with run.display.following(watch):
            for step, outcome in carried_out(graph, here, make, limits, run, watch, ray, data_root):
                watch.ended(step, outcome)
                if isinstance(outcome, Outcome):
                    run.write_outcome(slug(*step.name.split("/")), outcome)
                for entry in entries:
                    if step in entry.steps:
                        write_cell(run, tested, entry, graph.outcomes, watch)
        cells = {entry: run.cell(entry.slug(tested)) for entry in entries_of(config)}
        failed = {entry: why for entry in entries if (why := entry.failure(graph.outcomes))}
        return concluded(config, run, here, cells, failed)


def carried_out(
    graph: Graph[Step], here: Steps, make: Callable[[Tell], Any], limits: Limits, run: Run, watch: Watch,
    ray: str | None, root: Path,
) -> Iterator[tuple[Step, Outcome | Failure]]:  # fmt: skip
    """Do all steps; show how far they are."""
    def show(busy: Sequence[Step]) -> None:
        watch.show(busy)
        run.display.steps(watch)

    def tell(step: Step, scope: str, told: tuple[Any, ...]) -> None:
        if told[0] == "progress":
            watch.told(step, *told[1:])
        else:
            hear(run.scope, scope, told)

    if ray is not None and graph.waiting:
        with connected(ray):
            from metalearn.cluster import Cluster, job_of

            yield from Cluster(graph, job_of(here, root), here, tell, show).carried_out()
    elif limits.jobs == 1:
        yield from in_turn(graph, here, show)
    else:
        yield from Pool(graph, make, limits, tell, show).carried_out()


def remote_steps(config: BenchConfig, data_root: Path, device: str, folder: Path, tell: Tell) -> Steps:
    """What does steps in another process."""
    def progress(done: int, total: int, text: str) -> None:
        tell("", ("progress", done, total, text))

    dataset = build_dataset(config.dataset, data_root, lambda what, done, total: progress(done, total, what))
    return Steps(config, dataset, device, folder, partial(RemoteRecorder, tell=tell), progress)


def write_cell(
    run: Run, tested: Tested, entry: Entry, outcomes: Mapping[Step, Outcome | Failure], watch: Watch
) -> None:
    """Write a cell when every seed of it was counted; say so."""
    counted = [one for step in entry.steps if isinstance(one := outcomes.get(step), Outcome)]
    if len(counted) < len(entry.steps):
        return
    needed = [outcomes[need] for step in entry.steps for need in step.needs]
    took = [one for one in [*counted, *needed] if isinstance(one, Outcome)]
    cost = Cost(sum(one.seconds for one in took), sum(one.training for one in took))
    facts, correct = counted[0].facts, [one.correct for one in counted if one.correct is not None]
    assert facts is not None  # of a count
    cell = make_cell(
        tested, entry.setting, entry.extractor, entry.seeds, entry.learner, facts, np.stack(correct), cost,
        [one.encoder for one in counted],
    )  # fmt: skip
    run.write_cell(cell)
    estimate = mean_interval(cell.accuracy())
    watch.measured(entry.name, float(estimate.mean), float(estimate.half_width))


def concluded(
    config: BenchConfig, run: Run, here: Steps, cells: Mapping[Entry, Cell | None], failed: Mapping[Entry, Failure]
) -> Report:
    """Report what there is; finish the run if that is everything. Raises UserError if it is not."""
    measured = [cell for cell in cells.values() if cell is not None]
    failures = [f"{entry.name}: {why.message}" for entry, why in failed.items()]
    more = f" (and {len(failures) - 1} more cells)" if len(failures) > 1 else ""
    if not any(cell.extractor == config.baseline for cell in measured):
        raise UserError(f"{failures[0]}{more}")
    report = build_report(measured, config.baseline)
    run.write_report(report, failures)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(cells)} cells failed, first {failures[0]}; the others are in "
            f"{run.path / 'report.md'}, and the same command tries these again"
        )
    for name, kind in config.extractors.items():
        for learner_name, learner in config.learners.items():
            mine = [cell for entry, cell in cells.items() if (entry.extractor, entry.learner) == (name, learner_name)]
            show_hparams(run, name, kind, learner_name, learner, [cell for cell in mine if cell is not None])
        show_extractor(here, run, name, config.seeds[0])
    run.finish({"cells": len(measured), "comparisons": len(report.comparisons)})
    return report


def check_settings(config: BenchConfig, dataset: Dataset, tested: Tested) -> None:
    """Refuse before any work what would fail after hours: impossible episodes, learners, augmentation."""
    for training in (config.pretraining.training, config.meta_training):
        if training is not None:
            build_augment(training.augmentation, dataset.train.image_shape[0])
    for setting in config.episodes.settings:
        tested.sampler(setting)
    trained = {name: kind for name, kind in config.learners.items() if learner_class(kind.kind).meta_trained}
    for name, kind in config.learners.items():
        if name not in trained:
            make_learner(kind.kind, **kind.options)
            refuse_without_posterior(name, kind, config)
        elif config.meta_training is None:
            raise UserError(
                f"learners.{name}: {kind.kind!r} is meta-trained; add a meta_training section to the config"
            )
    for one, extractor in config.extractors.items() if trained else ():
        untrained = before_training(
            extractor, config.seeds[0], dataset=dataset, pretraining=config.pretraining
        )
        for name, kind in trained.items():
            budget = budget_of(config, config.episodes.settings[0])
            with located(f"learners.{name} on extractors.{one}"):
                refuse_untrainable(kind, copy.deepcopy(untrained), budget, dataset, config.seeds[0])


def refuse_without_posterior(name: str, learner: Kind, config: BenchConfig) -> None:
    """Refuse a learner that pools over sets where an extractor has no posterior of a set."""
    wrong = [one for one, kind in config.extractors.items() if not gives_posterior(kind)]
    if wrong and learner_class(learner.kind).reads == "instances":
        raise UserError(
            f"learners.{name}: {learner.kind!r} compares posteriors of sets of images, and extractors.{wrong[0]} has "
            "none; allowed: extractors of kind pretrain, checkpoint or random; give it a benchmark of its own"
        )
