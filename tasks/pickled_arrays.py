"""What a pickle may name: numpy arrays, scalars and dtypes, and plain containers, each built by a function of ours.

None of numpy's own functions that pickles name is called, for they trust what they are given: a dtype's state may claim
that bytes are pointers, ``numpy.ndarray`` makes views of any shape, a state set twice frees memory that is in use.
``copy_reg._reconstructor`` and classes (NEWOBJ) are not needed: arrays, sets and ordered dicts of every protocol, by
Python 2 and 3, are written as calls of the names below.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

_PLAIN = re.compile(r"[|<>=]?(\?|b1|[iu][1248]|f[248]|c8|c16|[SUa][1-9]\d{0,8})")
_MOST_DIMENSIONS = 32  # numpy 1 has no more
_LAST_CHARACTER = 0x10FFFF


class Refused(Exception):
    """What a pickle holds that is not read, in words that follow the file's name."""


class Unmapped(Exception):
    """A view of the mapped file is wanted as something else than an array's data: read the pickle without mapping."""


@dataclass(frozen=True)
class Name:
    """A name that a pickle gave; ``call`` does what stands behind it, None for what is only ever an argument."""

    full: str
    call: Callable[..., Any] | None = None


@dataclass(eq=False)
class Unset:
    """An array or a dtype before its state: ``build`` takes the state, ``slots`` of the memo wait for the result."""

    build: Callable[[Any], Any]
    slots: list[int] = field(default_factory=list)


def named(module: str, name: str) -> Name:
    """Find what a pickle names. Raises Refused, naming it, for everything but arrays and plain containers."""
    place = module.replace("numpy._core.", "numpy.core.").replace("__builtin__", "builtins")
    found = _NAMES.get(f"{place}.{name}")
    if found is None:
        raise Refused(
            f"names {f'{module}.{name}'[:200]!r}, which is no array and no plain container; nothing was executed: do "
            "not load it by other means unless you trust its source"
        )
    return found


def _reconstruct(kind: Any, shape: Any, code: Any) -> Unset:
    if kind is not _NAMES["numpy.ndarray"] or shape != (0,) or code not in ("b", b"b"):
        raise Refused("holds an array that begins in another way than numpy writes it; it is damaged")
    return Unset(_array_state)


