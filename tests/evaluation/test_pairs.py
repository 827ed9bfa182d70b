from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.image import (
    MultiScaleStructuralSimilarityIndexMeasure,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
)

from impasto.evaluation.pairs import PAIR_METRICS, ms_ssim, psnr, ssim
from impasto.images.pixels import Bytes
from tests.evaluation.folders import texture

A = texture(1, 9.0, 192)
PAIRS = {
    "noisy": np.clip(A + 20 * np.random.RandomState(0).randn(*A.shape), 0, 255).astype(np.uint8),
    "darker": (A * 0.7).astype(np.uint8),
    "another": texture(2, 9.0, 192),
}


def tensor(picture: Bytes) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()).double()


@pytest.mark.parametrize("name", PAIRS)
def test_psnr_is_that_of_scikit_image(name: str) -> None:
    b = PAIRS[name]
    assert psnr(A, b) == pytest.approx(peak_signal_noise_ratio(A, b, data_range=255), abs=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_is_that_of_scikit_image_but_for_the_border_which_that_leaves_out(name: str) -> None:
    margin, side = 12, len(A)
    a, b = A.copy(), PAIRS[name].copy()
    for picture in (a, b):
        inner = picture[margin:-margin, margin:-margin].copy()
        picture[:] = 128
        picture[margin:-margin, margin:-margin] = inner
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    within = structural_similarity(a, b, channel_axis=2, **options)
    # Where the border is equal in both pictures it counts as 1.
    part = (side - 10) ** 2 / side**2
    assert ssim(a, b) == pytest.approx(part * within + (1 - part), abs=1e-5)
    assert ssim(a, b) < 0.99


@pytest.mark.parametrize("name", PAIRS)
def test_all_three_are_those_of_torchmetrics(name: str) -> None:
    b = PAIRS[name]
    for ours, theirs in (
        (psnr, PeakSignalNoiseRatio(data_range=255.0)),
        (ssim, StructuralSimilarityIndexMeasure(data_range=255.0)),
        (ms_ssim, MultiScaleStructuralSimilarityIndexMeasure(data_range=255.0)),
    ):
        assert ours(A, b) == pytest.approx(float(theirs(tensor(A), tensor(b))), abs=1e-5)


def test_a_picture_is_like_itself() -> None:
    assert psnr(A, A) == float("inf")
    assert ssim(A, A) == pytest.approx(1.0, abs=1e-9)
    assert ms_ssim(A, A) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", PAIR_METRICS)
def test_the_smallest_side_will_do(name: str) -> None:
    side = PAIR_METRICS[name].smallest
    a, b = texture(1, 5.0, side), texture(2, 5.0, side)
    assert np.isfinite(PAIR_METRICS[name].measure(a, b))
