"""A small terminal for tests: runs a command on a real pseudo-terminal and keeps what its screen shows."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

_CODE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """Lines of a terminal of some size, as the few codes that rich writes change them; any other code is refused.

    ``wrapped``: lines that were longer than the screen is wide. ``scrolled``: lines that left at the top.
    """

    def __init__(self, columns: int, rows: int):
        self.columns, self.rows = columns, rows
        self.lines = [""]
        self.row = self.column = 0
        self.cursor = True
        self.wrapped: list[str] = []
        self.scrolled: list[str] = []
        self._rest = ""

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()

    def feed(self, text: str) -> None:
        """Take what is written."""
        text, self._rest = self._rest + text, ""
        while text:
            code = _CODE.match(text)
            if code:
                self._obey(*code.groups())
                text = text[code.end() :]
            elif text[0] == "\x1b" and len(text) < 12 and not re.search(r"[A-Za-z]", text):
                self._rest, text = text, ""  # the rest of it comes later
            else:
                self._put(text[0])
                text = text[1:]

    def _obey(self, private: str, number: str, letter: str) -> None:
        if letter == "A":
            assert self.row >= int(number or 1), "above the top: what scrolled away cannot be taken back"
            self.row -= int(number or 1)
        elif letter == "K":
            assert number == "2"
            self.lines[self.row] = ""
        elif private and number == "25":
            self.cursor = letter == "h"
        else:
            assert letter == "m", (private, number, letter)

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self._down()
        else:
            assert letter.isprintable(), repr(letter)
            if self.column == self.columns:
                self.wrapped.append(self.lines[self.row])
                self.column = 0
                self._down()
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")
        if len(self.lines) > self.rows:
            self.scrolled.append(self.lines.pop(0))
            self.row -= 1


def on_terminal(
    words: Sequence[str], screen: Screen, environment: Mapping[str, str], see: Callable[[Screen], bytes | None],
    seconds: float = 300,
) -> tuple[int, str]:
    """Run a command whose stderr and keyboard are a terminal; give its exit status and its stdout.

    ``see`` is shown the screen whenever it changed, and may give what is typed then.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", screen.rows, screen.columns, 0, 0))
    process = subprocess.Popen(
        list(words), stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True, start_new_session=True,
        env={**environment, "TERM": "xterm-256color"}, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    deadline = time.monotonic() + seconds
    try:
        while _read(ours, screen):
            assert time.monotonic() < deadline, str(screen)
            if (typed := see(screen)) is not None:
                os.write(ours, typed)
        out = process.stdout.read() if process.stdout else ""
        return process.wait(), out
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int, screen: Screen) -> bool:
    """Take what the terminal has within a second; tell whether a process still holds it."""
    if not select.select([terminal], [], [], 1.0)[0]:
        return True
    try:
        written = os.read(terminal, 1 << 16)
    except OSError:  # Linux: the other end is closed
        return False
    screen.feed(written.decode(errors="replace"))
    return bool(written)
