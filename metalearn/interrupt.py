"""Ctrl-C beside a library that must not be interrupted in the middle of its own work."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_noted() -> Iterator[Callable[[], None]]:
    """Inside, an interrupt waits until what is given here is called, and that raises it; a second one does not wait.

    Ray, interrupted in the middle of its own work, may raise anything, and a process may be left half started.
    """
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    def raise_it() -> None:
        if noted:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone hears of interrupts
        yield raise_it
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield raise_it
    finally:
        signal.signal(signal.SIGINT, before)
