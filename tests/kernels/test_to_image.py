from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from impasto.images import pixels
from impasto.kernels import to_image
from impasto.kernels.arguments import FLOATS
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 48
SHARED = 1024  # bytes

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


def _near_every_step(dtype: torch.dtype) -> Tensor:
    """float32 [1, 3, 16, k]: where a pixel's value changes, the floats on either side of it, and what lies beyond."""
    scale, offset, low, high = to_image.RANGES[dtype]
    steps = torch.linspace(low - 2, high + 2, 255 + 5, dtype=torch.float64).round()
    exact = ((steps - offset) / scale).float()
    infinity = torch.tensor(math.inf)
    odd = torch.tensor([0.0, -0.0, 1e-40, 1e30, -1e30, math.inf, -math.inf] * 12)
    values = torch.cat([exact, torch.nextafter(exact, infinity), torch.nextafter(exact, -infinity), odd])
    return values.reshape(1, 3, 16, -1)


@LAYOUTS
def test_bytes_are_those_of_the_numpy_form(layout: torch.memory_format) -> None:
    torch.manual_seed(1)
    x = torch.cat([_near_every_step(torch.uint8), torch.randn(2, 3, 16, 18)])
    x[1, 2, 5, 6] = math.nan
    found, flags = to_image.to_image(x.to(memory_format=layout))
    for picture, expected in zip(found, x, strict=True):
        np.testing.assert_array_equal(picture.numpy(), pixels.to_uint8(expected.numpy()))
    assert found[1, 5, 6, 2] == 0
    assert flags.tolist() == [0, 1, 0]


@LAYOUTS
@pytest.mark.parametrize("dtype", to_image.RANGES, ids=str)
def test_every_type_of_pixel_equals_the_reference(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = _near_every_step(dtype)
    found, flags = to_image.to_image(x.to(memory_format=layout), dtype)
    expected, _ = to_image.reference(x, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert flags.tolist() == [0]


@pytest.mark.parametrize("floats", FLOATS, ids=str)
@LAYOUTS
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 4, 3, 5), (2, 1, 33, 35), (1, 5, 37, 31)])
def test_every_shape_and_input_type_equals_the_reference(
    shape: tuple[int, ...], layout: torch.memory_format, floats: torch.dtype
) -> None:
    torch.manual_seed(sum(shape))
    x = torch.randn(shape).to(floats)
    x[-1, -1, -1, -1] = math.nan
    found, flags = to_image.to_image(x.to(memory_format=layout))
    expected, expected_flags = to_image.reference(x)
    assert found.is_contiguous()
    assert torch.equal(found, expected)
    assert torch.equal(flags, expected_flags)
    assert flags.tolist() == [0] * (shape[0] - 1) + [1]


def test_16_bits_cover_the_range_and_floats_keep_what_lies_beyond() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 1.5, 1e6, math.nan]).reshape(1, 1, 2, 3)
    sixteen, _ = to_image.to_image(x, torch.uint16)
    assert sixteen.flatten().tolist() == [0, 32768, 65535, 65535, 65535, 0]
    floats, flags = to_image.to_image(x, torch.float16)
    assert floats.flatten().tolist() == [-1.0, 0.0, 1.0, 1.5, 65504.0, 0.0]
    assert flags.tolist() == [1]


@LAYOUTS
def test_a_picture_is_the_same_alone_and_in_a_batch(layout: torch.memory_format) -> None:
    torch.manual_seed(2)
    x = torch.randn(7, 3, 19, 23).to(memory_format=layout)
    batch, _ = to_image.to_image(x)
    for i in (0, 3, 6):
        assert torch.equal(to_image.to_image(x[i : i + 1])[0][0], batch[i])


def test_bad_arguments_are_named() -> None:
    x = torch.zeros(2, 3, 4, 6)
    with pytest.raises(ValueError, match=r"x: found torch.float64; allowed: torch.float32, "):
        to_image.to_image(x.double())
    with pytest.raises(ValueError, match=r"x: found shape \[3, 4, 6\]; allowed: \[N, C, H, W\]"):
        to_image.to_image(x[0])
    with pytest.raises(ValueError, match=r"x: found strides .*; allowed: contiguous or channels-last"):
        to_image.to_image(x[..., ::2])
    with pytest.raises(ValueError, match=r"dtype: found torch.int8; allowed: torch.uint8, torch.uint16, torch.float16"):
        to_image.to_image(x, torch.int8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture: int) -> None:
    signature = {"p_out": "*u8", "p_flags": "*i32", "pixels": "i32"}
    signature |= dict.fromkeys(("scale", "offset", "low", "high"), "fp32")
    for floats, channels in (("*fp32", 3), ("*fp16", 1)):
        found = compile_offline(
            to_image._to_image_kernel,
            signature | {"p_x": floats},
            {"CHANNELS": channels, "BLOCK": to_image.block(channels)},
            architecture,
            divisible=("pixels",),
            num_warps=to_image.NUM_WARPS,
        )
        print(architecture, floats, channels, found)
        assert found.spilled == 0
        assert found.registers <= REGISTERS
        assert found.shared <= SHARED
