"""Pickles of arrays and plain containers, read without executing anything that is in them.

This is an interpreter of the pickle opcodes that data needs, and not a subclass of ``pickle.Unpickler``: that one
sets states on real numpy objects, which trust them, allocates a memo of the size that the file names, and ends the
process when it hashes a deeply nested tuple, none of which ``find_class`` can prevent.
"""

from typing import Any, BinaryIO

import numpy as np

from tasks.errors import DataError
from tasks.pickle_opcodes import interpret
from tasks.pickled_arrays import Name, Refused, Unset
from tasks.sniff import HEAD, kind

_DEEPEST = 100
_SCALARS = (str, bytes, bytearray, int, float, complex, bool, type(None), np.ndarray, np.dtype)


def load(file: BinaryIO, where: str) -> Any:
    """Read a pickle that holds numpy arrays, lists, tuples, dicts, sets, text, bytes and numbers only.

    ``where`` leads every message. Text of Python 2 is read as latin-1, so that its arrays survive. Ordered and default
    dicts come as dicts. Arrays are views of the bytes read, most of them read-only. Keys and members of sets are text,
    bytes or numbers of 64 bits. What follows the first pickle is not read. Raises DataError, saying what the file is,
    for an HTML page, a cut file, one that is no pickle and one that names anything else.
    """
    start = file.tell()
    size = file.seek(0, 2)
    file.seek(start)
    head = file.read(HEAD)
    found = kind(head)
    is_text = found.what.startswith("a text")  # so are pickles of protocol 0
    if found.known and found.what != "a pickle" and not is_text:
        raise DataError(f"{where} is {found.what}, expected a pickle: {found.fix}")
    file.seek(start)
    hint = f" (it is {found.what})" if is_text else ""
    try:
        result = interpret(file, size)
        _height(result, {})
        return result
    except DataError:
        raise
    except EOFError as error:
        raise DataError(
            f"{where} is a pickle cut off after {size - start:,} bytes ({error}); fetch it again"
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


def _height(item: Any, known: dict[int, int], depth: int = 0) -> int:
    """Levels of containers in ``item``. Raises Refused for what is not finished data, or nested without end."""
    if isinstance(item, (*_SCALARS, np.generic)):
        return 0
    if isinstance(item, Name | Unset):
        raise Refused("holds a name, or an array without its data, where data belongs; it is damaged")
    if depth < _DEEPEST and id(item) not in known:
        known[id(item)] = _DEEPEST  # so high that one in itself is too high
        children = item.values() if isinstance(item, dict) else item
        known[id(item)] = 1 + max((_height(child, known, depth + 1) for child in children), default=0)
    if depth + known.get(id(item), 1) > _DEEPEST:
        raise Refused(f"nests containers in themselves or more than {_DEEPEST} deep; no data does")
    return known[id(item)]
