"""Read a pickle as data: a small interpreter of pickle's opcodes that imports nothing and calls nothing from the file.

A pickle is a program for a stack machine that may import and call whatever it names. This machine has a closed list of
opcodes, and looks a name up only in the table that its caller gives, whose entries build plain or inert values. What
is outside ends in a CheckpointError that names it. The work is bounded: by the file's size, by a number of operations
that nested pickles share, and by keys whose hash costs nothing (a tuple that holds itself twice, forty times over,
would hash for hours).
"""

from __future__ import annotations

import dataclasses
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from impasto.errors import CheckpointError
from impasto.generators.foreign.plain_values import Budget, NumpyArray, NumpyDtype, Record, checked_key, shown

MAX_INTEGER_BYTES = 16
MAX_NAME_BYTES = 256

Constructors = Mapping[tuple[str, str], Callable[..., object]]


@dataclasses.dataclass(frozen=True)
class Global:
    """A name of the table on the machine's stack: all that a pickle can call."""

    module: str
    name: str
    construct: Callable[..., object]


def load(
    data: memoryview,
    constructors: Constructors,
    budget: Budget,
    *,
    start: int = 0,
    persistent_load: Callable[[object], object] | None = None,
) -> tuple[object, int]:
    """The value of the pickle at `start` and the position after it. CheckpointError names what is not allowed."""
    machine = _Machine(_Cursor(data, start), constructors, budget, persistent_load)
    while True:
        at = machine.cursor.position
        code = b""
        try:
            code = bytes(machine.cursor.take(1))
            if code == pickle.STOP:
                return machine.stack.pop(), machine.cursor.position
            machine.step(code)
        except (LookupError, TypeError, ValueError, ArithmeticError, struct.error) as error:
            raise CheckpointError(f"found a broken pickle: {_opcode_name(code)} at byte {at}: {error}") from error


