"""What a training loop tells the outside: a null object, so that loops never ask whether anyone listens."""

from collections.abc import Mapping

from torch import Tensor


class Recorder:
    """Receives what a loop reports and drops it; a run's recorder overrides what it keeps."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers at a step."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers at a step that are too many for a curve each: for the record, not to be shown."""

    def images(self, step: int, name: str, images: Tensor) -> None:
        """Take a grid or batch of images (n, c, h, w) in [0, 1]."""

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text in Markdown."""

    def histogram(self, step: int, name: str, values: Tensor) -> None:
        """Take a set of numbers (n,)."""

    def progress(self, done: int, total: int, text: str) -> None:
        """Take how far the work is."""
