"""From measured times to the table that `impasto.kernels.routing` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from impasto.kernels import routing
from impasto.kernels.routing import Shape

KERNELS = {"modulated_conv": False, "modulated_conv_up": True}
"""Kernels that are routed, and whether they double the size."""

Measured = dict[str, dict[str, dict[int, float]]]
"""Milliseconds by shape, form and batch."""


def measured(rows: Sequence[dict[str, Any]]) -> Measured:
    """The times of all forms in 16 bits, by the keys of the table."""
    times: Measured = {}
    for row in rows:
        if row["kernel"] in KERNELS and row["dtype"] != "float32":
            times.setdefault(_key(row), {}).setdefault(row["form"], {})[row["batch"]] = row["ms"]
    return times


def fastest(times: Measured) -> dict[str, str]:
    """For each shape the form with the least product of its times over the batches, of those timed at all of them."""
    routes = {}
    for key, forms in times.items():
        batches = set.union(*(set(of_form) for of_form in forms.values()))
        complete = {form: math.prod(of_form.values()) for form, of_form in forms.items() if set(of_form) == batches}
        if complete:
            routes[key] = min(complete, key=complete.__getitem__)
    return routes


def mark(rows: Sequence[dict[str, Any]], routes: dict[str, str]) -> None:
    """Let the rows of routed kernels say which form the table takes."""
    for row in rows:
        if row["kernel"] in KERNELS and _key(row) in routes:
            row["routed"] = row["form"] == routes[_key(row)]


def write_table(card: str, times: Measured) -> Path:
    """Write the table of a card with the times that it comes from; returns the file."""
    path = routing.table_path(card)
    path.parent.mkdir(exist_ok=True)
    content = {"gpu": card, "machine": machine(), "routes": fastest(times), "ms": times}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def _key(row: dict[str, Any]) -> str:
    inputs, outputs, height, width = (int(part) for part in row["shape"].split("×")[:4])
    return Shape(inputs, outputs, height, width, KERNELS[row["kernel"]]).key