class _Cursor:
    """A place in the file: reads go forward and never past the end. Bytes are views, not copies."""

    def __init__(self, data: memoryview, position: int) -> None:
        self.data = data
        self.position = position

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise CheckpointError(f"found a truncated file: it ends at byte {len(self.data)}, inside a pickle")
        view = self.data[self.position : end]
        self.position = end
        return view

    def integer(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def sized(self, size: int) -> memoryview:
        return self.take(self.integer(size))

    def text(self, size: int) -> str:
        return str(self.sized(size), "utf-8", "surrogatepass")

    def long(self, size: int) -> int:
        view = self.sized(size)
        if len(view) > MAX_INTEGER_BYTES:
            raise CheckpointError(f"found an integer of {len(view)} bytes; allowed are {MAX_INTEGER_BYTES}")
        return int.from_bytes(view, "little", signed=True)

    def real(self) -> float:
        (value,) = struct.unpack(">d", self.take(8))
        return float(value)

    def line(self) -> str:
        window = bytes(self.data[self.position : self.position + MAX_NAME_BYTES])
        end = window.find(b"\n")
        if end < 0:
            raise ValueError("no end of line")
        self.position += end + 1
        return window[:end].decode("utf-8")


_LITERALS: dict[bytes, Callable[[_Cursor], object]] = {
    pickle.NONE: lambda cursor: None,
    pickle.NEWTRUE: lambda cursor: True,
    pickle.NEWFALSE: lambda cursor: False,
    pickle.BININT: lambda cursor: cursor.integer(4, signed=True),
    pickle.BININT1: lambda cursor: cursor.integer(1),
    pickle.BININT2: lambda cursor: cursor.integer(2),
    pickle.LONG1: lambda cursor: cursor.long(1),
    pickle.LONG4: lambda cursor: cursor.long(4),
    pickle.BINFLOAT: lambda cursor: cursor.real(),
    pickle.SHORT_BINUNICODE: lambda cursor: cursor.text(1),
    pickle.BINUNICODE: lambda cursor: cursor.text(4),
    pickle.BINUNICODE8: lambda cursor: cursor.text(8),
    pickle.SHORT_BINBYTES: lambda cursor: cursor.sized(1),
    pickle.BINBYTES: lambda cursor: cursor.sized(4),
    pickle.BINBYTES8: lambda cursor: cursor.sized(8),
    pickle.BYTEARRAY8: lambda cursor: cursor.sized(8),
    pickle.EMPTY_LIST: lambda cursor: [],
    pickle.EMPTY_TUPLE: lambda cursor: (),
    pickle.EMPTY_DICT: lambda cursor: {},
    pickle.EMPTY_SET: lambda cursor: set(),
}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(
        self,
        cursor: _Cursor,
        constructors: Constructors,
        budget: Budget,
        persistent_load: Callable[[object], object] | None,
    ) -> None:
        self.cursor = cursor
        self.constructors = constructors
        self.budget = budget
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def step(self, code: bytes) -> None:
        self.budget.operate()
        stack, cursor = self.stack, self.cursor
        if code in _LITERALS:
            stack.append(_LITERALS[code](cursor))
            return
        if code in _TUPLES:
            stack.append(self._pop(_TUPLES[code]))
            return
        match code:
            case pickle.PROTO:
                if (protocol := cursor.integer(1)) > 5:
                    raise CheckpointError(f"found pickle protocol {protocol}; allowed are 2 to 5")
            case pickle.FRAME:
                if (length := cursor.integer(8)) > len(cursor.data) - cursor.position:
                    raise CheckpointError(f"found a truncated file: a frame of {length} bytes runs past its end")
            case pickle.MARK:
                self.marks.append(len(stack))
            case pickle.POP:
                stack.pop()
            case pickle.POP_MARK:
                self._pop_mark()
            case pickle.TUPLE:
                stack.append(tuple(self._pop_mark()))
            case pickle.APPEND:
                self._append([stack.pop()])
            case pickle.APPENDS:
                self._append(self._pop_mark())
            case pickle.SETITEM:
                self._set_items(list(self._pop(2)))
            case pickle.SETITEMS:
                self._set_items(self._pop_mark())
            case pickle.ADDITEMS:
                self._add_items(self._pop_mark())
            case pickle.BINGET:
                stack.append(self.memo[cursor.integer(1)])
            case pickle.LONG_BINGET:
                stack.append(self.memo[cursor.integer(4)])
            case pickle.BINPUT:
                self.memo[cursor.integer(1)] = stack[-1]
            case pickle.LONG_BINPUT:
                self.memo[cursor.integer(4)] = stack[-1]
            case pickle.MEMOIZE:
                self.memo[len(self.memo)] = stack[-1]
            case pickle.GLOBAL:
                module, name = cursor.line(), cursor.line()
                stack.append(self._global(module, name))
            case pickle.STACK_GLOBAL:
                stack.append(self._global(*self._pop(2)))
            case pickle.REDUCE | pickle.NEWOBJ:
                stack.append(self._call(*self._pop(2)))
            case pickle.BUILD:
                self._build(stack.pop())
            case pickle.BINPERSID:
                stack.append(self._persistent(stack.pop()))
            case _:
                raise CheckpointError(f"found the pickle opcode {_opcode_name(code)}, which no checkpoint needs")

    def _pop(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def _pop_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError(f"cannot append to {shown(self.stack[-1])}")
        self.stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError(f"cannot set items of {shown(self.stack[-1])}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.stack[-1][checked_key(key)] = value

    def _add_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], set):
            raise TypeError(f"cannot add to {shown(self.stack[-1])}")
        self.stack[-1].update(checked_key(value) for value in values)

    def _global(self, module: object, name: object) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        construct = self.constructors.get((module, name))
        if construct is None:
            found = shown(f"{module}.{name}")
            if module.split(".")[0] in ("tfutil", "tensorflow") or module.startswith("dnnlib.tflib"):
                raise CheckpointError(f"found a TensorFlow pickle ({found}); convert it to PyTorch first")
            raise CheckpointError(f"found the name {found}, which no checkpoint needs; it was not imported or run")
        return Global(module, name, construct)

    def _call(self, target: object, arguments: object) -> object:
        if not isinstance(target, Global) or not isinstance(arguments, tuple):
            raise TypeError(f"cannot call {shown(target)}")
        try:
            return target.construct(*arguments)
        except TypeError as error:
            raise CheckpointError(f"found a wrong call of {target.module}.{target.name}") from error

    def _build(self, state: object) -> None:
        target = self.stack[-1]
        if isinstance(target, (Record, NumpyDtype, NumpyArray)):
            target.build(state)
        elif not isinstance(target, dict) or not isinstance(state, dict):
            raise TypeError(f"cannot set the state of {shown(target)}")

    def _persistent(self, identifier: object) -> object:
        if self.persistent_load is None:
            raise CheckpointError("found a persistent id, which an official pickle does not have")
        return self.persistent_load(identifier)


def _opcode_name(code: bytes) -> str:
    known = pickletools.code2op.get(code.decode("latin-1"))  # type: ignore[attr-defined]
    return str(known.name) if known else f"byte {code.hex() or 'missing'}"
