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


def ssim(found: Pictures, expected: Pictures, peak: float = PEAK) -> float:
    """Mean structural similarity of pictures [N, C, H, W] (Wang et al. 2004).

    Over Gaussian windows of deviation 1.5 and side 11, or as fits, that lie in the picture; K₁ 0.01, K₂ 0.03; float64.
    """
    reach = min(5, (min(found.shape[2:]) - 1) // 2)
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / 1.5))
    taps /= taps.sum()

    def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis in (2, 3):
            values = np.lib.stride_tricks.sliding_window_view(values, len(taps), axis=axis) @ taps
        return values

    a, b = found.astype(np.float64), expected.astype(np.float64)
    mean_a, mean_b = blurred(a), blurred(b)
    variance_a, variance_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


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
