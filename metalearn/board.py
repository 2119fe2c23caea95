"""The TensorBoard view of a run; the only module that knows TensorBoard. The record itself is metrics.jsonl."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter  # this is what imports tensorboard
from torch.utils.tensorboard.summary import hparams as session_summaries

PROJECTOR_POINTS = 2000


class NullBoard:
    """A board that shows nothing; also the interface."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One curve a name."""

    def images(self, step: int, name: str, images: Float[Tensor, "n c h w"]) -> None:
        """Grid of images in [0, 1]; one or three channels."""

    def text(self, step: int, name: str, text: str) -> None:
        """Text, read as Markdown."""

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Matplotlib figure, closed afterwards."""

    def histogram(self, step: int, name: str, values: Float[Tensor, "..."]) -> None:
        """Distribution of values."""

    def hparams(self, name: str, settings: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """One line `name` of the HParams tab: its settings and what they led to."""

    def embedding(
        self,
        name: str,
        features: Float[Tensor, "n d"],
        images: Float[Tensor, "n c h w"] | None,
        labels: Sequence[str],
        step: int = 0,
    ) -> None:
        """Points of the projector, with thumbnails in [0, 1] and labels; evenly thinned to `PROJECTOR_POINTS`."""

    def close(self) -> None:
        """Write what is still to be written."""


class Board(NullBoard):
    """Event files in the directory `path`. `purge_step`: of earlier events there, those from this step on are void."""

    def __init__(self, path: Path, purge_step: int | None = None):
        self._writer = SummaryWriter(str(path), purge_step=purge_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One curve a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, images: Float[Tensor, "n c h w"]) -> None:
        """Grid of images in [0, 1]; one or three channels."""
        self._writer.add_images(name, images.detach().float().clamp(0, 1).cpu(), step)

    def text(self, step: int, name: str, text: str) -> None:
        """Text, read as Markdown."""
        self._writer.add_text(name, text, step)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Matplotlib figure, closed afterwards."""
        self._writer.add_figure(name, figure, step)

    def histogram(self, step: int, name: str, values: Float[Tensor, "..."]) -> None:
        """Distribution of values."""
        self._writer.add_histogram(name, values.detach().cpu(), step)

    def hparams(self, name: str, settings: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """One line of the HParams tab: settings and what they led to; a run `name`, below which no other may be."""
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
        }
        _, begun, ended = session_summaries(plain, dict(metrics))  # without the first: its columns would hide others'
        with SummaryWriter(str(Path(self._writer.log_dir) / name)) as line:
            for summary in (begun, ended):
                line.file_writer.add_summary(summary)
            for metric, value in metrics.items():
                line.add_scalar(metric, value, 0)

    def embedding(
        self,
        name: str,
        features: Float[Tensor, "n d"],
        images: Float[Tensor, "n c h w"] | None,
        labels: Sequence[str],
        step: int = 0,
    ) -> None:
        """Points of the projector, with thumbnails in [0, 1] and labels; evenly thinned to `PROJECTOR_POINTS`."""
        count = min(len(features), PROJECTOR_POINTS)
        chosen = np.linspace(0, len(features) - 1, count).round().astype(int)
        shutil.rmtree(Path(self._writer.log_dir) / f"{step:05}" / name, ignore_errors=True)  # of an earlier start
        self._writer.add_embedding(
            features.detach().float().cpu()[chosen],
            metadata=[labels[index] for index in chosen],
            label_img=None if images is None else images.detach().float().cpu()[chosen],
            global_step=step,
            tag=name,
        )

    def close(self) -> None:
        """Write what is still to be written."""
        self._writer.close()
