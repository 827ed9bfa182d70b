"""What a pickle may build: plain values, inert records in place of objects, and a budget for the work.

Every constructor checks its arguments and makes something that does nothing. The names that it goes by (numpy's,
Python's) are only names: the functions behind them are never called with what a file gives.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from impasto.errors import CheckpointError

MAX_OPERATIONS = 500_000  # of a generator at 1024×1024 with all that is trained beside it: under 100 000
MAX_KEY = 2**61 - 2  # the last integer that is its own hash: above it, keys that all collide are easy to make


@dataclasses.dataclass
class Budget:
    """What one file may still cost: operations (those of nested pickles too), and bytes made out of its text."""

    encoded_bytes: int
    operations: int = MAX_OPERATIONS

    def operate(self, count: int = 1) -> None:
        self.operations -= count
        if self.operations < 0:
            raise CheckpointError(
                f"found a pickle of more than {MAX_OPERATIONS} operations; no checkpoint needs as many"
            )

    def encode(self, count: int) -> None:
        self.encoded_bytes -= count
        if self.encoded_bytes < 0:
            raise CheckpointError("found text that the pickle turns into more bytes than the file has")


@dataclasses.dataclass(frozen=True)
class Record:
    """An object of a class that nobody needs: its state is dropped."""

    kind: str

    def build(self, state: object) -> None:
        if not isinstance(state, dict):
            raise ValueError(f"state of {self.kind}")


@dataclasses.dataclass
class NumpyDtype:
    """The dtype of plain numbers, as numpy pickles it: `code` is kind and size, the byte order comes by BUILD."""

    code: str
    order: str = "|"

    def build(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise CheckpointError("found a structured numpy dtype; allowed are plain numbers")
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError("byte order")
        self.order = state[1]


@dataclasses.dataclass(frozen=True)
class NumpyArray:
    """A numpy array of plain numbers. No generator keeps one that matters, so its values are not kept."""

    def build(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], NumpyDtype):
            raise ValueError("state of an array")
        if not isinstance(state[4], (bytes, memoryview)):
            raise CheckpointError("found a numpy array of Python objects; allowed are plain numbers")


def plain_constructors(budget: Budget) -> dict[tuple[str, str], Callable[..., object]]:
    """The table for containers and numbers: what any pickle of a checkpoint may hold."""
    table: dict[tuple[str, str], Callable[..., object]] = {
        ("collections", "OrderedDict"): empty_dict,
        ("argparse", "Namespace"): lambda: Record("argparse.Namespace"),
        ("_codecs", "encode"): lambda text, encoding: _encode(text, encoding, budget),
        ("numpy", "dtype"): _numpy_dtype,
        ("numpy", "ndarray"): not_callable,
    }
    for builtins in ("builtins", "__builtin__"):
        table[builtins, "set"] = lambda items=(): _make_set(items, budget)
    for numpy_core in ("numpy.core", "numpy._core"):
        table[f"{numpy_core}.multiarray", "scalar"] = _numpy_scalar
        table[f"{numpy_core}.multiarray", "_reconstruct"] = lambda kind, shape, code: NumpyArray()
        table[f"{numpy_core}.numeric", "_frombuffer"] = lambda data, dtype, shape, order: NumpyArray()
    return table


def empty_dict() -> dict[Any, Any]:
    """The constructor of dicts of any class: items come by SETITEMS, where their keys are checked."""
    return {}


def not_callable(*arguments: object) -> object:
    """The constructor of a name that is only ever an argument."""
    raise TypeError("is only a name")


def shown(value: object) -> str:
    """A value of a pickle in an error message, short: a nested one could take for ever to print."""
    if isinstance(value, str):
        return repr(value[:80]) + ("…" if len(value) > 80 else "")
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)) and len(value) < 16 and all(isinstance(x, (int, float)) for x in value):
        return repr(value)
    if isinstance(value, Record):
        return f"a {value.kind}"
    return f"a {type(value).__name__}"


def checked_key(value: object) -> str | int | None:
    """The value, if it may be a key of a dict or a member of a set."""
    if value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) <= MAX_KEY):
        return value
    raise CheckpointError(f"found {shown(value)} as a key; allowed are text and integers")


def _make_set(items: object, budget: Budget) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise TypeError("items of a set")
    budget.operate(len(items))
    return {checked_key(item) for item in items}


def _encode(text: object, encoding: object, budget: Budget) -> bytes:
    """Protocol 2 has no bytes: it writes them as text of the same code points."""
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("text and encoding")
    budget.encode(len(text))
    return text.encode("latin-1")


def _numpy_dtype(code: object, align: object = False, copy: object = False) -> NumpyDtype:
    if not isinstance(code, str) or not re.fullmatch(r"[biuf][1248]", code):
        raise CheckpointError(f"found the numpy dtype {shown(code)}; allowed are plain numbers")
    return NumpyDtype(code)


def _numpy_scalar(dtype: object, data: object) -> bool | int | float:
    if not isinstance(dtype, NumpyDtype) or not isinstance(data, (bytes, memoryview)):
        raise TypeError("dtype and bytes of a number")
    (value,) = np.frombuffer(data, np.dtype(dtype.order + dtype.code)).tolist()
    number: bool | int | float = value
    return number
