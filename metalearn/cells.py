"""One cell of a benchmark: an extractor with a learner in one episode setting, and its correct counts on disk."""

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from metalearn.errors import UserError

LabelsUsed = Literal["none", "class", "factor", "external"]
Mode = Literal["frozen", "finetuned", "end_to_end"]


class Facts(NamedTuple):
    """What a row says of how its numbers came about: which labels, which weights, which statistics."""

    labels_used: LabelsUsed
    mode: Mode
    transductive: bool
    batch_norm: str
    extractor_settings: str = ""
    feature_dim: int | None = None


@dataclass(frozen=True, eq=False)
class Cell:
    """What was measured and how, and `correct`: right answers of each seed (or the only one) in each episode.

    `dataset` is the dataset with its class split ("omniglot/lake"), `split` the part of it ("test"), `fingerprint`
    that of the part's images. `extractor_seeds` has one entry a row of `correct`, or is empty for an extractor
    without chance. `batch_norm`: "none", "running", "support" or "query_batch" (queries by themselves: transductive).
    `seconds`: wall clock of this cell, all seeds together; `training_seconds`: the part of it that was pretraining and
    meta-training, None for counts of earlier versions, which do not say. `feature_dim`: how many numbers the extractor
    gives an image, None as before. `extractor_settings`: the extractor's own line on what it makes of an image,
    empty where its kind says all. `encoders`: of each row of `correct`, the `tensors_fingerprint` of the VAE whose
    encoder gave the features; none where there is none. Raises `UserError` for counts that fit none of this.
    """

    dataset: str
    split: str
    ways: int
    shots: int
    queries: int
    episode_seed: int
    extractor: str
    extractor_seeds: tuple[int, ...]
    labels_used: LabelsUsed
    learner: str
    mode: Mode
    transductive: bool
    batch_norm: str
    seconds: float
    fingerprint: str
    correct: Integer[np.ndarray, "seeds episodes"]
    extractor_settings: str = ""
    feature_dim: int | None = None
    training_seconds: float | None = None
    encoders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = f"{self.extractor} with {self.learner}, {self.setting}"
        if self.correct.ndim != 2 or len(self.correct) != max(1, len(self.extractor_seeds)):
            raise UserError(
                f"{name}: counts of shape {self.correct.shape}; allowed: (seeds, episodes) with "
                f"{max(1, len(self.extractor_seeds))} seeds"
            )
        if len(self.encoders) not in (0, len(self.correct)):
            raise UserError(f"{name}: {len(self.encoders)} encoders for {len(self.correct)} rows of counts")
        if self.correct.size and not (self.correct.min() >= 0 and self.correct.max() <= self.ways * self.queries):
            raise UserError(f"{name}: counts outside 0 to ways * queries = {self.ways * self.queries}")

    @property
    def setting(self) -> str:
        """``5w1s``."""
        return f"{self.ways}w{self.shots}s"

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int(self.correct.shape[1])

    @property
    def slug(self) -> str:
        """Name for a file, a function of what the cell is, not of what came out."""
        return slug(self.dataset, self.split, self.setting, self.extractor, self.learner)

    @property
    def pairing(self) -> tuple[str, int, int, int, int]:
        """What must be equal for episode i of two cells to be the same episode."""
        return self.fingerprint, self.ways, self.shots, self.queries, self.episode_seed

    def accuracy(self) -> Float[np.ndarray, "seeds episodes"]:
        """Accuracies, fractions."""
        return self.correct / float(self.ways * self.queries)


def slug(*parts: str) -> str:
    """`parts` as one file name (``/`` as ``+``); where letters had to go, a hash keeps different names different."""
    text = "-".join(re.sub(r"[^A-Za-z0-9._+]+", "_", part.replace("/", "+")) for part in parts)
    exact = all(re.fullmatch(r"[A-Za-z0-9._/]+", part) for part in parts)
    return text if exact else f"{text}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def save_cell(stream: BinaryIO, cell: Cell) -> None:
    """Write `cell` as .npz: `correct` int32 (seeds, episodes) and `row`, JSON text of all else."""
    np.savez_compressed(stream, correct=cell.correct.astype(np.int32), row=np.array(json.dumps(_metadata(cell))))


def load_cell(path: Path) -> Cell:
    """Read the cell in `path`; nothing in it is executed. Raises `UserError` if it is damaged or no cell."""
    try:
        with np.load(path, allow_pickle=False) as data:
            row: dict[str, Any] = json.loads(str(data["row"]))
            row["extractor_seeds"] = tuple(row["extractor_seeds"])
            row["encoders"] = tuple(row.get("encoders", ()))  # counts of earlier versions do not say
            return Cell(**row, correct=data["correct"])
    except FileNotFoundError:
        raise
    except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or holds no episode counts: {error}; run the benchmark again") from None


def _metadata(cell: Cell) -> dict[str, Any]:
    return {field.name: getattr(cell, field.name) for field in fields(cell) if field.name != "correct"}


def row_of(cell: Cell) -> dict[str, Any]:
    """Keys of report.json that `cell` itself knows; all but counts, fingerprint and encoders."""
    row = _metadata(cell)
    del row["fingerprint"], row["encoders"]
    return {**row, "extractor_seeds": list(cell.extractor_seeds), "episodes": cell.episodes}
