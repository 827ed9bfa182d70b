"""The three launches of group normalisation and SiLU against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from impasto.kernels import group_norm_silu
from impasto.kernels.arguments import FLOATS
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 72
SHARED = 1024  # bytes


def _random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, last: bool = False) -> tuple[Tensor, ...]:
    torch.manual_seed(sum(shape))
    x = torch.randn(shape) * 2.0 + torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    if last:
        x = x.to(memory_format=torch.channels_last)
    return x.to(dtype), torch.randn(shape[1]), torch.randn(shape[1])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 1, 1, 1), 1), ((7, 3, 2, 5), 1), ((1, 20, 33, 7), 2), ((2, 96, 5, 3), 32), ((1, 6, 71, 29), 3)],
)
def test_equals_the_reference(shape: tuple[int, ...], groups: int, last: bool, dtype: torch.dtype) -> None:
    x, weight, bias = _random(shape, dtype, last=last)
    found = group_norm_silu.group_norm_silu(x, weight, bias, groups)
    assert found.stride() == x.stride()
    expected = group_norm_silu.reference(x.double(), weight.double(), bias.double(), groups)
    assert_close(found, expected, terms=x[0].numel() // groups)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_equals_the_reference_where_a_chunk_has_many_tiles(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_norm_silu, "tile", lambda *_: (8, 4))
    monkeypatch.setattr(group_norm_silu, "PROGRAMS", 9)
    assert group_norm_silu.chunk_size(19 * 11, 12, 8, 4) == 72, "nine tiles; the last chunk has 65 pixels"
    x, weight, bias = _random((1, 12, 19, 11), last=last)
    expected = group_norm_silu.reference(x.double(), weight.double(), bias.double(), 4)
    assert_close(group_norm_silu.group_norm_silu(x, weight, bias, 4), expected, terms=3 * 19 * 11)


def test_a_mean_far_from_zero_does_not_cost_the_variance() -> None:
    x, weight, bias = _random((1, 4, 16, 16))
    x = x + 4096.0
    expected = group_norm_silu.reference(x.double(), weight.double(), bias.double(), 2, activate=False)
    found = group_norm_silu.group_norm_silu(x, weight, bias, 2, activate=False)
    # Half a unit in the last place of 4096 in the mean is 2.4e-4 before the division by a deviation of 2.
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_parameters_may_have_the_dtype_of_x_and_eps_counts(dtype: torch.dtype) -> None:
    x, weight, bias = (tensor.to(dtype) for tensor in _random((2, 4, 3)))
    expected = group_norm_silu.reference(x.double(), weight.double(), bias.double(), 2, eps=0.5, activate=False)
    assert_close(group_norm_silu.group_norm_silu(x, weight, bias, 2, eps=0.5, activate=False), expected, terms=6)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_row_is_the_same_alone_and_in_a_full_batch(last: bool) -> None:
    x, weight, bias = _random((7, 10, 17, 13), last=last)
    batch = group_norm_silu.group_norm_silu(x, weight, bias, 5)
    for row in (0, 3, 6):
        assert torch.equal(batch[row : row + 1], group_norm_silu.group_norm_silu(x[row : row + 1], weight, bias, 5))


def test_one_large_sample_fills_a_card_and_a_chunk_has_many_pixels() -> None:
    for last in (False, True):
        sizes = group_norm_silu.tile(512 * 512, 128, last)
        chunk = group_norm_silu.chunk_size(512 * 512, 128, *sizes)
        assert chunk >= 512
        assert 512 * 512 / chunk * 128 / sizes[1] >= 512


def test_bad_arguments_are_named() -> None:
    x, weight, bias = _random((2, 4, 6, 6))
    call = group_norm_silu.group_norm_silu
    with pytest.raises(ValueError, match=r"groups: found 3; allowed: divisors of the 4 channels"):
        call(x, weight, bias, 3)
    with pytest.raises(ValueError, match=r"x: found torch.float64; allowed: torch.float32, "):
        call(x.double(), weight, bias, 2)
    with pytest.raises(ValueError, match=r"x: found strides .*; allowed: contiguous or channels-last"):
        call(x[..., ::2], weight, bias, 2)
    with pytest.raises(ValueError, match=r"x: found 1 dimensions; allowed: 2 or more"):
        call(weight, weight, bias, 2)
    with pytest.raises(ValueError, match=r"weight: found shape \[3\]; allowed: \[4\]"):
        call(x, weight[:3], bias, 2)
    with pytest.raises(ValueError, match=r"bias: found strides \(2,\); allowed: contiguous"):
        call(x, weight, torch.randn(8)[::2], 2)


SIZES = ("pixels", "channels", "groups", "width", "chunk", "chunks", "tiles")
TYPES = (
    dict.fromkeys(SIZES, "i32")
    | dict.fromkeys(("p_x", "p_y"), "*fp16")
    | dict.fromkeys(("p_moments", "p_statistics", "p_weight", "p_bias"), "*fp32")
    | dict.fromkeys(("count", "eps"), "fp32")
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills_for_channels_last(architecture: int) -> None:
    _assert_small(group_norm_silu._group_kernel, {"BLOCK_K": 512, "BLOCK_G": 4}, architecture, num_warps=8)
    _assert_both_passes_small(True, architecture)


def test_compiles_without_spills_for_contiguous() -> None:
    _assert_both_passes_small(False, 90)


def _assert_both_passes_small(last: bool, architecture: int) -> None:
    block_p, block_c = group_norm_silu.tile(512 * 512, 128, last)
    constants = {"channel_stride" if last else "pixel_stride": 1, "BLOCK_P": block_p, "BLOCK_C": block_c}
    _assert_small(group_norm_silu._chunk_kernel, constants, architecture)
    _assert_small(group_norm_silu._apply_kernel, constants | {"ACTIVATE": True}, architecture)


def _assert_small(kernel: Any, constants: dict[str, int], architecture: int, num_warps: int = 4) -> None:
    moving = "pixel_stride" if "channel_stride" in constants else "channel_stride"
    signature, divisible = TYPES | {moving: "i32"}, ("pixels", "channels", "chunk", moving)
    found = compile_offline(kernel, signature, constants, architecture, divisible=divisible, num_warps=num_warps)
    assert found.spilled == 0
    assert found.registers <= REGISTERS
    assert found.shared <= SHARED
