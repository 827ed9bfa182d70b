"""Names of a conditional model's classes, and how they travel in the header of a weights file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from impasto.errors import CheckpointError, InvalidRequest

CLASS_NAMES = "class_names"
"""What a weights file states them as, in JSON, and a manifest lists them under."""


def check_class_names(names: Sequence[str], count: int) -> None:
    """InvalidRequest unless the names are `count`, printable, not blank, and no two the same."""
    if len(names) != count:
        raise InvalidRequest(
            CLASS_NAMES, len(names), f"{count}, one a class" if count else "none; this model is not conditional"
        )
    for name, times in Counter(names).items():
        if not name.strip() or not name.isprintable():
            raise InvalidRequest(CLASS_NAMES, name, "printable text that is not blank")
        if times > 1:
            raise InvalidRequest(CLASS_NAMES, name, f"a name of one class, not of {times}")


def read_class_names(weights: Path) -> tuple[str, ...]:
    """The names in the header of a safetensors file; none where it has none. CheckpointError if they are no texts."""
    with weights.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    stated = (header.get("__metadata__") or {}).get(CLASS_NAMES, "[]")
    try:
        names = json.loads(stated)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{weights}: {CLASS_NAMES}: found {stated[:80]!r}; allowed is a JSON list of texts")
    return tuple(names)
