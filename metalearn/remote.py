"""What steps tell in a process of their own, brought to the one that owns the run."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gvae.recorder import Recorder
from metalearn.pool import Tell

Scopes = Callable[[str], Recorder]


class RemoteRecorder(Recorder):
    """Sends on what it receives, for the recorder of a scope; tensors as arrays."""

    def __init__(self, scope: str, tell: Tell):
        self.scope, self._tell = scope, tell

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers at a step."""
        self._send("scalars", step, dict(values))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Take named numbers at a step that are too many for a curve each."""
        self._send("numbers", step, dict(values))

    def images(self, step: int, name: str, images: Tensor) -> None:
        """Take a grid or batch of images (n, c, h, w) in [0, 1]."""
        self._send("images", step, name, images)

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text in Markdown."""
        self._send("text", step, name, text)

    def histogram(self, step: int, name: str, values: Tensor) -> None:
        """Take a set of numbers (n,)."""
        self._send("histogram", step, name, values)

    def progress(self, done: int, total: int, text: str) -> None:
        """Take how far the work is."""
        self._send("progress", done, total, text)

    def _send(self, method: str, *arguments: Any) -> None:
        plain = [one.detach().cpu().numpy() if isinstance(one, Tensor) else one for one in arguments]
        self._tell(self.scope, (method, *plain))


def hear(scopes: Scopes, scope: str, told: tuple[Any, ...]) -> None:
    """Give the recorder of a scope what was sent for it."""
    method, *plain = told
    arguments = [torch.from_numpy(one) if isinstance(one, np.ndarray) else one for one in plain]
    getattr(scopes(scope), method)(*arguments)