def _array_state(state: Any) -> np.ndarray:
    if type(state) is not tuple or len(state) != 5:
        raise Refused("holds an array whose state is not version, shape, dtype, order and data; it is damaged")
    _, shape, dtype, fortran, data = state
    if type(data) is list:
        raise Refused("holds an array of Python objects, which can hold anything; save it as numbers or as lists")
    return _array(dtype, shape, _raw(data), "F" if fortran else "C")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if order not in ("C", "F"):
        raise Refused(f"holds an array of order {_shown(order)}; allowed: C or F")
    return _array(dtype, shape, _raw(data), order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(dtype, (), _raw(data), "C")[()]


def _array(dtype: Any, shape: Any, data: bytes | bytearray | memoryview, order: Any) -> np.ndarray:
    """View data as a read-only array, after all that numpy would trust has been compared."""
    if not isinstance(dtype, np.dtype):
        raise Refused("holds an array without a dtype; it is damaged")
    if type(shape) is not tuple or not all(map(_is_length, shape)) or len(shape) > _MOST_DIMENSIONS:
        raise Refused(f"holds an array of the shape {_shown(shape)}; it is damaged")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise Refused(
            f"holds an array of {dtype.name} {shape}, which takes {math.prod(shape) * dtype.itemsize:,} bytes, with "
            f"{len(data):,} bytes of data; it is damaged"
        )
    if type(data) is memoryview and dtype.kind in "bU":
        data = bytes(data)  # what is checked below must not change with the file
    array: np.ndarray = np.ndarray(shape, dtype, data, order=order)
    array.flags.writeable = False
    flat = np.frombuffer(data, np.uint8) if dtype.kind == "b" else np.empty(0, np.uint8)
    if flat.max(initial=0) > 1:  # numpy counts them by adding
        raise Refused("holds an array of booleans that are neither 0 nor 1; it is damaged")
    if dtype.kind == "U" and np.frombuffer(data, np.dtype("u4").newbyteorder(cast(Any, dtype.byteorder))).max(
        initial=0
    ) > (_LAST_CHARACTER):
        raise Refused("holds an array of text with characters that do not exist; it is damaged")
    return array


def _dtype(spec: Any, align: Any = False, copy: Any = True) -> Unset:
    if type(spec) is str and spec.lstrip("|<>=").startswith("O"):
        raise Refused("holds an array of Python objects, which can hold anything; save it as numbers or as lists")
    if type(spec) is not str or not _PLAIN.fullmatch(spec):
        raise Refused(
            f"holds an array of the dtype {_shown(spec)}; allowed: booleans, whole numbers, floats of at most 8 "
            "bytes, complex numbers and text of a fixed width"
        )
    return Unset(lambda state: _dtype_state(np.dtype(spec), state))


def _dtype_state(dtype: np.dtype, state: Any) -> np.dtype:
    if type(state) is not tuple or len(state) != 8 or state[2:5] != (None, None, None):
        raise Refused("holds an array with fields, units or metadata; allowed: plain numbers and text")
    order, size = state[1], state[5]
    if type(order) is not str or order not in ("<", ">", "|", "=") or size not in (-1, dtype.itemsize):
        raise Refused(
            f"holds the dtype {dtype.name} with byte order {_shown(order)} and size {_shown(size)}; it is damaged"
        )
    return dtype.newbyteorder(cast(Any, order))  # flags and alignment follow from the name: those given are not used


def _raw(data: Any) -> bytes | bytearray | memoryview:
    if type(data) is str:  # written by Python 2
        return _latin(data)
    if type(data) not in (bytes, bytearray, memoryview):
        raise Refused(f"holds an array whose data is a {type(data).__name__}; it is damaged")
    return data


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is memoryview:
        raise Unmapped
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused(f"encodes {_shown(text)} as {_shown(encoding)}; only bytes as latin1 are read")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise Refused("holds bytes outside of 0 to 255; it is damaged") from error


def _is_length(item: Any) -> bool:
    return type(item) is int and 0 <= item < 2**63


def _shown(item: Any) -> str:
    """Word something for a message. It may be large, or hold itself many times over, so repr alone will not do."""
    if type(item) is tuple:
        shown = ("a tuple" if type(part) is tuple else _shown(part) for part in item[:4])
        return f"({', '.join(shown)}{', ...' if len(item) > 4 else ''})"
    if type(item) in (str, bytes, int, float, bool, type(None)):
        return repr(item[:40] if type(item) in (str, bytes) else item)[:80]
    return f"a {type(item).__name__}"


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    if type(pairs) not in (list, tuple) or not all(type(p) in (list, tuple) and len(p) == 2 for p in pairs):
        raise Refused("holds an ordered dict that is not made of pairs; it is damaged")
    return {hashable(key): value for key, value in pairs}


def _default(factory: Any = None) -> dict[Any, Any]:
    return {}  # what it gives for a missing key is not data


def _set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple, set):
        raise Refused("holds a set that is not made of a list; it is damaged")
    return set(map(hashable, items))


def _bytes(*items: Any) -> bytes:
    if items:
        raise Refused("builds bytes from a list; save them anew by a later version of Python")
    return b""


def _bytearray(data: Any = b"", encoding: Any = "latin-1") -> bytearray:
    return bytearray(_latin(data, encoding) if type(data) is str else _raw(data))


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise Refused("holds a complex number that is not made of two floats; it is damaged")
    return complex(real, imaginary)


def hashable(key: Any) -> Any:
    """Give a key or a member of a set back. Raises Refused for other than text, bytes and numbers of 64 bits.

    Nested tuples end the process when they are hashed; numbers and tuples can be chosen so that their hashes collide.
    """
    if type(key) in (str, bytes, float, bool, type(None)) or isinstance(key, np.integer | np.str_ | np.bytes_):
        return key
    if type(key) is int and -(2**63) <= key < 2**64:
        return key
    if type(key) is memoryview:
        raise Unmapped
    kind = "a number of more than 64 bits" if type(key) is int else f"a {type(key).__name__}"
    raise Refused(f"has {kind} as a key or as a member of a set; allowed: text, bytes and numbers of 64 bits")


_NAMES = {
    full: Name(full, call)
    for full, call in {
        "numpy.core.multiarray._reconstruct": _reconstruct,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy.core.numeric._frombuffer": _frombuffer,  # protocol 5
        "numpy.ndarray": None,
        "numpy.dtype": _dtype,
        "_codecs.encode": _latin,  # bytes of Python 3 in protocols below 3
        "collections.OrderedDict": _dict,
        "collections.defaultdict": _default,
        "builtins.set": _set,
        "builtins.frozenset": lambda items=(): frozenset(_set(items)),
        "builtins.bytes": _bytes,  # empty ones, in protocols below 3
        "builtins.bytearray": _bytearray,
        "builtins.complex": _complex,
        "builtins.dict": None,  # these are what a defaultdict holds for missing keys
        "builtins.float": None,
        "builtins.int": None,
        "builtins.list": None,
        "builtins.long": None,
        "builtins.str": None,
    }.items()
}
