"""Pickles that claim, copy, nest or repeat without end, and pickles with random damage: data or a DataError."""

import pickle
import struct

import numpy as np
import pytest
from evil import ARRAY, read, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from python2 import PROTOCOLS, cache

from tasks import pickle_machine
from tasks.errors import DataError

AGAIN = "copies what it holds again and again; refused as a bomb"
NESTED = "nests containers in themselves or more than 100 deep; no data does"
EMPTY = {"list": b"]", "tuple": b")", "dict": b"}"}


class TestClaims:
    @pytest.mark.parametrize(
        ("data", "claim"),
        [
            (b"\x8e" + struct.pack("<Q", 2**62) + b"a.", 2**62),
            (b"\x96" + struct.pack("<Q", 2**40) + b"a.", 2**40),
            (b"\x8d" + struct.pack("<Q", 2**63) + b"a.", 2**63),
            (b"\x95" + struct.pack("<Q", 2**64 - 1) + b"N.", 2**64 - 1),
            (b"B" + struct.pack("<I", 2**32 - 1) + b"a.", 2**32 - 1),
            (b"X" + struct.pack("<I", 2**31) + b"a.", 2**31),
            (b"T" + struct.pack("<i", 2**31 - 1) + b"a.", 2**31 - 1),
            (b"C\xffa.", 255),
        ],
    )
    def test_a_length_that_is_not_there_is_not_allocated(self, data, claim):
        refused(b"\x80\x05" + data, f"is a pickle cut off after {2 + len(data)} bytes ({claim:,} bytes are claimed, ")

    def test_a_negative_length_is_refused(self):
        refused(b"\x80\x02T\xff\xff\xff\xffa.", "is no intact pickle (ValueError: a length of -1")
        refused(b"\x80\x02\x8b\xff\xff\xff\xffa.", "is no intact pickle (ValueError: a length of -1")

    def test_numbers_that_take_long_to_turn_into_numbers_are_refused(self):
        refused(b"L" + b"9" * 10_000_000 + b"L\n.", "holds a number of 10,000,000 digits; no data has one")
        refused(b"I" + b"9" * 766 + b"\n.", "holds a number of 766 digits; no data has one")
        refused(
            b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + bytes(1 << 20) + b".", "holds a number of 1,048,576 bytes"
        )
        assert read(b"L" + b"9" * 765 + b"L\n.") == 10**765 - 1

    @pytest.mark.parametrize("slot", [b"r\xff\xff\xff\xff", b"p4294967295\n"])
    def test_a_memo_of_any_size_takes_only_what_is_put_there(self, slot):
        assert read(b"K\x07" + slot + b".") == 7

    @pytest.mark.parametrize("slot", [2**32, 2**61 - 1, -1, 10**700])
    def test_memo_numbers_that_could_collide_are_refused(self, slot):
        refused(b"K\x07p%d\n." % slot, "numbers what it remembers as no pickle does; it is damaged")


class TestCopies:
    @pytest.mark.parametrize(
        "once",
        [
            b"c__builtin__\nbytearray\nh\x00\x85R0",
            ARRAY + b"(K\x01(M\x10\x27tcnumpy\ndtype\n(Vb1\ntR(K\x03V|\nNNNK\x01K\x01K\x00tb\x89h\x00tb0",
        ],
    )
    def test_the_same_bytes_again_and_again(self, once):
        begin = b"B" + struct.pack("<I", 10_000) + bytes(10_000) + b"q\x00"
        assert read(begin + once * 2 + b"N.") is None
        refused(begin + once * 3 + b"N.", AGAIN)

    def test_the_same_text_again_and_again(self):
        once = b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R0"
        refused(b"\x80\x04X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x00" + once * 3 + b"N.", AGAIN)

    def test_the_same_list_again_and_again(self, monkeypatch):
        monkeypatch.setattr(pickle_machine, "MOST_STEPS", 10_000)
        once = b"c__builtin__\nset\nh\x00\x85R0"
        assert read(b"](" + b"K\x01" * 2000 + b"eq\x00" + once * 4 + b"N.") is None
        refused(b"](" + b"K\x01" * 2000 + b"eq\x00" + once * 6 + b"N.", AGAIN)

    def test_too_many_steps_are_refused(self, monkeypatch):
        monkeypatch.setattr("tasks.pickle_opcodes.MOST_STEPS", 1000)
        assert read(b"(" + b"N" * 997 + b"t.") == (None,) * 997
        refused(b"(" + b"N" * 998 + b"t.", "takes more than 1,000 steps to read; save it as arrays in place of single")


