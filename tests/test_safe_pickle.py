"""Pickles of data: what numpy and Python write comes back the same, whatever else is there is named for what it is."""

import io
import pickle
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python2 import PROTOCOLS, cache, text

from tasks.errors import DataError
from tasks.safe_pickle import load

# pickle.dumps({"image_data": a, "class_dict": {"n01": [0, 1]}}, protocol) by Python 2.7.18 and numpy 1.16.6, with memo
WRITTEN = {
    0: (
        b"(dp0\nS'image_data'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\n"
        b"tp6\nRp7\n(I1\n(I2\nI2\nI3\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\n"
        b"I-1\nI0\ntp14\nbI00\nS'\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08\\t\\n\\x0b'\np15\ntp16\nbsS'class_dict'\n"
        b"p17\n(dp18\nS'n01'\np19\n(lp20\nI0\naI1\nass."
    ),
    1: (
        b"}q\x00(U\nimage_dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02(cnumpy\nndarray\nq\x03(K\x00tq\x04U\x01b"
        b"q\x05tq\x06Rq\x07(K\x01(K\x02K\x02K\x03tq\x08cnumpy\ndtype\nq\t(U\x02u1q\nK\x00K\x01tq\x0bRq\x0c(K\x03U\x01|"
        b"q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0ebI00\nU\x0c\x00\x01\x02\x03\x04\x05\x06\x07\x08\t\n\x0b"
        b"q\x0ftq\x10bU\nclass_dictq\x11}q\x12U\x03n01q\x13]q\x14(K\x00K\x01esu."
    ),
    2: (
        b"\x80\x02}q\x00(U\nimage_dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85"
        b"q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02K\x02K\x03\x87q\x08cnumpy\ndtype\nq\tU\x02u1q\nK\x00K\x01\x87q\x0b"
        b"Rq\x0c(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x0c\x00\x01\x02\x03\x04\x05\x06"
        b"\x07\x08\t\n\x0bq\x0ftq\x10bU\nclass_dictq\x11}q\x12U\x03n01q\x13]q\x14(K\x00K\x01esu."
    ),
}
ARRAYS = {
    "images": np.arange(2 * 5 * 5 * 3, dtype=np.uint8).reshape(2, 5, 5, 3),
    "one number": np.array(7),
    "nothing": np.zeros((0, 84, 84, 3), np.uint8),
    "no booleans": np.zeros(0, bool),
    "no text": np.zeros(0, "<U3"),
    "booleans": np.array([[True, False]]),
    "large": np.full((70_000,), 7, np.uint8),
    "half": np.array([0.5, np.inf], np.float16),
    "nan": np.array([np.nan, -0.0]),
    "complex": np.array([1 + 2j]),
    "big endian": np.arange(5, dtype=">i4"),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12, dtype=np.int16)[::-3],
    "read-only": np.frombuffer(b"abcd", np.uint8),
    "text": np.array(["n01532829", "ä€😀"]),
    "text, big endian": np.array(["n01", "ä"], ">U4"),
    "bytes": np.array([b"n01", b"\xff"]),
}


def read(data: bytes):
    return load(io.BytesIO(data), "cache.pkl")


