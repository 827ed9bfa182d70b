"""Metrics of one picture beside another, uint8 [H, W, 3] both: torchmetrics in float64, values from 0 to 255."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from impasto.images.pixels import Bytes

PEAK = 255.0
SMALLEST_SSIM = 11
"""Side of the window: Gaussian, of deviation 1.5."""
SMALLEST_MS_SSIM = 176
"""The window still fits after four halvings."""


def psnr(a: Bytes, b: Bytes) -> float:
    """10·log₁₀(255² / mean squared difference) in dB; infinite for equal pictures."""
    if a.tobytes() == b.tobytes():
        return float("inf")
    return float(peak_signal_noise_ratio(_tensor(a), _tensor(b), data_range=PEAK))


def ssim(a: Bytes, b: Bytes) -> float:
    """Structural similarity (Wang et al. 2004), 1 for equal pictures. Sides of SMALLEST_SSIM or more.

    The mean over the whole picture, mirrored beyond its border; scikit-image leaves out the 5 pixels at the border.
    """
    value = structural_similarity_index_measure(_tensor(a), _tensor(b), data_range=PEAK)
    assert isinstance(value, Tensor), "no map was asked for"
    return float(value)


def ms_ssim(a: Bytes, b: Bytes) -> float:
    """The same at five scales (Wang et al. 2003). Sides of SMALLEST_MS_SSIM or more."""
    return float(multiscale_structural_similarity_index_measure(_tensor(a), _tensor(b), data_range=PEAK))


@dataclasses.dataclass(frozen=True)
class PairMetric:
    """How it is measured, and the smallest side of a picture that it can do with."""

    measure: Callable[[Bytes, Bytes], float]
    smallest: int


PAIR_METRICS: Mapping[str, PairMetric] = {
    "psnr": PairMetric(psnr, 1),
    "ssim": PairMetric(ssim, SMALLEST_SSIM),
    "ms-ssim": PairMetric(ms_ssim, SMALLEST_MS_SSIM),
}


def _tensor(picture: Bytes) -> Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1)[None].astype("float64"))
