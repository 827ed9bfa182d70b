"""Resampling against float64; what the reference itself does is in test_modulated_conv.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from impasto.kernels import upfirdn
from impasto.kernels.arguments import FLOATS
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 96
SHARED = 2048  # bytes, for runs of a contiguous output


def _random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, last: bool = False) -> Tensor:
    torch.manual_seed(sum(shape))
    x = torch.randn(shape).to(dtype)
    return x.to(memory_format=torch.channels_last) if last else x


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(
    ("shape", "taps", "up", "down", "padding"),
    [
        ((1, 1, 1, 1), 4, 2, 1, (2, 1)),
        ((7, 3, 5, 4), 4, 2, 1, (2, 1)),
        ((1, 5, 9, 6), 4, 1, 1, (1, 1)),
        ((2, 70, 7, 3), 4, 1, 2, (1, 1)),
        ((1, 2, 7, 8), 5, 3, 2, (-1, 4)),
        ((1, 2, 6, 9), 1, 1, 3, (-2, -1)),
        ((1, 2, 6, 7), 2, 3, 1, (1, 0)),
        ((1, 1, 35, 33), 3, 1, 1, (0, 0)),
    ],
)
def test_equals_the_reference(
    shape: tuple[int, ...], taps: int, up: int, down: int, padding: tuple[int, int], last: bool, dtype: torch.dtype
) -> None:
    x = _random(shape, dtype, last=last)
    row = torch.randn(taps)
    found = upfirdn.upfirdn(x, row, up=up, down=down, padding=padding, gain=1.5)
    expected = upfirdn.reference(x.double(), row.double(), up=up, down=down, padding=padding, gain=1.5)
    assert found.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert_close(found, expected, terms=taps * taps)


def test_up_sampling_by_two_is_upsample2() -> None:
    x, taps = _random((2, 3, 4, 5)), upfirdn.binomial_filter()
    expected = upfirdn.upsample2(x.double(), taps.double())
    assert_close(upfirdn.upfirdn(x, taps, up=2, padding=(2, 1), gain=4.0), expected, terms=4)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_row_is_the_same_alone_and_in_a_full_batch(last: bool) -> None:
    x, taps = _random((7, 5, 9, 8), last=last), torch.randn(4)
    batch = upfirdn.upfirdn(x, taps, down=2, padding=(1, 1))
    for row in (0, 6):
        assert torch.equal(batch[row : row + 1], upfirdn.upfirdn(x[row : row + 1], taps, down=2, padding=(1, 1)))


def test_bad_arguments_are_named() -> None:
    x, taps = _random((1, 2, 4, 4)), upfirdn.binomial_filter()
    with pytest.raises(ValueError, match=r"padding: found \(-2, 0\), 4 taps at 4×4; allowed: what leaves an output"):
        upfirdn.upfirdn(x, taps, padding=(-2, 0))
    with pytest.raises(ValueError, match=r"up: found 0; allowed: 1 or more"):
        upfirdn.upfirdn(x, taps, up=0)
    with pytest.raises(ValueError, match=r"down: found -1; allowed: 1 or more"):
        upfirdn.upfirdn(x, taps, down=-1)
    with pytest.raises(ValueError, match=r"taps: found shape \[2, 2\]; allowed: \[4\]"):
        upfirdn.upfirdn(x, taps.reshape(2, 2))
    with pytest.raises(ValueError, match=r"taps: found torch.float16; allowed: torch.float32"):
        upfirdn.upfirdn(x, taps.half())
    with pytest.raises(ValueError, match=r"x: found strides .*; allowed: contiguous or channels-last"):
        upfirdn.upfirdn(x.transpose(2, 3), taps)
    with pytest.raises(ValueError, match=r"x: found 3 dimensions; allowed: 4"):
        upfirdn.upfirdn(x[0], taps)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture: int) -> None:
    _assert_small(2, 1, True, architecture)


@pytest.mark.parametrize(("up", "down", "last"), [(1, 1, True), (1, 2, True), (2, 1, False), (1, 2, False)])
def test_compiles_without_spills_whichever_way_it_resamples(up: int, down: int, last: bool) -> None:
    _assert_small(up, down, last, 90)


def _assert_small(up: int, down: int, last: bool, architecture: int) -> None:
    sizes = ("height", "width", "channels", "out_width", "out_pixels", "before", "tiles")
    signature = dict.fromkeys(sizes, "i32") | {"p_x": "*fp16", "p_y": "*fp16", "p_taps": "*fp32", "gain": "fp32"}
    block_p, block_c = upfirdn.tile(512 * 512, 64, last)
    constants = {"CHANNELS_LAST": last, "UP": up, "DOWN": down, "TAPS": 4, "BLOCK_P": block_p, "BLOCK_C": block_c}
    divisible = ("height", "width", "channels", "out_width", "out_pixels")
    found = compile_offline(upfirdn._upfirdn_kernel, signature, constants, architecture, divisible=divisible)
    assert found.spilled == 0
    assert found.registers <= REGISTERS
    assert found.shared <= SHARED