class TestNesting:
    @pytest.mark.parametrize("levels", [101, 30_000])
    def test_deep_containers_are_refused(self, levels):
        refused(b"]" * levels + b"a" * (levels - 1) + b".", NESTED)
        refused(b")" + b"\x85" * levels + b".", NESTED)
        refused(b"}" + b"K\x01}" * levels + b"s" * levels + b".", NESTED)

    def test_a_hundred_levels_are_read(self):
        assert repr(read(b"]" * 100 + b"a" * 99 + b".")) == "[" * 100 + "]" * 100

    def test_containers_in_themselves_are_refused(self):
        refused(b"]q\x00h\x00a.", NESTED)
        refused(b"}q\x00K\x01h\x00s.", NESTED)
        refused(b"]q\x00h\x00\x85a.", NESTED)

    @pytest.mark.parametrize("kind", EMPTY)
    def test_a_billion_laughs_are_refused(self, kind):
        double = {"list": b"](%be", "tuple": b"(%bt", "dict": b"}(K\x01%bu"}[kind]
        twice = b"h\x00h\x00" if kind != "dict" else b"h\x00K\x02h\x00"
        refused(
            EMPTY[kind] + b"q\x00" + (double % twice + b"q\x00") * 60 + b".", "same containers again and again; refused"
        )
        assert read(EMPTY[kind] + b"q\x00" + (double % twice + b"q\x00") * 3 + b".")

    @pytest.mark.parametrize("levels", [40, 30_000])
    def test_what_is_shown_in_a_message_is_short(self, levels):
        laughs = b")" + b"2\x86" * levels
        for spec in (laughs, b"(" + laughs + b"N" * 1000 + b"t", b"X" + struct.pack("<I", 10**6) + b"a" * 10**6):
            refused(b"\x80\x04cnumpy\ndtype\n" + spec + b"\x85R.", "holds an array of the dtype ")
        kind = b"cnumpy\ndtype\n(Vb1\ntR(K\x03V|\nNNNK\x01K\x01K\x00tb"
        refused(ARRAY + b"(K\x01" + laughs + kind + b"NC\x00tb.", "an array of the shape (a tuple, a tuple); it is")
        refused(
            b"c_codecs\nencode\n(" + laughs + laughs + b"tR.", "encodes (a tuple, a tuple) as (a tuple, a tuple); only"
        )


EXAMPLES = [
    pickle.dumps(value, protocol)
    for value in (
        {
            "image_data": np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3),
            "class_dict": {"n01": [0, 1], "n02": [2, 3, 4]},
        },
        [np.array(["a", "bc"]), np.array([True, False]), np.float32(1), {b"a": {1, 2}, "b": frozenset({3})}],
        {"data": np.asfortranarray(np.ones((2, 3))), "labels": (1, 2**70, -1.5, 1j, None, bytearray(b"ab"))},
    )
    for protocol in range(6)
] + [cache(protocol, np.arange(12, dtype=np.uint8), {"n01": [0, 300]}) for protocol in PROTOCOLS]
PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), np.generic, np.dtype)


def is_plain(value) -> bool:
    """Whether a value is what a pickle of data may hold; of every array all bytes are touched."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufcSU" and len(value.tobytes()) == value.nbytes and bool(repr(value))
    if type(value) is dict:
        return all(isinstance(key, PLAIN) for key in value) and all(map(is_plain, value.values()))
    if type(value) in (list, tuple, set, frozenset):
        return all(map(is_plain, value))
    return isinstance(value, PLAIN)


@st.composite
def damaged(draw) -> bytes:
    """A pickle with bytes changed, cut out, and put in, also pieces of other pickles."""
    data = bytearray(draw(st.sampled_from(EXAMPLES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        other = draw(st.sampled_from(EXAMPLES))
        start = draw(st.integers(0, len(other)))
        piece = draw(st.one_of(st.binary(max_size=3), st.just(other[start : start + draw(st.integers(0, 40))])))
        data[at : at + draw(st.integers(0, 4))] = piece
    return bytes(data)


@settings(max_examples=1500, deadline=None)
@given(data=damaged())
def test_damaged_pickles_give_plain_data_or_a_data_error(data):
    try:
        value = read(data)
    except DataError as error:
        assert str(error).startswith("evil.pkl ")
    else:
        assert is_plain(value)


@settings(max_examples=500, deadline=None)
@given(
    data=st.lists(
        st.sampled_from([*map(bytes, zip(range(256), strict=False)), b"\x01", b"K\x01", b"\x85", b"("]), max_size=60
    )
)
def test_random_opcodes_give_plain_data_or_a_data_error(data):
    try:
        value = read(b"\x80\x04" + b"".join(data) + b".")
    except DataError as error:
        assert str(error).startswith("evil.pkl ")
    else:
        assert is_plain(value)
