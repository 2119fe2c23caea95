"""Stack, memo and bounded reading of a pickle: what its opcodes work on, none of it trusted."""

import io
import struct
from collections.abc import Callable
from typing import Any

from tasks.pickled_arrays import Name, Refused, Unset

LARGE = 1 << 20  # bytes of a string from which on it is mapped, not read
MOST_STEPS = 20_000_000  # 1.3 million images, each with path, label and tuple, take 10 million; 5 GB of sets at worst
_LARGEST_NUMBER = 255  # bytes
_LARGEST_SLOT = 1 << 32  # of the memo; numbers without bounds can be chosen so that their hashes collide
_CHECKED_AT_ONCE = 1 << 16  # bytes that may be allocated before it is known whether they are there
_STRINGS = (str, bytes, bytearray, memoryview)
_CONTAINERS = (list, tuple, set)


class Machine:
    """State of one pickle that is being read from a file of ``size`` bytes.

    ``stack`` begins at the last mark; ``marked`` holds the stacks below it. Methods raise Refused for what data does
    not need, EOFError for a cut file, and IndexError, TypeError or ValueError for damaged ones. ``mapped``: the same
    file, mapped into memory.
    """

    def __init__(self, file: io.BufferedIOBase, size: int, mapped: memoryview | None = None) -> None:
        self.file, self.size, self.mapped = file, size, mapped
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._copied = self._moved = 0

    def take(self, count: int) -> bytes:
        """Read so many bytes; none is allocated that is not there."""
        if count < 0:
            raise ValueError(f"a length of {count}")
        if count > _CHECKED_AT_ONCE:
            self.claim(count)
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError(f"{count:,} bytes are claimed, {len(data):,} are left")
        return data

    def claim(self, count: int) -> None:
        """Compare a length with what is left of the file."""
        left = self.size - self.file.tell()
        if count > left:
            raise EOFError(f"{count:,} bytes are claimed, {left:,} are left")

    def number(self, form: str) -> Any:
        """Read a number of struct's form."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def counted(self, form: str) -> bytes:
        """Read bytes led by their number."""
        return self.take(self.number(form))

    def string(self, form: str, plain: Callable[[bytes], Any] = bytes) -> Any:
        """Read bytes led by their number, and make ``plain`` of them; LARGE ones of a mapped file come as its view."""
        count = self.number(form)
        if self.mapped is None or count < LARGE:
            return plain(self.take(count))
        self.claim(count)
        end = self.file.seek(count, io.SEEK_CUR)
        return self.mapped[end - count : end]

    def line(self) -> bytes:
        """Read up to a line's end, which is left out."""
        line = self.file.readline()
        if line[-1:] != b"\n":
            raise EOFError("a line has no end")
        return line[:-1]

    def whole(self) -> int:
        """Read a line that is a whole number, perhaps with Python 2's L behind it."""
        return self.parsed(self.line().removesuffix(b"L"))

    def parsed(self, text: bytes) -> int:
        """Turn decimal digits into a number."""
        if len(text) > 3 * _LARGEST_NUMBER:  # decimal digits take quadratic time
            raise Refused(f"holds a number of {len(text):,} digits; no data has one")
        return int(text)

    def long(self, form: str) -> int:
        """Read a whole number led by its number of bytes."""
        count = self.number(form)
        if count > _LARGEST_NUMBER:
            raise Refused(f"holds a number of {count:,} bytes; no data has one")
        return int.from_bytes(self.take(count), "little", signed=True)

    def push(self, item: Any) -> None:
        """Put something onto the stack."""
        self.stack.append(item)

    def pop(self) -> Any:
        """Take the topmost thing above the last mark."""
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        """Take the topmost ``count`` things above the last mark."""
        if len(self.stack) < count:
            raise IndexError("the stack is too short")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def top(self, kind: type) -> Any:
        """Look at the topmost thing, which must be of exactly this type."""
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"a {type(self.stack[-1]).__name__} in place of a {kind.__name__}")
        return self.stack[-1]

    def mark(self) -> None:
        """Begin a new stack above this one."""
        self.marked.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """Take all above the last mark, and the mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def put(self, slot: int) -> None:
        """Remember the topmost thing."""
        if not 0 <= slot < _LARGEST_SLOT:
            raise Refused("numbers what it remembers as no pickle does; it is damaged")
        self.memo[slot] = self.stack[-1]
        if isinstance(self.stack[-1], Unset):
            self.stack[-1].slots.append(slot)

    def call(self) -> None:
        """Call the name below the topmost arguments."""
        name, arguments = self.pop_many(2)
        if type(name) is not Name or name.call is None or type(arguments) is not tuple:
            shown = name.full if type(name) is Name else f"a {type(name).__name__}"
            raise Refused(f"calls {shown}, which is not to be called; nothing was executed")
        self._pay(arguments)
        self.push(name.call(*arguments))

    def build(self) -> None:
        """Give the array or dtype below the topmost state this state, here and in the memo."""
        unset, state = self.pop_many(2)
        if type(unset) is not Unset:
            raise Refused(f"sets the state of a {type(unset).__name__}; only arrays have one: nothing was executed")
        self._pay(state)
        built = unset.build(state)
        for slot in unset.slots:
            if self.memo[slot] is unset:
                self.memo[slot] = built
        self.push(built)

    def _pay(self, arguments: Any) -> None:
        """Count what a call may copy: data is copied at most twice, bombs copy the same thing again and again."""
        if type(arguments) is tuple:
            self._copied += sum(len(a) for a in arguments if type(a) in _STRINGS)
            self._moved += sum(len(a) for a in arguments if type(a) in _CONTAINERS)
        if self._copied > 2 * self.size or self._moved > MOST_STEPS:
            raise Refused("copies what it holds again and again; refused as a bomb")
