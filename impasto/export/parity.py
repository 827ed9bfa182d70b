"""How far two ways to compute the same pictures are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from impasto.errors import ExportError
from impasto.export.bundle import Parity

BATCHES = (1, 3, 8)
TOLERANCE = 1e-4
PEAK = 2.0

Pictures = NDArray[np.float32]


def psnr(found: Pictures, expected: Pictures, peak: float = PEAK) -> float:
    """Peak signal-to-noise ratio in dB, 10·log10(peak² / mean squared error); infinite for equal arrays."""
    error = float(np.mean(np.square(found.astype(np.float64) - expected.astype(np.float64))))
    return math.inf if error == 0.0 else 10.0 * math.log10(peak * peak / error)


def measure(found: Pictures, expected: Pictures) -> Parity:
    """Compare two batches of pictures [N, C, H, W] on [-1, 1]; at most 200 dB, so that the figure fits JSON."""
    largest = float(np.max(np.abs(found.astype(np.float64) - expected.astype(np.float64))))
    return Parity(batch=len(found), max_abs_error=largest, psnr_db=min(psnr(found, expected), 200.0))


def require_parity(
    graph: Callable[[int], Pictures],
    reference: Callable[[int], Pictures],
    batches: Iterable[int] = BATCHES,
    tolerance: float = TOLERANCE,
) -> list[Parity]:
    """Compare both at each batch size. ExportError if any picture is off by more than `tolerance`, or not finite."""
    return [require_close(graph(batch), reference(batch), "graph", tolerance) for batch in batches]


def require_close(found: Pictures, expected: Pictures, name: str, tolerance: float = TOLERANCE) -> Parity:
    """What `measure` finds; ExportError that names the graph if it is more than `tolerance`, or no number."""
    parity = measure(found, expected)
    if not parity.max_abs_error <= tolerance:
        raise ExportError(
            f"{name} at batch {parity.batch}: found a difference of {parity.max_abs_error:.3g} from torch; "
            f"allowed is {tolerance:g}"
        )
    return parity
