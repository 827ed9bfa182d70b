"""Layer normalisation with scale and shift of each sample against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from impasto.kernels import ada_norm
from impasto.kernels.arguments import FLOATS
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 128
SHARED = 64  # bytes


def _random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    scale, shift = torch.randn(2, shape[0], shape[-1])
    return (torch.randn(shape) * 3.0 + 1.0).to(dtype), scale, shift


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (7, 1, 3), (1, 5, 37), (3, 2, 3, 72), (7, 3, 129), (2, 1152)], ids=str)
def test_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, scale, shift = _random(shape, dtype)
    found = ada_norm.ada_norm(x, scale, shift)
    assert found.dtype == dtype
    assert_close(found, ada_norm.reference(x.double(), scale.double(), shift.double()), terms=shape[-1])


def test_the_longest_row_is_held_by_one_program() -> None:
    x, scale, shift = _random((1, ada_norm.MAX_CHANNELS))
    expected = ada_norm.reference(x.double(), scale.double(), shift.double())
    assert_close(ada_norm.ada_norm(x, scale, shift), expected, terms=ada_norm.MAX_CHANNELS)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_scale_and_shift_may_be_parts_of_one_tensor(dtype: torch.dtype) -> None:
    x = _random((3, 4, 24), dtype)[0]
    parts = torch.randn(3, 6 * 24).to(dtype).chunk(6, dim=1)
    expected = ada_norm.reference(x.double(), parts[4].double(), parts[1].double(), eps=0.1)
    assert_close(ada_norm.ada_norm(x, parts[4], parts[1], eps=0.1), expected, terms=24)


def test_a_mean_far_from_zero_does_not_cost_the_variance() -> None:
    x, scale, shift = _random((2, 3, 64))
    x = x + 4096.0
    expected = ada_norm.reference(x.double(), scale.double(), shift.double())
    # Half a unit in the last place of 4096 in the mean is 2.4e-4 before the division by a deviation of 3.
    assert (ada_norm.ada_norm(x, scale, shift) - expected).abs().max() < 1e-3


def test_row_is_the_same_alone_and_in_a_full_batch() -> None:
    x, scale, shift = _random((7, 3, 100))
    batch = ada_norm.ada_norm(x, scale, shift)
    for row in (0, 3, 6):
        one = slice(row, row + 1)
        assert torch.equal(batch[one], ada_norm.ada_norm(x[one], scale[one], shift[one]))


def test_bad_arguments_are_named() -> None:
    x, scale, shift = _random((2, 3, 8))
    with pytest.raises(
        ValueError, match=r"x: found shape \[8\]; allowed: \[N, ..., C\] with N from 1 and C from 1 to 16384"
    ):
        ada_norm.ada_norm(x[0, 0], scale, shift)
    with pytest.raises(ValueError, match=r"scale: found shape \[1, 8\]; allowed: \[2, 8\]"):
        ada_norm.ada_norm(x, scale[:1], shift)
    with pytest.raises(ValueError, match=r"shift\[0\]: found strides \(2,\); allowed: contiguous"):
        ada_norm.ada_norm(x, scale, torch.randn(2, 16)[:, ::2])
    with pytest.raises(ValueError, match=r"shift: found torch.float64; allowed: torch.float32, "):
        ada_norm.ada_norm(x, scale, shift.double())
    with pytest.raises(ValueError, match=r"x: found strides .*; allowed: contiguous"):
        ada_norm.ada_norm(x.transpose(0, 1), scale, shift)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture: int) -> None:
    sizes = ("rows", "channels", "scale_stride", "shift_stride")
    signature = dict.fromkeys(("p_x", "p_y", "p_scale", "p_shift"), "*bf16") | dict.fromkeys((*sizes, "tiles"), "i32")
    for channels in (64, 1152, 3072, 16384):
        block_r, block_c, num_warps = ada_norm.configuration(channels)
        found = compile_offline(
            ada_norm._ada_norm_kernel,
            signature | {"eps": "fp32"},
            {"BLOCK_R": block_r, "BLOCK_C": block_c},
            architecture,
            divisible=sizes,
            num_warps=num_warps,
        )
        assert found.spilled == 0
        assert found.registers <= REGISTERS
        assert found.shared <= SHARED
