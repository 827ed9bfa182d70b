from __future__ import annotations

import pytest
import torch
from torch import nn

from impasto.export.preview import fit_preview


def linear_decoder(matrix: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    """Colours latent·matrix + bias in squares of 2×2 pixels."""
    convolution = nn.Conv2d(*matrix.shape, kernel_size=1)
    convolution.weight.data = matrix.T[:, :, None, None]
    convolution.bias = nn.Parameter(bias)
    return nn.Sequential(convolution, nn.Upsample(scale_factor=2))


def test_a_linear_decoder_is_found_again() -> None:
    matrix = torch.tensor([[0.1, 0.0, -0.05], [0.02, 0.08, 0.0], [0.0, -0.1, 0.03], [0.05, 0.05, 0.05]])
    bias = torch.tensor([0.1, 0.0, -0.2])
    found = fit_preview(linear_decoder(matrix, bias), (4, 8, 8))
    torch.testing.assert_close(torch.tensor(found["matrix"]), matrix, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(torch.tensor(found["bias"]), bias, atol=1e-5, rtol=0.0)


def test_a_fit_is_the_same_each_time_and_stays_near_what_a_picture_can_show() -> None:
    decoder = linear_decoder(torch.full((4, 3), 5.0), torch.zeros(3))
    first, second = fit_preview(decoder, (4, 8, 8)), fit_preview(decoder, (4, 8, 8))
    assert first == second
    assert torch.tensor(first["matrix"]).abs().max() < 1.0, "pictures are clamped to [-1, 1]"


@pytest.mark.parametrize("size", [(4, 8, 8), (16, 4, 12)])
def test_there_is_a_row_for_each_channel(size: tuple[int, int, int]) -> None:
    decoder = linear_decoder(torch.rand(size[0], 3), torch.zeros(3))
    assert torch.tensor(fit_preview(decoder, size)["matrix"]).shape == (size[0], 3)
