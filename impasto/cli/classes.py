"""The option --label: a class by its index, or by its name where the model has names for its classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from impasto.errors import InvalidRequest

NEAREST = 5

Label = Annotated[
    str | None,
    typer.Option(metavar="INDEX|NAME", help="Class of a conditional model; `impasto models --json` tells names."),
]


def class_index(label: str | None, names: Callable[[], Sequence[str]]) -> int | None:
    """The index that the option gives, as digits or as one of the model's `names`, which are asked for if need be.

    Digits are an index, whatever the names. InvalidRequest with the nearest names if there is none such.
    """
    if label is None or re.fullmatch(r"[+-]?[0-9]{1,18}", label):
        return None if label is None else int(label)
    there = list(names())
    if not there:
        raise InvalidRequest("label", label, "a class's index; this model has no names of classes")
    if label not in there:
        raise InvalidRequest("label", label, _allowed(label, there))
    return there.index(label)


def _allowed(label: str, names: Sequence[str]) -> str:
    from difflib import SequenceMatcher

    def likeness(name: str) -> float:
        return SequenceMatcher(None, label.casefold(), name.casefold(), autojunk=False).ratio()

    nearest = ", ".join(map(repr, sorted(names, key=likeness, reverse=True)[:NEAREST]))
    listed = nearest if len(names) <= NEAREST else f"the model's {len(names)} names, of which the nearest are {nearest}"
    return f"an index from 0 to {len(names) - 1}, or one of {listed}"
