"""What training tells, fanned out to the text record, TensorBoard and the progress display."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from gvae.recorder import Recorder
from metalearn.board import Board, NullBoard
from metalearn.progress import Progress
from metalearn.record import Record


class ScopedRecorder(Recorder):
    """What training tells, to metrics.jsonl, the board and the progress display, under the name `scope`.

    In a continued run the first thing told at step s voids everything that this scope told from s on, as it is
    being told again: nothing stands twice in the record.
    """

    def __init__(self, directory: Path, scope: str, record: Record, show: Progress):
        self.path, self.name = directory, scope
        self._record, self.display = record, show
        self._board: NullBoard | None = None
        self._told = False

    @property
    def board(self) -> NullBoard:
        """This scope's TensorBoard, below ``tensorboard/``, for what is shown once: HParams, the projector."""
        if self._board is None:
            self._board = Board(self.path / "tensorboard" / self.name)
        return self._board

    def _begin(self, step: int) -> NullBoard:
        if not self._told and self._record.drop_from(self.name, step):
            self.close()
            self._board = Board(self.path / "tensorboard" / self.name, purge_step=step)
        self._told = True
        return self.board

    def again(self) -> None:
        """Take that what was told may be told once more, as in a continued run: a step is tried again."""
        self._told = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record named values of `step`."""
        board = self._begin(step)
        self._record.append(self.name, step, values)
        board.scalars(step, values)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record named values of `step`, without curves."""
        self._begin(step)
        self._record.append(self.name, step, values)

    def images(self, step: int, name: str, images: Tensor) -> None:
        """Show images (n, c, h, w) in [0, 1]."""
        self._begin(step).images(step, name, images)

    def text(self, step: int, name: str, text: str) -> None:
        """Show Markdown."""
        self._begin(step).text(step, name, text)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Show a matplotlib figure and close it."""
        self._begin(step).figure(step, name, figure)

    def histogram(self, step: int, name: str, values: Tensor) -> None:
        """Show a distribution."""
        self._begin(step).histogram(step, name, values)

    def progress(self, done: int, total: int, text: str) -> None:
        """Show how far the job `text` is, with the time left."""
        self.display(done, total, f"{self.name}: {text}" if self.name else text)

    def close(self) -> None:
        """Write what the board still holds."""
        if self._board is not None:
            self._board.close()
            self._board = None
