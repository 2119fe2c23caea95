"""Pickles as Python 2 and numpy 1.16 wrote them, opcode by opcode: Python 3 cannot write them any more."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

PROTOCOLS = (0, 1, 2)


def text(protocol: int, data: bytes) -> bytes:
    """A ``str`` of Python 2: bytes, in protocol 0 as its repr."""
    if protocol == 0:
        return b"S" + repr(data).encode()[1:] + b"\n"
    if len(data) < 256:
        return b"U" + bytes([len(data)]) + data
    return b"T" + struct.pack("<i", len(data)) + data


def number(protocol: int, value: int) -> bytes:
    if protocol == 0:
        return b"I%d\n" % value
    return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def array(protocol: int, items: np.ndarray) -> bytes:
    """An array, without the memo, as cPickle leaves it out for what occurs once."""
    fixed = items.dtype.itemsize if items.dtype.kind in "SU" else -1
    shape = b"".join(number(protocol, n) for n in items.shape)
    state = text(protocol, items.dtype.byteorder.replace("=", "<").encode()) + b"NNN"
    state += number(protocol, fixed) + number(protocol, 1 if fixed > 0 else -1) + number(protocol, 0)
    return b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(protocol, 0) + b"t",
            text(protocol, b"b") + b"tR",
            b"(" + number(protocol, 1) + b"(" + shape + b"t",
            b"cnumpy\ndtype\n(" + text(protocol, items.dtype.str[1:].encode()),
            number(protocol, 0) + number(protocol, 1) + b"tR",
            b"(" + number(protocol, 3) + state + b"tb",
            b"\x89" if protocol == 2 else b"I00\n",
            text(protocol, items.tobytes()) + b"tb",
        ]
    )


def cache(protocol: int, images: np.ndarray, classes: Mapping[str, Sequence[int]]) -> bytes:
    """``{"image_data": images, "class_dict": classes}``, as the mini-ImageNet caches hold it."""
    begin = b"\x80\x02" if protocol == 2 else b""
    empty_dict, empty_list = (b"(d", b"(l") if protocol == 0 else (b"}", b"]")
    rows = b"".join(
        text(protocol, name.encode()) + empty_list + b"".join(number(protocol, row) + b"a" for row in found) + b"s"
        for name, found in classes.items()
    )
    pairs = text(protocol, b"image_data") + array(protocol, images) + b"s"
    return begin + empty_dict + pairs + text(protocol, b"class_dict") + empty_dict + rows + b"s."
