"""The reference against loops in float64 that say what a modulated convolution is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from impasto.kernels import modulated_conv, upfirdn


def _per_sample_weights(weight: Tensor, styles: Tensor) -> Tensor:
    scaled = weight[None] * styles[:, None, :, None, None]
    return scaled / (scaled.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()


def _random(n: int, inputs: int, outputs: int, side: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(n + 10 * inputs + 100 * side)
    x = torch.randn(n, inputs, side, side + 1, dtype=torch.float64)
    return x, torch.randn(outputs, inputs, size, size, dtype=torch.float64), torch.randn(n, inputs, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("n", "inputs", "outputs", "side"), [(1, 1, 1, 1), (2, 3, 5, 7), (3, 8, 4, 6)])
def test_shared_weights_equal_a_convolution_of_each_sample_with_its_own(
    n: int, inputs: int, outputs: int, side: int, size: int
) -> None:
    x, weight, styles = _random(n, inputs, outputs, side, size)
    own = _per_sample_weights(weight, styles)
    expected = torch.cat([torch.conv2d(x[i : i + 1], own[i], padding=size // 2) for i in range(n)])
    torch.testing.assert_close(modulated_conv.reference(x, weight, styles), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("up", ["transposed", "folded"])
@pytest.mark.parametrize(("n", "inputs", "outputs", "side"), [(1, 1, 1, 1), (2, 3, 5, 7), (3, 8, 4, 6)])
def test_up_convolution_is_zero_stuffing_convolution_and_blur(
    n: int, inputs: int, outputs: int, side: int, up: str
) -> None:
    x, weight, styles = _random(n, inputs, outputs, side, 3)
    own = _per_sample_weights(weight, styles)
    stuffed = torch.zeros(n, inputs, 2 * side - 1, 2 * side + 1, dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = x
    # A transposed convolution correlates the stuffed samples with the flipped kernel over a full border.
    full = torch.cat([torch.conv2d(stuffed[i : i + 1], own[i].flip(2, 3), padding=2) for i in range(n)])
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4.0
    blur = torch.outer(taps, taps).expand(outputs, 1, 4, 4)
    expected = torch.conv2d(full, blur, padding=1, groups=outputs)
    found = modulated_conv.reference(x, weight, styles, up=up)
    assert found.shape[2:] == (2 * side, 2 * side + 2)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_an_unknown_up_form_names_those_there_are() -> None:
    x, weight, styles = _random(1, 2, 2, 4, 3)
    with pytest.raises(ValueError, match=r'up: found \'nearest\'; allowed are None, "transposed" and "folded"'):
        modulated_conv.reference(x, weight, styles, up="nearest")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_do_not_overflow_with_styles_a_thousand_times_too_large(dtype: torch.dtype) -> None:
    x, weight, styles = _random(2, 64, 8, 8, 3)
    expected = modulated_conv.reference(x, weight, styles)
    found = modulated_conv.reference(x.to(dtype), weight.float(), styles.float() * 1000.0).double()
    assert torch.isfinite(found).all()
    # Demodulation cancels the factor: what is left is the rounding of 16 bits.
    assert (found - expected).abs().max() < {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]


def test_upfirdn_keeps_the_mean_and_drops_and_pads_as_asked() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    ones = torch.ones(1, 2, 5, 5)
    taps = upfirdn.binomial_filter()
    torch.testing.assert_close(upfirdn.upsample2(ones, taps)[..., 2:-2, 2:-2], torch.ones(1, 2, 6, 6))
    torch.testing.assert_close(upfirdn.reference(x, torch.ones(1), down=2), x[:, :, ::2, ::2])
    torch.testing.assert_close(upfirdn.reference(x, torch.ones(1), padding=(-1, 0)), x[:, :, 1:, 1:])


def test_upfirdn_convolves_so_that_one_sample_comes_out_as_the_filter() -> None:
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 1, 1] = 1.0
    taps = torch.tensor([1.0, 2.0, 4.0])
    found = upfirdn.reference(impulse, taps, padding=(2, 0))
    torch.testing.assert_close(found[0, 0, 1:4, 1:4], torch.outer(taps, taps))
