"""The reference against loops in float64 that say what a modulated convolution is; the kernel against the reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from impasto.kernels import modulated_conv, upfirdn
from impasto.kernels.modulated_conv import pack_weight
from impasto.kernels.tiles import splits_of
from tests.kernels import bfloat16
from tests.kernels.closeness import assert_close
from tests.kernels.modulated_case import DTYPES, Case, make_case


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16.repair(monkeypatch)


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


def _run(case: Case, *, precision: str = "tf32") -> Tensor:
    weight = pack_weight(case.weight, case.x.dtype)
    return modulated_conv.modulated_conv(case.x, weight, case.styles, case.epilogue, precision=precision)


SHAPES = [
    (1, 1, 1, 1, 1, 3),
    (7, 3, 5, 4, 5, 3),  # split
    (2, 40, 24, 3, 7, 3),  # split
    (1, 20, 70, 17, 16, 3),
    (2, 33, 3, 5, 4, 1),
    (1, 3, 66, 33, 32, 1),  # the largest tile
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "inputs", "outputs", "height", "width", "size"), SHAPES)
def test_kernel_and_its_epilogue_are_those_of_float64(
    n: int, inputs: int, outputs: int, height: int, width: int, size: int, dtype: torch.dtype
) -> None:
    case = make_case(n, inputs, outputs, height, width, dtype, size=size)
    found = _run(case)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, case.expected(), terms=size * size * inputs)


def test_float32_without_tensor_cores_is_that_of_float64() -> None:
    case = make_case(1, 20, 9, 6, 6, torch.float32)
    assert_close(_run(case, precision="ieee"), case.expected(), terms=180)


@pytest.mark.parametrize("left_out", ["demodulation", "noise and strength", "bias", "clamp"])
@pytest.mark.parametrize("side", [4, 17])
def test_a_part_of_the_epilogue_can_be_left_out(left_out: str, side: int) -> None:
    case = make_case(1, 16, 4, side, side, torch.float32, size=1)
    parts = dataclasses.replace(case.epilogue, **dict.fromkeys(left_out.split(" and ")))
    case = dataclasses.replace(case, epilogue=parts)
    assert_close(_run(case), case.expected(), terms=16)


def test_a_linear_layer_has_neither_slope_nor_gain_and_noise_can_be_shared() -> None:
    case = make_case(2, 5, 3, 4, 4, torch.float32, size=1)
    noise = torch.randn(1, 4, 4)
    case = dataclasses.replace(case, epilogue=dataclasses.replace(case.epilogue, linear=True, noise=noise))
    assert_close(_run(case), case.expected(), terms=5)


@pytest.mark.parametrize(("height", "width", "size"), [(4, 5, 3), (17, 16, 1)])
def test_row_is_the_same_alone_and_in_a_batch(height: int, width: int, size: int) -> None:
    case = make_case(7, 12, 6, height, width, torch.float16, size=size)
    alone = torch.cat([_run(case.row(index)) for index in range(7)])
    assert torch.equal(_run(case), alone)


def test_the_clamp_does_not_hide_a_nan() -> None:
    case = make_case(1, 4, 2, 3, 3, torch.float32, size=1)
    case.x[0, 1, 2, 0] = torch.nan
    found = _run(case)
    assert torch.isnan(found[0, :, 2, 0]).all()
    assert torch.isnan(found).sum() == 2


def test_small_layers_are_split_towards_a_full_card_and_large_ones_are_not() -> None:
    assert splits_of(16, 8, 72) == 16
    assert splits_of(64, 8, 72) == 16
    assert splits_of(256, 32, 72) == 4
    assert splits_of(256, 32, 9) == 2
    assert splits_of(16, 1, 1) == 1
    assert splits_of(1024, 16, 72) == 1


def test_arguments_that_do_not_fit_are_refused() -> None:
    case = make_case(2, 4, 3, 5, 6, torch.float16)
    weight = pack_weight(case.weight, torch.float16)

    def refuses(
        message: str, *, precision: str = "tf32", packed: modulated_conv.PackedWeight = weight, **found: Tensor
    ):
        arguments = {"x": case.x, "styles": case.styles} | found
        with pytest.raises(ValueError, match=message):
            modulated_conv.modulated_conv(
                arguments["x"], packed, arguments["styles"], case.epilogue, precision=precision
            )

    refuses(r"x: found torch.float32; allowed is the weight's torch.float16", x=case.x.float())
    refuses(r"x: found \(2, 3, 5, 6\); allowed is \(N, 4, H, W\)", x=case.x[:, :3])
    refuses(r"x: found \(0, 4, 5, 6\)", x=case.x[:0])
    refuses(r"x: found strides \(120, 30, 6, 1\); allowed is channels-last", x=case.x.contiguous())
    refuses(r"styles: found contiguous torch.float16 \(2, 4\); allowed is", styles=case.styles.half())
    refuses(r"styles: found contiguous torch.float32 \(1, 4\); allowed is", styles=case.styles[:1])
    refuses(r"precision: found 'fp8'; allowed are", precision="fp8")
    refuses(
        r'weight: found one packed for up="transposed"', packed=pack_weight(case.weight, torch.float16, up="transposed")
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "demodulation",
            torch.ones(2, 4),
            r"demodulation: found contiguous torch.float32 \(2, 4\); allowed .* \(2, 3\)",
        ),
        ("noise", torch.ones(2, 6, 5), r"noise: .* allowed is contiguous torch.float32 \(2, 5, 6\) or \(1, 5, 6\)"),
        ("noise", None, "noise and strength: found strength alone; allowed are both or neither"),
        ("strength", None, "noise and strength: found noise alone"),
        ("strength", torch.ones(3), r"strength: found"),
        ("bias", torch.ones(3).half(), r"bias: found contiguous torch.float16"),
    ],
)
def test_an_epilogue_that_does_not_fit_is_refused(name: str, value: Tensor | None, message: str) -> None:
    parts = dataclasses.replace(make_case(2, 4, 3, 5, 6, torch.float32).epilogue, **{name: value})
    with pytest.raises(ValueError, match=message):
        parts.check((2, 3, 5, 6))


def test_a_weight_that_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight: found a kernel of \(5, 5\); allowed are \(1, 1\) and \(3, 3\)"):
        pack_weight(torch.ones(2, 2, 5, 5), torch.float32)
    with pytest.raises(ValueError, match=r"weight: found a kernel of \(1, 1\); allowed are \(3, 3\)"):
        pack_weight(torch.ones(2, 2, 1, 1), torch.float32, up="folded")
    with pytest.raises(ValueError, match=r"dtype: found torch.float64"):
        pack_weight(torch.ones(2, 2, 3, 3), torch.float64)
    with pytest.raises(ValueError, match=r"up: found 'nearest'"):
        pack_weight(torch.ones(2, 2, 3, 3), torch.float32, up="nearest")
