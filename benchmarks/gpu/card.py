"""The card that a benchmark ran on, what it wrote, and its table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine, output_of

RESULTS = Path(__file__).parent.parent / "results" / "gpu"
SIDE = 8192
PRODUCTS = 600
"""Launched and not waited for: a second of load on a fast card."""
QUERIED = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
)


def card(device: torch.device) -> dict[str, Any]:
    """Name, compute capability, memory and CUDA's version; driver, and clocks and power under load, by nvidia-smi."""
    properties = torch.cuda.get_device_properties(device)
    matrix = torch.zeros(SIDE, SIDE, dtype=torch.float16, device=device)
    for _ in range(PRODUCTS):
        matrix @ matrix
    query = (f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader", f"--id=GPU-{properties.uuid}")
    answers = output_of("nvidia-smi", *query).split(", ")
    torch.cuda.synchronize()
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_mib": properties.total_memory // 2**20,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch gives no type
    } | dict(zip(QUERIED, answers, strict=False))


def write(name: str, content: dict[str, Any]) -> Path:
    """Write results/gpu/NAME.json, made of `content` and the machine; returns the file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    path.write_text(json.dumps({"machine": machine(), **content}, indent=2) + "\n")
    return path


HEADS = (
    "kernel",
    "form",
    "shape",
    "dtype",
    "batch",
    "ms",
    "floor ms",
    "of copy",
    "× eager",
    "× textbook",
    "× compiled",
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as text; a form that is not used at its shape stands in brackets."""
    cells = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(HEADS))]
    aligned = [
        "  ".join(cell.ljust(width) if index < 4 else cell.rjust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]
    return "\n".join(line.rstrip() for line in aligned)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    form = row["form"] if row.get("routed", True) else f"({row['form']})"
    share = f"{row['share_of_copy']:.0%}" if "share_of_copy" in row else ""
    ratios = (
        f"{row['ratios'][kind]:.2f}" if kind in row["ratios"] else "" for kind in ("eager", "textbook", "compiled")
    )
    figures = f"{row['ms']:.4f}", f"{row['floor_ms']:.4f}", share
    return (row["kernel"], form, row["shape"], row["dtype"], str(row["batch"]), *figures, *ratios)