def same(left, right) -> bool:
    """Whether two values are equal in all parts, and of the same types; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray | np.generic):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and np.asarray(left).tobytes() == np.asarray(right).tobytes()
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, set | frozenset):
        return sorted(map(repr, left)) == sorted(map(repr, right))
    return left == right or left != left and right != right


@pytest.mark.parametrize("protocol", range(6))
class TestWhatPython3Writes:
    @pytest.mark.parametrize("name", ARRAYS)
    def test_arrays_come_back_the_same(self, name, protocol):
        result = read(pickle.dumps(ARRAYS[name], protocol))
        assert same(result, np.asarray(ARRAYS[name])) and not result.flags.writeable

    def test_numpy_scalars_and_dtypes_come_back_the_same(self, protocol):
        values = [np.float32(1.5), np.int64(-3), np.uint8(255), np.bool_(True), np.complex64(1j)]
        values += [np.str_("ä"), np.bytes_(b"\xff")]
        result = read(pickle.dumps([values, np.dtype(">f4"), np.dtype("U7")], protocol))
        assert same(result[0], values) and result[1:] == [np.dtype(">f4"), np.dtype("U7")]

    def test_containers_and_plain_values_come_back_the_same(self, protocol):
        plain = {
            "text": ["", "ä€😀\r\n\\u0041 ", "x" * 300],
            "bytes": (b"", b"\x00\xff", bytes(300)),
            "numbers": [0, -1, 255, 256, 2**31, -(2**63), 2**100, 1.5, -1e300, float("inf"), 1j, True, False, None],
            "sets": (set(), {1, "a", b"b", 2.5, None, False}, frozenset({3})),
            "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
            "bytearray": [bytearray(b""), bytearray(b"\xff\x00")],
            b"bytes": {7: [], None: {}, np.int64(3): [], np.str_("s"): []},
        }
        assert same(read(pickle.dumps(plain, protocol)), plain)

    def test_ordered_and_default_dicts_come_as_dicts(self, protocol):
        numbers = defaultdict(int, {"a": 1})
        lists = defaultdict(list, {"b": [2], "c": [3]})
        ordered = OrderedDict([("z", 1), ("a", 2)])
        result = read(pickle.dumps([numbers, lists, ordered, OrderedDict()], protocol))
        assert same(result, [{"a": 1}, {"b": [2], "c": [3]}, {"z": 1, "a": 2}, {}])

    def test_what_occurs_twice_is_held_once(self, protocol):
        images, rows = np.arange(3), [1, 2]
        result = read(pickle.dumps([images, images, rows, rows], protocol))
        assert result[0] is result[1] and result[2] is result[3]

    def test_a_pickle_cut_anywhere_is_said_to_be_cut(self, protocol):
        data = pickle.dumps({"image_data": ARRAYS["images"], "class_dict": {"n01": [0, 1]}}, protocol)
        for length in range(1, len(data)):
            with pytest.raises(DataError, match=r"cache.pkl is (a pickle cut off|no intact pickle|a text)"):
                read(data[:length])
        with pytest.raises(DataError, match=r"cache.pkl is a pickle cut off after .* bytes .*; fetch it again"):
            read(data[:-1])

    def test_half_a_character_is_refused(self, protocol):
        with pytest.raises(DataError, match="cache.pkl is no intact pickle .Unicode(En|De)codeError"):
            read(pickle.dumps("\ud800", protocol))


class TestWhatPython2Wrote:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_a_cache_as_python_2_itself_wrote_it(self, protocol):
        images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        assert same(read(WRITTEN[protocol]), {"image_data": images, "class_dict": {"n01": [0, 1]}})

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("name", [name for name in ARRAYS if name not in ("columns first", "half")])
    def test_arrays_of_every_kind(self, name, protocol):
        images, rows = ARRAYS[name], {"n01532829": [0, 1, 300], "n02": []}
        result = read(cache(protocol, images, rows))
        assert same(result, {"image_data": images.copy(), "class_dict": rows})

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_every_byte_of_an_array_survives(self, protocol):
        images = np.arange(256, dtype=np.uint8)
        assert (read(cache(protocol, images, {}))["image_data"] == images).all()

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_text_is_latin_1(self, protocol):
        every = bytes(range(256))
        assert read(text(protocol, every) + b".") == every.decode("latin-1")

    def test_unicode_long_numbers_and_sets(self):
        assert read(b"(lp0\nV\\u00e4\\u20ac\naL123L\naI01\naF1.5\na.") == ["ä€", 123, True, 1.5]
        assert read(b"\x80\x02c__builtin__\nset\nq\x01]q\x02(K\x01K\x02e\x85Rq\x03.") == {1, 2}
        assert read(b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bK\x02ee\x85R.") == {"a": 1, "b": 2}


class TestWhatIsNoPickle:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (
                b"<!DOCTYPE html><title>Google Drive</title>",
                "is an HTML page that a download link returned .*, expected a pickle: download it again by hand",
            ),
            (b"", "is empty, expected a pickle: fetch it again"),
            (bytes(2000), "is a file of zero bytes, as a broken transfer leaves it, expected a pickle: fetch it again"),
            (b"\x1f\x8b\x08\x00rest", "is gzip-compressed, expected a pickle: decompress it by gunzip"),
            (b"PK\x03\x04rest", "is a zip archive, expected a pickle: unpack it"),
            (b"Quota exceeded", "uses the opcode BINPERSID.*it is a text that begins with 'Quota exceeded'"),
            (b"Too many users", "is a pickle cut off .*it is a text that begins with 'Too many users'"),
            (b"\x80\x06N.", "is a pickle of protocol 6; up to 5 are read: save it anew with protocol=4"),
            (b"\x80\x04\xfeN.", r"is no intact pickle \(ValueError: there is no opcode b'\\xfe', at byte 3 of 5\)"),
            (b"\x80\x04", "is a pickle cut off after 2 bytes .its end mark is missing.; fetch it again"),
            (b"\x80\x04.", "is no intact pickle .IndexError"),
        ],
    )
    def test_it_is_named_for_what_it_is(self, data, words):
        with pytest.raises(DataError, match="cache.pkl " + words):
            read(data)

    def test_a_file_that_fails_while_it_is_read_says_so(self):
        class Failing(io.BytesIO):
            def read(self, count=-1):
                if self.tell() >= 100:
                    raise OSError("disk on fire")
                return super().read(count)

        with pytest.raises(DataError, match="cache.pkl is no intact pickle .OSError: disk on fire, at byte 1"):
            load(Failing(pickle.dumps(["x" * 90, 1, 2, 3])), "cache.pkl")

    def test_reading_begins_where_the_file_stands_and_ends_with_the_first_pickle(self):
        file = io.BytesIO(b"head" + pickle.dumps([1]) + pickle.dumps([2]))
        file.seek(4)
        assert load(file, "x") == [1] and load(file, "x") == [2]


KEYS = st.one_of(st.text(), st.binary(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(
    st.one_of(KEYS, st.integers(-(2**2000), 2**2000), st.complex_numbers(), st.sets(KEYS), st.frozensets(KEYS)),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(KEYS, inner), st.tuples(inner), st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5))
def test_any_plain_containers_come_back_the_same(value, protocol):
    assert same(read(pickle.dumps(value, protocol)), value)
