"""The grid of a benchmark: its cells, the steps that each is made of, and what is known of them from earlier starts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metalearn.cells import slug
from metalearn.graph import Failure
from metalearn.learners import learner_class
from metalearn.outcomes import Outcome
from metalearn.prepare import depends_on_seed
from metalearn.run import Run
from metalearn.schema import BenchConfig, EpisodeSetting, Kind
from metalearn.steps import CountStep, Step
from metalearn.testing import Tested


@dataclass(frozen=True)
class Entry:
    """A cell to be: an extractor with a learner in a setting, of ``seeds`` (none where there is no chance).

    Two entries of equal extractors and learners under different names are made of the same steps.
    """

    extractor: str
    learner: str
    setting: EpisodeSetting
    seeds: tuple[int, ...]
    steps: tuple[CountStep, ...]

    @property
    def name(self) -> str:
        """Words for it."""
        return f"{self.extractor} with {self.learner}, {self.setting}"

    def slug(self, tested: Tested) -> str:
        """The name of the cell's file."""
        return slug(tested.dataset.label, tested.partition.name, str(self.setting), self.extractor, self.learner)

    def needed(self) -> Iterator[Step]:
        """Its steps, each after what it needs."""
        for step in self.steps:
            yield from step.needs
            yield step

    def failure(self, outcomes: Mapping[Step, Outcome | Failure]) -> Failure | None:
        """Why it was not measured, None if it was."""
        found = (outcomes.get(step) for step in self.steps)
        return next((one for one in found if isinstance(one, Failure)), None)


def entries_of(config: BenchConfig) -> list[Entry]:
    """All cells of a benchmark, in the order of its report."""
    extractor, learner = first_of(config.extractors), first_of(config.learners)
    return [
        Entry(name, head, setting, seeds, tuple(
            CountStep(extractor[name], learner[head], setting, seed) for seed in seeds or config.seeds[:1]
        ))
        for name, kind in config.extractors.items()
        for head, head_kind in config.learners.items()
        for seeds in [tuple(config.seeds) if has_chance(kind, head_kind) else ()]
        for setting in config.episodes.settings
    ]  # fmt: skip


def first_of(kinds: Mapping[str, Kind]) -> dict[str, str]:
    """Of each name the first one that means the same."""
    texts = {name: json.dumps(kind.model_dump(mode="json"), sort_keys=True) for name, kind in kinds.items()}
    first: dict[str, str] = {}
    for name, text in texts.items():
        first.setdefault(text, name)
    return {name: first[text] for name, text in texts.items()}


def has_chance(extractor: Kind, learner: Kind) -> bool:
    """Whether another seed gives other counts: of the extractor's training, or of the learner's."""
    return learner_class(learner.kind).meta_trained or depends_on_seed(extractor)


def kept_outcomes(run: Run, entries: Sequence[Entry]) -> dict[Step, Outcome]:
    """What earlier starts left of the steps of these cells."""
    steps = dict.fromkeys(step for entry in entries for step in entry.needed())
    kept = {step: run.outcome(slug(*step.name.split("/"))) for step in steps}
    return {step: outcome for step, outcome in kept.items() if outcome is not None}
