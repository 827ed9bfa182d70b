"""What every benchmark shares: the machine it ran on, a table on the screen, a JSON file beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"


def write(name: str, rows: Sequence[dict[str, Any]], **more: Any) -> Path:
    """Write rows with the machine to results/cpu/NAME.json; returns the file."""
    path = RESULTS / "cpu" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **more, "rows": list(rows)}, indent=2) + "\n")
    return path


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table, the keys of the first as its heads."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=120).print(table)


def interleaved(ways: dict[str, Callable[[], object]], runs: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each run of each way, taken in turns so that all meet the same weather."""
    for _ in range(warm_up):
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            start = perf_counter()
            way()
            seconds[name].append(perf_counter() - start)
    return seconds
