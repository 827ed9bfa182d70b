"""StyleGAN3's filtered leaky ReLU against float64, and its reference against the definition in sums."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from impasto.kernels import filtered_lrelu
from impasto.kernels.arguments import FLOATS
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, Resources, compile_offline

REGISTERS = 104
SHARED = 8192  # bytes


def _case(
    shape: tuple[int, ...], up_taps: int, down_taps: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(sum(shape))
    x, bias = torch.randn(shape).to(dtype), torch.randn(shape[1]).to(dtype)
    return x, bias, torch.randn(up_taps) / math.sqrt(up_taps), torch.randn(down_taps) / math.sqrt(down_taps)


def _double(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    ("shape", "up_taps", "down_taps", "options"),
    [
        ((1, 1, 1, 1), 1, 1, {}),
        ((7, 1, 5, 4), 12, 12, {"up": 2, "down": 2, "padding": (10, 11, 10, 11), "clamp": 1.0}),
        ((1, 3, 6, 9), 24, 12, {"up": 4, "down": 2, "padding": (-3, 20, 16, -2), "clamp": 0.5}),
        ((1, 2, 9, 7), 5, 4, {"up": 3, "down": 1, "padding": (9, -5, 0, 14), "slope": 1, "gain": 1, "clamp": 2}),
        ((1, 2, 36, 5), 1, 32, {"down": 3, "padding": (20, 13, -1, 2)}),
        ((1, 1, 3, 33), 32, 2, {"down": 5, "padding": (30, 7, 31, 16), "slope": -0.5}),
    ],
)
def test_equals_the_reference(
    shape: tuple[int, ...], up_taps: int, down_taps: int, options: dict[str, Any], dtype: torch.dtype
) -> None:
    case = _case(shape, up_taps, down_taps, dtype)
    found = filtered_lrelu.filtered_lrelu(*case, **options)
    expected = filtered_lrelu.reference(*_double(case), **options)
    assert found.dtype == dtype
    assert_close(found, expected, terms=up_taps * down_taps)


def test_reference_is_the_definition() -> None:
    x, bias, up_taps, down_taps = _double(_case((1, 1, 1, 6), 5, 3))
    found = filtered_lrelu.reference(
        x, bias, up_taps, down_taps, up=3, down=2, padding=(7, -4, 2, 4), slope=0.3, gain=1.5, clamp=0.4
    )
    stuffed = torch.zeros(2 + 3 + 4, 7 + 18, dtype=torch.float64)
    stuffed[2, 7::3] = x[0, 0, 0] + bias
    stuffed = stuffed[:, :-4]
    u = _convolved(stuffed, up_taps) * 9
    t = (torch.where(u < 0, 0.3 * u, u) * 1.5).clamp(-0.4, 0.4)
    assert_close(found[0, 0], _convolved(t, down_taps)[::2, ::2], terms=1)


def _convolved(image: Tensor, taps: Tensor) -> Tensor:
    size = len(taps)
    out = torch.zeros(image.shape[0] - size + 1, image.shape[1] - size + 1, dtype=image.dtype)
    for i in range(size):
        for j in range(size):
            window = image[size - 1 - i : image.shape[0] - i, size - 1 - j : image.shape[1] - j]
            out += taps[i] * taps[j] * window
    return out


def test_row_is_the_same_alone_and_in_a_full_batch() -> None:
    x, bias, up_taps, down_taps = _case((7, 2, 5, 6), 12, 12, torch.float16)
    options: dict[str, Any] = {"up": 2, "down": 2, "padding": (10, 11, 10, 11)}
    batch = filtered_lrelu.filtered_lrelu(x, bias, up_taps, down_taps, **options)
    for row in (0, 6):
        alone = filtered_lrelu.filtered_lrelu(x[row : row + 1], bias, up_taps, down_taps, **options)
        assert torch.equal(batch[row : row + 1], alone)


def test_a_clamp_bounds_what_overflows() -> None:
    x = torch.full((1, 1, 2, 2), 6e4, dtype=torch.float16)
    one = torch.ones(1)
    y = filtered_lrelu.filtered_lrelu(x, torch.zeros(1), 2 * one, one, clamp=256.0)
    assert torch.equal(y, torch.full_like(x, 256.0))


def test_bad_arguments_are_named() -> None:
    x, bias, up_taps, down_taps = _case((1, 2, 4, 4), 4, 4)

    def refuses(message: str, *tensors: Tensor, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            filtered_lrelu.filtered_lrelu(*tensors, **options)

    refuses(r"x: found shape \[2, 4, 4\]; allowed: \[N, C, H, W\]", x[0], bias, up_taps, down_taps)
    refuses(r"x: found torch.float64; allowed: torch.float32", x.double(), bias, up_taps, down_taps)
    last = x.to(memory_format=torch.channels_last)
    refuses(r"x: found strides .*; allowed: contiguous", last, bias, up_taps, down_taps)
    refuses(r"bias: found shape \[1\]; allowed: \[2\]", x, bias[:1], up_taps, down_taps)
    refuses(r"down_taps: found shape \[4, 4\]; allowed: \[1\] to \[32\]", x, bias, up_taps, torch.ones(4, 4))
    refuses(r"up_taps: found shape \[33\]; allowed: \[1\] to \[32\]", x, bias, torch.ones(33), down_taps)
    refuses(r"up_taps: found torch.float16; allowed: torch.float32", x, bias, up_taps.half(), down_taps)
    refuses(r"up: found 0; allowed: 1 or more", x, bias, up_taps, down_taps, up=0)
    refuses(r"clamp: found -1.0; allowed: None, or 0 and more", x, bias, up_taps, down_taps, clamp=-1.0)
    refuses(r"padding: found \(0, 0, 0, 0\) at 4×4 times 1; allowed: what leaves", x, bias, up_taps, down_taps)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("up", "up_taps"), [(2, 12), (4, 24)])
def test_compiles_without_spills(up: int, up_taps: int, architecture: int) -> None:
    found = _compiled(up, 2, up_taps, 12, architecture)
    assert found.registers <= REGISTERS
    assert found.shared <= SHARED


def test_the_longest_filters_compile_without_spills() -> None:
    found = _compiled(1, 1, 32, 1, 90)
    assert found.registers <= 240
    assert found.shared <= 4 * SHARED


def _compiled(up: int, down: int, up_taps: int, down_taps: int, architecture: int) -> Resources:
    sides = filtered_lrelu.tile(up, down, up_taps, down_taps)
    sizes = ("channels", "height", "width", "out_height", "out_width", "left", "top", "tiles", "columns")
    scalars = dict.fromkeys(sizes, "i32") | dict.fromkeys(("slope", "gain", "clamp"), "fp32")
    pointers = {"p_x": "*fp16", "p_y": "*fp16"} | dict.fromkeys(("p_bias", "p_up", "p_down"), "*fp32")
    taps = {"UP": up, "DOWN": down, "UP_TAPS": up_taps, "DOWN_TAPS": down_taps, "KEPT": sides.kept}
    blocks = {"BLOCK_S": sides.samples, "BLOCK_T": filtered_lrelu.PIXELS, "BLOCK_O": sides.outputs}
    found = compile_offline(
        filtered_lrelu._filtered_lrelu_kernel,
        scalars | pointers,
        taps | blocks,
        architecture,
        num_warps=sides.warps,
    )
    assert found.spilled == 0
    assert "HMMA" in found.matrix
    return found
