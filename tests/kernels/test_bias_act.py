from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from impasto.kernels import bias_act
from impasto.kernels.arguments import FLOATS
from tests.kernels import bfloat16
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 48
SHARED = 2048  # bytes

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


@pytest.fixture(autouse=True)
def _rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16.repair(monkeypatch)


def _random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    return (torch.randn(shape) * 2.0).to(dtype), torch.randn(shape[1]).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@LAYOUTS
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 5, 3), (2, 48, 7, 9), (1, 2, 47, 53), (1, 2051, 1, 2)])
def test_equals_the_reference(shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype) -> None:
    x, bias = _random(shape, dtype)
    x = x.to(memory_format=layout)
    found = bias_act.bias_act(x, bias, clamp=2.5)
    assert found.stride() == x.stride()
    assert found.dtype == dtype
    assert_close(found, bias_act.reference(x.double(), bias.double(), clamp=2.5))


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 6), (2, 3, 2, 3, 2)])
def test_channels_are_dimension_one_of_any_number(shape: tuple[int, ...]) -> None:
    x, bias = _random(shape)
    assert_close(bias_act.bias_act(x, bias), bias_act.reference(x.double(), bias.double()))


@LAYOUTS
def test_linear_without_bias_and_clamp_changes_nothing(layout: torch.memory_format) -> None:
    x = _random((2, 3, 5, 4))[0].to(memory_format=layout)
    assert torch.equal(bias_act.bias_act(x, None, linear=True), x)
    clamped = bias_act.bias_act(x, None, linear=True, clamp=1.0)
    assert torch.equal(clamped, x.clamp(-1.0, 1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_bias_may_be_of_higher_precision_and_is_not_rounded_first(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 2, 2), -1.0, dtype=dtype)
    bias = torch.tensor([1.0 + 2.0**-14])
    found = bias_act.bias_act(x, bias, linear=True)
    assert torch.equal(found, torch.full_like(x, 2.0**-14))


@LAYOUTS
def test_a_sample_is_the_same_alone_and_in_a_batch(layout: torch.memory_format) -> None:
    x, bias = _random((7, 5, 9, 11))
    x = x.to(memory_format=layout)
    batch = bias_act.bias_act(x, bias, clamp=2.0)
    for i in (0, 4, 6):
        assert torch.equal(bias_act.bias_act(x[i : i + 1], bias, clamp=2.0)[0], batch[i])


@pytest.mark.parametrize("clamp", [None, 2.0])
def test_nan_stays_and_infinity_is_clamped(clamp: float | None) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf]).reshape(1, 1, 1, 3)
    found = bias_act.bias_act(x, torch.zeros(1), clamp=clamp)
    assert found.flatten()[0].isnan()
    assert found.flatten()[1:].tolist() == [clamp or math.inf, -(clamp or math.inf)]


def test_bad_arguments_are_named() -> None:
    x, bias = _random((2, 4, 6, 6))
    call = bias_act.bias_act
    with pytest.raises(ValueError, match=r"x: found torch.float64; allowed: torch.float32, "):
        call(x.double(), bias)
    with pytest.raises(ValueError, match=r"x: found shape \[4\]; allowed: \[N, C, ...\]"):
        call(bias, bias)
    with pytest.raises(ValueError, match=r"x: found strides .*; allowed: contiguous or channels-last"):
        call(x[..., ::2], bias)
    with pytest.raises(ValueError, match=r"bias: found shape \[3\]; allowed: \[4\]"):
        call(x, bias[:3])
    with pytest.raises(ValueError, match=r"bias: found torch.int64; allowed: "):
        call(x, bias.long())
    with pytest.raises(ValueError, match=r"bias: found strides \(2,\); allowed: contiguous"):
        call(x, torch.zeros(8)[::2])
    with pytest.raises(ValueError, match=r"clamp: found -1.0; allowed: None, or 0 and more"):
        call(x, bias, clamp=-1.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture: int) -> None:
    signature = dict.fromkeys(("p_x", "p_out"), "*fp16") | {"p_bias": "*fp32"}
    signature |= dict.fromkeys(("rows", "columns", "channels"), "i32")
    signature |= dict.fromkeys(("negative", "positive", "clamp"), "fp32")
    for channels_last, rows, columns in ((True, 4, 512), (False, 128, 16)):
        constants = {"BIAS": True, "CHANNELS_LAST": channels_last, "ROWS": rows, "COLUMNS": columns}
        assert rows * columns == bias_act.BLOCK
        found = compile_offline(
            bias_act._bias_act_kernel,
            signature,
            constants,
            architecture,
            divisible=("rows", "columns", "channels"),
            num_warps=bias_act.NUM_WARPS,
        )
        print(architecture, constants, found)
        assert found.spilled == 0
        assert found.registers <= REGISTERS
        assert found.shared <= SHARED
