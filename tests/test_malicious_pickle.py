"""Pickles made to do harm: none is executed, none takes memory or time out of proportion, each is refused in words."""

import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest
from evil import ARRAY, read, refused

from tasks import pickle_opcodes

UNSAFE = "which is no array and no plain container; nothing was executed: do not load it by other means"
OBJECTS = "holds an array of Python objects, which can hold anything; save it as numbers or as lists"


def dtype(spec: bytes, order: bytes = b"<", more: bytes = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00") -> bytes:
    """Opcodes for a dtype."""
    return b"cnumpy\ndtype\n(\x8c" + bytes([len(spec)]) + spec + b"\x89\x88tR(K\x03\x8c\x01" + order + more + b"tb"


def array(shape: bytes, kind: bytes, data: bytes) -> bytes:
    """Opcodes for an array: those of its shape and of its dtype, and its bytes."""
    return ARRAY + b"(K\x01(" + shape + b"t" + kind + b"\x89C" + bytes([len(data)]) + data + b"tb"


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Stated:
    """Pickles with a state, by NEWOBJ and BUILD."""

    def __init__(self):
        self.state = 1


def mark(folder: Path) -> bytes:
    return str(folder).encode()


ATTACKS = {  # each makes a folder when it is executed; the words of the message
    "REDUCE": (lambda at: b"cos\nmkdir\n(V" + at + b"\ntR.", "names 'os.mkdir', " + UNSAFE),
    "STACK_GLOBAL": (
        lambda at: b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93X" + struct.pack("<I", len(at)) + at + b"\x85R.",
        "names 'os.mkdir', " + UNSAFE,
    ),
    "INST": (lambda at: b"(V" + at + b"\nios\nmkdir\n.", "uses the opcode INST, which arrays and plain containers"),
    "OBJ": (lambda at: b"(cos\nmkdir\nV" + at + b"\no.", "names 'os.mkdir', " + UNSAFE),
    "eval": (
        lambda at: b"c__builtin__\neval\n(V__import__('os').mkdir('" + at + b"')\ntR.",
        "names '__builtin__.eval', " + UNSAFE,
    ),
    "behind a list": (lambda at: b"(lp0\nI1\nacos\nmkdir\n(V" + at + b"\ntRa.", "names 'os.mkdir', " + UNSAFE),
    "dropped": (lambda at: b"cos\nmkdir\n(V" + at + b"\ntR0N.", "names 'os.mkdir', " + UNSAFE),
    "a dotted name": (
        lambda at: b"\x80\x04\x8c\x05numpy\x8c\x08os.mkdir\x93X" + struct.pack("<I", len(at)) + at + b"\x85R.",
        "names 'numpy.os.mkdir', " + UNSAFE,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_executed(name, tmp_path):
    make, words = ATTACKS[name]
    target = tmp_path / "made"
    data = make(mark(target))
    refused(data, words)
    assert not target.exists()
    if name != "a dotted name":
        pickle.loads(data)  # the attack is a real one
        assert target.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_objects_and_functions_are_refused_by_name(protocol, tmp_path):
    refused(pickle.dumps(Calls(Path.mkdir, tmp_path / "made"), protocol), UNSAFE)
    refused(pickle.dumps(Stated(), protocol), UNSAFE)
    refused(pickle.dumps(np.random.default_rng(), protocol), UNSAFE)
    refused(pickle.dumps(np.ma.masked_array([1]), protocol), UNSAFE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "opcode"),
    [
        (b"\x80\x02N)\x81.", "NEWOBJ"),
        (b"\x80\x04N)}\x92.", "NEWOBJ_EX"),
        (b"(No.", "OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x00.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"Pname\n.", "PERSID"),
        (b"NQ.", "BINPERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x05N\x98.", "READONLY_BUFFER"),
    ],
)
def test_opcodes_that_data_does_not_need_are_refused(data, opcode):
    refused(data, f"uses the opcode {opcode}, which arrays and plain containers do not need; nothing was executed")


def test_every_opcode_is_read_or_refused_by_its_name():
    for opcode in pickletools.opcodes:
        code = opcode.code.encode("latin-1")
        if code not in pickle_opcodes._STEPS and code != b".":
            refused(b"\x80\x04" + code + bytes(20), f"uses the opcode {opcode.name}")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"]}b.", "sets the state of a list; only arrays have one: nothing was executed"),
        (b"cnumpy\nndarray\n}b.", "sets the state of a Name"),
        (array(b"K\x01", dtype(b"u1", b"|"), b"a") + b"}b.", "sets the state of a ndarray"),
        (b"cnumpy\nndarray\n((K\x05ttR.", "calls numpy.ndarray, which is not to be called; nothing was executed"),
        (b"K\x01)R.", "calls a int, which is not to be called"),
        (b"c__builtin__\nset\nK\x05R.", "calls builtins.set, which is not to be called"),
        (b"c__builtin__\nset\n.", "holds a name, or an array without its data, where data belongs; it is damaged"),
        (b"]cnumpy\nndarray\na.", "holds a name, or an array without its data, where data belongs; it is damaged"),
        (ARRAY + b".", "holds a name, or an array without its data, where data belongs; it is damaged"),
        (ARRAY + b"\x85.", "holds a name, or an array without its data, where data belongs; it is damaged"),
        (b"}cnumpy\nndarray\nK\x01s.", "has a Name as a key or as a member of a set; allowed: text, bytes and numbers"),
        (b"}K\x01\x85K\x01s.", "has a tuple as a key or as a member of a set; allowed: text, bytes and numbers"),
        (b"\x8f(]\x90.", "has a list as a key or as a member of a set; allowed: text, bytes and numbers of 64 bits"),
        (b"}\x8a\x09" + b"\x01" * 9 + b"Ns.", "has a number of more than 64 bits as a key or as a member of a set"),
        (b"(K\x01K\x02K\x03d.", "is no intact pickle (ValueError: a key without its value"),
        (b"c__builtin__\nbytearray\n(I999999999999\ntR.", "holds an array whose data is a int; it is damaged"),
        (b"c__builtin__\nbytes\n((lI1\natR.", "builds bytes from a list; save them anew by a later version of Python"),
        (b"c_codecs\nencode\n(Va\nVzip\ntR.", "encodes 'a' as 'zip'; only bytes as latin1 are read"),
        (b"c_codecs\nencode\n(V\\u0100\nVlatin1\ntR.", "holds bytes outside of 0 to 255; it is damaged"),
        (b"c__builtin__\ncomplex\n(Va\nF1\ntR.", "holds a complex number that is not made of two floats"),
        (b"ccollections\nOrderedDict\n((lK\x01atR.", "holds an ordered dict that is not made of pairs; it is damaged"),
        (b"c__builtin__\nset\n(Vabc\ntR.", "holds a set that is not made of a list; it is damaged"),
        (b"\x80\x04K\x01\x8c\x01a\x93.", "is no intact pickle (TypeError: a name that is no text"),
        (b"h\x07.", "is no intact pickle (KeyError: 7"),
        (b"e.", "is no intact pickle (IndexError"),
        (b"Sabc\n.", "is no intact pickle (ValueError: text without quotes"),
    ],
)
def test_opcodes_that_do_not_fit_are_refused(data, words):
    refused(data, words)


