"""Sweeps: every combination of the values of some axes, and what of them is still to measure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from impasto.bench.result import Load
from impasto.errors import InvalidRequest

Setting = str | int | float
Settings = dict[str, Setting]
WHOLE = ("batch", "steps", "width", "height", "concurrency", "threads")
NUMBERS = ("rate",)
WORDS = ("backend", "precision", "device")
OF_THE_SYSTEM = ("backend", "precision", "device", "threads")
"""Axes that a running server does not change."""


def parse_axes(words: Iterable[str]) -> dict[str, list[Setting]]:
    """Words such as "batch=1,2,4" by axis, in their order. InvalidRequest for an axis or a value that there is not."""
    axes: dict[str, list[Setting]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or name not in (*WHOLE, *NUMBERS, *WORDS):
            raise InvalidRequest(
                "sweep", word, f"AXIS=VALUE,.. with AXIS one of {', '.join((*WHOLE, *NUMBERS, *WORDS))}"
            )
        if name in axes:
            raise InvalidRequest("sweep", f"{name} twice", "each axis once")
        axes[name] = [_value(name, value.strip()) for value in values.split(",")]
    return axes


def combinations(axes: dict[str, list[Setting]]) -> list[Settings]:
    """Every combination, the last axis changing fastest; one empty combination of no axes."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run_name(system: str, protocol: str, scenario: str, load: Load, settings: Settings) -> str:
    """A run's name: what it was asked, so that the same run of another file has the same one."""
    entries = [f"{entry.model} {_details(entry)}".strip() for entry in load.mix]
    mix = entries[0] if len(entries) == 1 else f"mix of {', '.join(entries)}"
    pace = [f"{load.arrivals} {load.rate:g}/s"] if load.rate is not None else []
    pace += [f"{load.concurrency} callers"] if load.concurrency is not None else []
    rest = [f"{name}={value}" for name, value in settings.items() if name in OF_THE_SYSTEM]
    over = "in-process" if protocol == "in-process" else f"over {protocol}"
    return ", ".join([f"{system} {over}", scenario, mix, *pace, *rest])


def _details(entry: object) -> str:
    shown = ("batch", "steps", "width", "height", "priority", "deadline_ms")
    values = {name: getattr(entry, name) for name in shown}
    return " ".join(f"{name}={value:g}" for name, value in values.items() if value)


def _value(name: str, text: str) -> Setting:
    if name in WORDS:
        if not text:
            raise InvalidRequest(f"sweep {name}", "an empty value", "a name")
        return text
    try:
        value = int(text) if name in WHOLE else float(text)
    except ValueError:
        value = 0
    if not value > 0 or value == float("inf"):
        raise InvalidRequest(f"sweep {name}", text, "whole numbers above 0" if name in WHOLE else "numbers above 0")
    return value
