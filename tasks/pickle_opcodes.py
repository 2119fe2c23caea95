"""The pickle opcodes that data needs. What a pickle names goes through tasks.pickled_arrays."""

import codecs
import io
import pickletools
from collections.abc import Callable
from typing import Any

from tasks.pickle_machine import MOST_STEPS, Machine
from tasks.pickled_arrays import Refused, hashable, named

_NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}


def interpret(file: io.BufferedIOBase, size: int, mapped: memoryview | None = None) -> Any:
    """Give what the pickle holds that begins here, in a file of ``size`` bytes; no step of it is trusted.

    ``mapped`` is the whole file as mapped into memory: large byte strings are views of it, to be taken by arrays only.
    Raises Refused for what data does not need, EOFError for a cut file, Unmapped for a view that something else takes,
    and whatever damaged opcodes lead to.
    """
    machine = Machine(file, size, mapped)
    for _ in range(MOST_STEPS):
        code = file.read(1)
        if code == b".":
            return machine.pop()
        step = _STEPS.get(code)
        if step is None:
            raise _no_step(code)
        step(machine)
    raise Refused(f"takes more than {MOST_STEPS:,} steps to read; save it as arrays in place of single numbers")


def _no_step(code: bytes) -> Exception:
    if not code:
        return EOFError("its end mark is missing")
    if code in _NAMES:
        return Refused(
            f"uses the opcode {_NAMES[code]}, which arrays and plain containers do not need; nothing was executed"
        )
    return ValueError(f"there is no opcode {code!r}")


def _protocol(machine: Machine) -> None:
    version = machine.number("<B")
    if version > 5:
        raise Refused(f"is a pickle of protocol {version}; up to 5 are read: save it anew with protocol=4")


def _int_or_bool(machine: Machine) -> None:
    text = machine.line()
    machine.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else machine.parsed(text))


def _quoted(machine: Machine) -> None:
    text = machine.line().strip()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise ValueError("text without quotes")
    machine.push(codecs.escape_decode(text[1:-1])[0].decode("latin-1"))


def _escaped(machine: Machine) -> None:
    text = machine.line().decode("raw-unicode-escape")
    text.encode()  # halves of characters are refused, as in the other opcodes for text
    machine.push(text)


def _append(machine: Machine) -> None:
    item = machine.pop()
    machine.top(list).append(item)


def _extend(machine: Machine) -> None:
    items = machine.to_mark()
    machine.top(list).extend(items)


def _set_item(machine: Machine) -> None:
    key, value = machine.pop_many(2)
    machine.top(dict)[hashable(key)] = value


def _set_items(machine: Machine) -> None:
    items = machine.to_mark()
    machine.top(dict).update(_pairs(items))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without its value")
    return {hashable(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _add_items(machine: Machine) -> None:
    items = machine.to_mark()
    machine.top(set).update(map(hashable, items))


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.to_mark()


def _stack_global(machine: Machine) -> None:
    module, name = machine.pop_many(2)
    if type(name) is not str or type(module) is not str:
        raise TypeError("a name that is no text")
    machine.push(named(module, name))


_STEPS: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": _protocol,
    b"\x95": lambda m: m.claim(m.number("<Q")),  # a frame, which is read like the rest
    # numbers and text
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _int_or_bool,
    b"L": lambda m: m.push(m.whole()),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.take(1)[0]),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(m.long("<B")),
    b"\x8b": lambda m: m.push(m.long("<i")),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d")),
    b"S": _quoted,
    b"T": lambda m: m.push(m.string("<i", lambda data: data.decode("latin-1"))),
    b"U": lambda m: m.push(m.counted("<B").decode("latin-1")),
    b"V": _escaped,
    b"\x8c": lambda m: m.push(m.counted("<B").decode()),
    b"X": lambda m: m.push(m.counted("<I").decode()),
    b"\x8d": lambda m: m.push(m.counted("<Q").decode()),
    b"C": lambda m: m.push(m.counted("<B")),
    b"B": lambda m: m.push(m.string("<I")),
    b"\x8e": lambda m: m.push(m.string("<Q")),
    b"\x96": lambda m: m.push(m.string("<Q", bytearray)),
    # stack and containers
    b"(": Machine.mark,
    b"0": _pop,
    b"1": Machine.to_mark,
    b"2": lambda m: m.push(m.stack[-1]),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.push(set()),
    b"l": lambda m: m.push(m.to_mark()),
    b"d": lambda m: m.push(_pairs(m.to_mark())),
    b"t": lambda m: m.push(tuple(m.to_mark())),
    b"\x91": lambda m: m.push(frozenset(map(hashable, m.to_mark()))),
    b"\x85": lambda m: m.push(m.pop_many(1)),
    b"\x86": lambda m: m.push(m.pop_many(2)),
    b"\x87": lambda m: m.push(m.pop_many(3)),
    b"a": _append,
    b"e": _extend,
    b"s": _set_item,
    b"u": _set_items,
    b"\x90": _add_items,
    # memo
    b"p": lambda m: m.put(m.whole()),
    b"q": lambda m: m.put(m.take(1)[0]),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.push(m.memo[m.whole()]),
    b"h": lambda m: m.push(m.memo[m.take(1)[0]]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    # names
    b"c": lambda m: m.push(named(m.line().decode(), m.line().decode())),
    b"\x93": _stack_global,
    b"R": Machine.call,
    b"b": Machine.build,
}