class TestArraysThatLie:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (pickle.dumps(np.array([None, []], object)), OBJECTS),
            (pickle.dumps(np.zeros(2, object), 5), OBJECTS),
            (array(b"K\x01", dtype(b"O8", b"|"), b"abcdefgh") + b".", OBJECTS),
            (ARRAY + b"(K\x01(K\x01t" + dtype(b"u1", b"|") + b"\x89](K\x01etb.", OBJECTS),
            (pickle.dumps(np.zeros(2, "u1,f4")), "holds an array of the dtype 'V5'; allowed: booleans, whole numbers"),
            (pickle.dumps(np.zeros(2, "M8[s]")), "holds an array of the dtype 'M8'; allowed: booleans, whole numbers"),
            (pickle.dumps(np.zeros(2, "g")), "holds an array of the dtype 'f16'; allowed: booleans, whole numbers"),
            (b"cnumpy\ndtype\n(}\x89\x88tR.", "holds an array of the dtype a dict; allowed: booleans"),
            (dtype(b"u1", b"|", b"N\x8c\x01a\x85}K\x01K\x01K\x00") + b".", "with fields, units or metadata; allowed"),
            (dtype(b"u4", b"x") + b".", "holds the dtype uint32 with byte order 'x' and size -1; it is damaged"),
            (dtype(b"u4", b"<", b"NNNK\x09K\x01K\x3f") + b".", "holds the dtype uint32 with byte order '<' and size 9"),
            (array(b"K\x05", dtype(b"u1", b"|"), b"abc") + b".", "of uint8 (5,), which takes 5 bytes, with 3 bytes of"),
            (array(b"K\x01", dtype(b"u1", b"|"), b"abc") + b".", "of uint8 (1,), which takes 1 bytes, with 3 bytes of"),
            (array(b"J\xff\xff\xff\xff", dtype(b"u1", b"|"), b"") + b".", "an array of the shape (-1); it is damaged"),
            (array(b"\x88", dtype(b"u1", b"|"), b"a") + b".", "an array of the shape (True); it is damaged"),
            (array(b"G" + bytes(8), dtype(b"u1", b"|"), b"") + b".", "an array of the shape (0.0); it is damaged"),
            (array(b"K\x01" * 33, dtype(b"u1", b"|"), b"a") + b".", "the shape (1, 1, 1, 1, ...); it is damaged"),
            (array(b"\x8a\xff" + b"\x7f" * 255, dtype(b"u1", b"|"), b"") + b".", "holds an array of the shape (628716"),
            (array(b"\x8a\x08" + b"\xff" * 7 + b"\x3fK\x00", dtype(b"u4"), b"") + b".", "ValueError: array is too big"),
            (array(b"K\x01", b"N", b"a") + b".", "holds an array without a dtype; it is damaged"),
            (array(b"K\x02", dtype(b"b1", b"|"), b"\x01\x02") + b".", "holds an array of booleans that are neither 0"),
            (array(b"K\x01", dtype(b"U1"), b"\xff\xff\xff\xff") + b".", "holds an array of text with characters that"),
            (array(b"K\x01", dtype(b"U1", b">"), b"\x41\0\0\0") + b".", "holds an array of text with characters that"),
            (ARRAY + b"(K\x01tb.", "holds an array whose state is not version, shape, dtype, order and data"),
            (ARRAY + b"(K\x01(K\x01t" + dtype(b"u1", b"|") + b"\x89}tb.", "holds an array whose data is a dict"),
            (ARRAY.replace(b"K\x00t", b"K\x05t") + b".", "holds an array that begins in another way than numpy writes"),
            (ARRAY.replace(b"cnumpy\nndarray\n", b"N") + b".", "holds an array that begins in another way than numpy"),
            (
                b"cnumpy.core.numeric\n_frombuffer\n(C\x01a" + dtype(b"u1", b"|") + b"K\x01\x85\x8c\x01KtR.",
                "holds an array of order 'K'; allowed: C or F",
            ),
        ],
    )
    def test_they_are_refused(self, data, words):
        refused(data, words)

    def test_a_state_set_twice_makes_two_arrays(self):
        state = b"(K\x01(K\x01t" + dtype(b"u1", b"|") + b"\x89C\x01%btb"
        result = read(ARRAY + b"2" + state % b"a" + b"q\x050" + state % b"b" + b"h\x05\x86.")
        assert [one.tolist() for one in result] == [[98], [97]]
        refused(ARRAY + b"q\x00" + state % b"a" + b"h\x00" + state % b"b" + b".", "sets the state of a ndarray")
