"""The picture of a block's features, with the skip picture, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from impasto.kernels import to_rgb
from impasto.kernels.arguments import FLOATS
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 80
SHARED = 2048  # bytes


def _random(
    n: int, inputs: int, outputs: int, height: int, width: int, dtype: torch.dtype = torch.float32, *, last: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, weight, styles, bias, skip."""
    torch.manual_seed(n + inputs + outputs + height)
    x = torch.randn(n, inputs, height, width).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    skip = torch.randn(n, outputs, height // 2, width // 2)
    return x, torch.randn(outputs, inputs, 1, 1), torch.randn(n, inputs), torch.randn(outputs), skip


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "height", "width"),
    [(1, 1, 1, 2, 2), (7, 5, 3, 4, 6), (1, 150, 3, 2, 10), (2, 7, 4, 8, 8)],
)
def test_equals_the_reference(
    n: int, inputs: int, outputs: int, height: int, width: int, last: bool, dtype: torch.dtype
) -> None:
    arguments = _random(n, inputs, outputs, height, width, dtype, last=last)
    found = to_rgb.to_rgb(*arguments, clamp=2.0)
    assert found.dtype == torch.float32
    assert_close(found, to_rgb.reference(*(tensor.double() for tensor in arguments), clamp=2.0), terms=inputs)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_a_first_picture_has_no_skip_and_may_have_odd_sides(clamp: float | None) -> None:
    arguments = _random(2, 6, 3, 5, 3)[:4]
    expected = to_rgb.reference(*(tensor.double() for tensor in arguments), clamp=clamp)
    assert_close(to_rgb.to_rgb(*arguments, clamp=clamp), expected, terms=6)


def test_a_picture_without_features_is_the_skip_picture_up_sampled() -> None:
    x, weight, styles, bias, skip = _random(1, 2, 1, 4, 4)
    skip.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    found = to_rgb.to_rgb(x * 0.0, weight, styles, bias * 0.0, skip)
    axis = torch.tensor([0.75, 0.75, 0.25, 0.0])
    assert torch.equal(found[0, 0], torch.outer(axis, axis))


def test_nan_in_the_features_stays_nan() -> None:
    arguments = _random(1, 4, 3, 2, 2)
    arguments[0][0, 1, 0, 1] = torch.nan
    found = to_rgb.to_rgb(*arguments, clamp=1.0)
    assert found[0, :, 0, 1].isnan().all()
    assert found.isnan().sum() == 3


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_row_is_the_same_alone_and_in_a_full_batch(last: bool) -> None:
    x, weight, styles, bias, skip = _random(7, 37, 3, 6, 4, torch.float16, last=last)
    batch = to_rgb.to_rgb(x, weight, styles, bias, skip, clamp=8.0)
    for row in (0, 6):
        one = slice(row, row + 1)
        assert torch.equal(batch[one], to_rgb.to_rgb(x[one], weight, styles[one], bias, skip[one], clamp=8.0))


def test_bad_arguments_are_named() -> None:
    x, weight, styles, bias, skip = _random(2, 6, 3, 4, 4)
    with pytest.raises(ValueError, match=r"weight: found shape \[3, 6\]; allowed: \[3, 6, 1, 1\]"):
        to_rgb.to_rgb(x, weight[:, :, 0, 0], styles, bias, skip)
    with pytest.raises(ValueError, match=r"x: found 3×4 with a skip picture; allowed: even sides"):
        to_rgb.to_rgb(x[:, :, :3].contiguous(), weight, styles, bias, skip)
    with pytest.raises(ValueError, match=r"skip: found shape \[2, 3, 4, 4\]; allowed: \[2, 3, 2, 2\]"):
        to_rgb.to_rgb(x, weight, styles, bias, torch.randn(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"styles: found torch.float16; allowed: torch.float32"):
        to_rgb.to_rgb(x, weight, styles.half(), bias, skip)
    with pytest.raises(ValueError, match=r"skip: found strides .*; allowed: contiguous"):
        to_rgb.to_rgb(x, weight, styles, bias, skip.transpose(2, 3))
    with pytest.raises(ValueError, match=r"x: found strides .*; allowed: contiguous or channels-last"):
        to_rgb.to_rgb(x.transpose(2, 3).contiguous().transpose(2, 3), weight, styles, bias, skip)
    with pytest.raises(ValueError, match=r"x: found 3 dimensions; allowed: 4"):
        to_rgb.to_rgb(x[0], weight, styles, bias, skip)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture: int) -> None:
    _assert_small(32, True, architecture)


@pytest.mark.parametrize(("inputs", "last"), [(512, True), (32, False)])
def test_compiles_without_spills_for_many_inputs_and_for_contiguous(inputs: int, last: bool) -> None:
    _assert_small(inputs, last, 90)


def _assert_small(inputs: int, last: bool, architecture: int) -> None:
    unit, moving = ("input_stride", "pixel_stride") if last else ("pixel_stride", "input_stride")
    parameters = dict.fromkeys(("p_y", "p_weight", "p_styles", "p_bias", "p_skip"), "*fp32")
    sizes = dict.fromkeys(("inputs", "outputs", "height", "width", moving, "tiles"), "i32")
    block_p, block_i = to_rgb.tile(512 * 512, inputs, last)
    found = compile_offline(
        to_rgb._to_rgb_kernel,
        {"p_x": "*fp16", "clamp": "fp32"} | parameters | sizes,
        {unit: 1, "BLOCK_P": block_p, "BLOCK_I": block_i},
        architecture,
        divisible=("inputs", "height", "width", moving),
    )
    assert found.spilled == 0
    assert found.registers <= REGISTERS
    assert found.shared <= SHARED
