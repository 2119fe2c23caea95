"""Pickles of arrays and plain containers, read without executing anything that is in them.

This is an interpreter of the pickle opcodes that data needs, and not a subclass of ``pickle.Unpickler``: that one
sets states on real numpy objects, which trust them, allocates a memo of the size that the file names, and ends the
process when it hashes a deeply nested tuple, none of which ``find_class`` can prevent.
"""

import io
import mmap
from typing import Any

import numpy as np

from tasks.errors import DataError
from tasks.pickle_machine import LARGE, MOST_STEPS
from tasks.pickle_opcodes import interpret
from tasks.pickled_arrays import Name, Refused, Unmapped, Unset
from tasks.sniff import HEAD, kind

_DEEPEST = 100
_PLAIN = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None), np.ndarray})


def load(file: io.BufferedIOBase, where: str) -> Any:
    """Read a pickle that holds numpy arrays, lists, tuples, dicts, sets, text, bytes and numbers only.

    ``where`` leads every message. Text of Python 2 is read as latin-1, so that its arrays survive. Ordered and default
    dicts come as dicts. Keys and members of sets are text, bytes or numbers of 64 bits. What follows the first pickle
    is not read.

    Arrays are read-only views. Those of 1 MiB or more lie in the file itself, mapped into memory, if ``file`` is a
    file on disk (not a member of an archive): they take no memory that the system cannot take back, they may be
    unaligned, and the file must not be changed or cut while they live. Arrays of booleans and of text are copied, and
    so are those that Python 3 wrote by protocol 2 or lower, which holds them as text, and by Python 2's protocol 0.

    Raises DataError, saying what the file is, for an HTML page, a cut file, one that is no pickle and one that names
    anything else.
    """
    start = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    head = file.read(HEAD)
    found = kind(head)
    is_text = found.what.startswith("a text")  # so are pickles of protocol 0
    if found.known and found.what != "a pickle" and not is_text:
        raise DataError(f"{where} is {found.what}, expected a pickle: {found.fix}")
    hint = f" (it is {found.what})" if is_text else ""
    try:
        return _read(file, start, size)
    except DataError:
        raise
    except EOFError as error:
        raise DataError(
            f"{where} is a pickle cut off after {size - start:,} bytes ({error}){hint}; fetch it again"
        ) from error
    except Refused as refused:
        raise DataError(f"{where} {refused}{hint}") from refused
    except MemoryError as error:
        raise DataError(f"{where} needs more memory than there is; close other programs, or fetch it again") from error
    except Exception as error:  # whatever the opcodes do to each other; none of it was executed
        raise DataError(
            f"{where} is no intact pickle ({type(error).__name__}: {str(error)[:200]}, at byte {file.tell():,} of "
            f"{size:,}){hint}; fetch it again"
        ) from error


def _read(file: io.BufferedIOBase, start: int, size: int) -> Any:
    file.seek(start)
    try:
        return _finished(interpret(file, size, _map(file, size)))
    except Unmapped:  # a large string is not only an array's data: then all are read into memory
        file.seek(start)
        return _finished(interpret(file, size))


def _map(file: io.BufferedIOBase, size: int) -> memoryview | None:
    """Map a file on disk into memory, None for every other."""
    raw = getattr(file, "raw", file)
    if size < LARGE or not isinstance(raw, io.FileIO):  # gzip and its like have a fileno too, of other bytes
        return None
    try:
        return memoryview(mmap.mmap(raw.fileno(), size, access=mmap.ACCESS_READ))
    except (OSError, ValueError):  # some file systems cannot; ValueError: it is shorter by now
        return None


def _finished(result: Any) -> Any:
    _measure(result, {})
    return result


def _measure(item: Any, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Levels of containers in ``item``, and things in them, what is in several places counted in each.

    Raises Refused for what is not finished data, nested without end, or more than any code can walk through.
    """
    if type(item) in _PLAIN or isinstance(item, np.generic | np.dtype):
        return 0, 1
    if isinstance(item, memoryview):
        raise Unmapped
    if isinstance(item, Name | Unset):
        raise Refused("holds a name, or an array without its data, where data belongs; it is damaged")
    if depth < _DEEPEST and id(item) not in known:
        known[id(item)] = _DEEPEST, 0  # so high that one in itself is too high
        height, count = 0, len(item)
        for child in item.values() if isinstance(item, dict) else item:
            if type(child) not in _PLAIN:
                levels, things = _measure(child, known, depth + 1)
                height, count = max(height, levels), count + things
        known[id(item)] = 1 + height, count
    height, count = known.get(id(item), (1, 0))
    if depth + height > _DEEPEST:
        raise Refused(f"nests containers in themselves or more than {_DEEPEST} deep; no data does")
    if count > MOST_STEPS:
        raise Refused("holds the same containers again and again; refused as a bomb")
    return height, count
