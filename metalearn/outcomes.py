"""What came of a step of a benchmark, and its file."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Integer

from metalearn.cells import Facts


@dataclass(frozen=True, eq=False)
class Outcome:
    """The seconds that a step cost (of an encoder also those of its pretraining, whenever that was), and how many of
    them were training; of a learner's test the correct counts of every episode, what a row says of them, and the
    fingerprint of the VAE behind them.
    """

    seconds: float
    training: float = 0.0
    facts: Facts | None = None
    correct: Integer[np.ndarray, " episodes"] | None = None
    encoder: str = ""


def save_outcome(stream: BinaryIO, outcome: Outcome) -> None:
    """Write an outcome as .npz: ``row``, JSON text, and ``correct`` int32 where there is any."""
    row = {
        "seconds": outcome.seconds, "training": outcome.training, "facts": outcome.facts and outcome.facts._asdict(),
        "encoder": outcome.encoder,
    }  # fmt: skip
    counts = {} if outcome.correct is None else {"correct": outcome.correct.astype(np.int32)}
    np.savez_compressed(stream, row=np.array(json.dumps(row)), **counts)


def load_outcome(path: Path) -> Outcome | None:
    """Read an outcome; nothing in the file is executed. None if it is missing or damaged: the step is done again."""
    try:
        with np.load(path, allow_pickle=False) as data:
            row = json.loads(str(data["row"]))
            facts = Facts(**row["facts"]) if row["facts"] else None
            correct = data["correct"] if facts else None
            return Outcome(row["seconds"], row["training"], facts, correct, row["encoder"])
    except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile):
        return None
