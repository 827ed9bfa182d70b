"""StyleGAN3's filtered leaky ReLU against float64, and its reference against the definition in sums."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from impasto.generators import stylegan3_filters
from impasto.generators.stylegan3_config import StyleGAN3Config
from impasto.kernels import filtered_lrelu
from impasto.kernels.arguments import FLOATS
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, Resources, compile_offline

LIMITS = {False: (104, 8192), True: (136, 10_240)}
"""Registers, and bytes of shared memory, of the filters that are separable and of those that are not."""


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


def _radial_filters() -> list[Tensor]:
    """Those of StyleGAN3-R at 1024×1024, of each layer that has one."""
    config = StyleGAN3Config(1024, channel_base=65536, channel_max=1024, conv_kernel=1, radial_filters=True)
    layers = [layer for layer in config.layers if layer.radial]
    return [
        stylegan3_filters.radial(
            layer.down_taps, layer.target.cutoff, layer.target.half_width, layer.source.rate * layer.up
        )
        for layer in layers
    ]


def test_a_radial_filter_is_a_sum_of_up_to_five_separable_ones() -> None:
    filters = _radial_filters()
    assert len(filters) == 12
    for taps in filters:
        pairs = filtered_lrelu.separate(taps)
        assert pairs.shape[0] <= 5
        assert pairs.shape[1:] == (2, 12)
        assert pairs.dtype == torch.float32
        whole = torch.einsum("ry,rx->yx", *pairs.double().unbind(1))
        torch.testing.assert_close(whole, taps.double(), rtol=0, atol=1e-7 * taps.abs().max().item())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (7, 1, 5, 3), (1, 3, 9, 14)])
def test_filters_that_are_not_separable_equal_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, bias, up_taps, _ = _case(shape, 24, 12, dtype)
    options: dict[str, Any] = {"up": 4, "down": 2, "padding": (17, 16, 17, 16), "clamp": 2.0}
    for down_taps in (_radial_filters()[7], torch.randn(12, 12) / 12, torch.randn(5, 5) / 5):
        pairs = filtered_lrelu.separate(down_taps)
        found = filtered_lrelu.filtered_lrelu(x, bias, up_taps, pairs, **options)
        expected = filtered_lrelu.reference(*_double((x, bias, up_taps, down_taps)), **options)
        assert_close(found, expected, terms=24 * down_taps.numel())


@pytest.mark.parametrize("separable", [True, False])
def test_reference_is_the_definition(separable: bool) -> None:
    x, bias, up_taps, down_taps = _double(_case((1, 1, 1, 6), 5, 3))
    if not separable:
        down_taps = torch.arange(9, dtype=torch.float64).reshape(3, 3).sin()
    found = filtered_lrelu.reference(
        x, bias, up_taps, down_taps, up=3, down=2, padding=(7, -4, 2, 4), slope=0.3, gain=1.5, clamp=0.4
    )
    stuffed = torch.zeros(2 + 3 + 4, 7 + 18, dtype=torch.float64)
    stuffed[2, 7::3] = x[0, 0, 0] + bias
    stuffed = stuffed[:, :-4]
    u = _convolved(stuffed, torch.outer(up_taps, up_taps)) * 9
    t = (torch.where(u < 0, 0.3 * u, u) * 1.5).clamp(-0.4, 0.4)
    down_taps = torch.outer(down_taps, down_taps) if separable else down_taps
    assert_close(found[0, 0], _convolved(t, down_taps)[::2, ::2], terms=1)


def _convolved(image: Tensor, taps: Tensor) -> Tensor:
    size = len(taps)
    out = torch.zeros(image.shape[0] - size + 1, image.shape[1] - size + 1, dtype=image.dtype)
    for i in range(size):
        for j in range(size):
            window = image[size - 1 - i : image.shape[0] - i, size - 1 - j : image.shape[1] - j]
            out += taps[i, j] * window
    return out


@pytest.mark.parametrize("radial", [False, True])
def test_row_is_the_same_alone_and_in_a_full_batch(radial: bool) -> None:
    x, bias, up_taps, down_taps = _case((7, 2, 5, 6), 12, 12, torch.float16)
    options: dict[str, Any] = {"up": 2, "down": 2, "padding": (10, 11, 10, 11)}
    if radial:
        down_taps = filtered_lrelu.separate(_radial_filters()[-1])
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
    allowed = r"allowed: \[K\] or \[R, 2, K\], K from 1 to 32"
    refuses(rf"down_taps: found shape \[4, 4\]; {allowed}", x, bias, up_taps, torch.ones(4, 4))
    refuses(rf"down_taps: found shape \[2, 3, 4\]; {allowed}", x, bias, up_taps, torch.ones(2, 3, 4))
    refuses(rf"down_taps: found shape \[0, 2, 4\]; {allowed}", x, bias, up_taps, torch.ones(0, 2, 4))
    refuses(rf"down_taps: found shape \[1, 2, 33\]; {allowed}", x, bias, up_taps, torch.ones(1, 2, 33))
    refuses(r"up_taps: found shape \[33\]; allowed: \[1\] to \[32\]", x, bias, torch.ones(33), down_taps)
    refuses(r"up_taps: found torch.float16; allowed: torch.float32", x, bias, up_taps.half(), down_taps)
    refuses(r"up: found 0; allowed: 1 or more", x, bias, up_taps, down_taps, up=0)
    refuses(r"clamp: found -1.0; allowed: None, or 0 and more", x, bias, up_taps, down_taps, clamp=-1.0)
    refuses(r"padding: found \(0, 0, 0, 0\) at 4×4 times 1; allowed: what leaves", x, bias, up_taps, down_taps)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("paired", LIMITS)
@pytest.mark.parametrize(("up", "up_taps"), [(2, 12), (4, 24)])
def test_compiles_without_spills(up: int, up_taps: int, paired: bool, architecture: int) -> None:
    found = _compiled(up, 2, up_taps, 12, architecture, paired)
    registers, shared = LIMITS[paired]
    assert found.registers <= registers
    assert found.shared <= shared


def test_the_longest_filters_compile_without_spills() -> None:
    found = _compiled(1, 1, 32, 1, 90)
    assert found.registers <= 240
    assert found.shared <= 32_768


def _compiled(up: int, down: int, up_taps: int, down_taps: int, architecture: int, paired: bool = False) -> Resources:
    sides = filtered_lrelu.tile(up, down, up_taps, down_taps)
    sizes = ("channels", "height", "width", "out_height", "out_width", "left", "top", "pairs", "tiles", "columns")
    scalars = dict.fromkeys(sizes, "i32") | dict.fromkeys(("slope", "gain", "clamp"), "fp32")
    pointers = {"p_x": "*fp16", "p_y": "*fp16"} | dict.fromkeys(("p_bias", "p_up", "p_down"), "*fp32")
    taps = {"UP": up, "DOWN": down, "UP_TAPS": up_taps, "DOWN_TAPS": down_taps, "PAIRED": paired, "KEPT": sides.kept}
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
