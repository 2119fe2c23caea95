"""Episodes that a dataset prescribes, in place of drawn ones."""

from collections.abc import Sequence

import numpy as np

from tasks.episodes import EpisodeIndices, EpisodeSampler, episode_numbers
from tasks.errors import DataError


class FixedEpisodes(EpisodeSampler):
    """A sampler whose episodes are given: ``len(self)`` of them, their ways, shots and queries those of the indices."""

    def __init__(self, episodes: EpisodeIndices):
        self._episodes, self._numbers = episodes, range(len(episodes.classes))
        _, self.ways, self.shots = episodes.support.shape
        self.queries, self.seed = episodes.query.shape[2], 0

    def __len__(self) -> int:
        return len(self._numbers)

    def of_each(self, size: int, part: range) -> "FixedEpisodes":
        """The episodes whose number leaves a remainder in ``part`` when divided by ``size``, numbered anew from 0."""
        chosen = [number for number in range(len(self)) if number % size in part]
        return FixedEpisodes(self._taken(chosen))

    def __getitem__(self, index: int | np.integer | slice) -> EpisodeIndices:
        """Episode ``index``, or the episodes of a slice. Raises DataError for one that there is not."""
        numbers = episode_numbers(index).tolist()
        if numbers and max(numbers) >= len(self):
            raise DataError(f"episode {max(numbers)}: the dataset prescribes {len(self)}, 0 to {len(self) - 1}")
        return self._taken(numbers)

    def _taken(self, numbers: Sequence[int]) -> EpisodeIndices:
        at, these = np.array(numbers, np.int64), self._episodes
        return EpisodeIndices(these.support[at], these.query[at], these.classes[at])
