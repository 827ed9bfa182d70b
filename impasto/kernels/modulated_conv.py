"""Modulated convolution with weights shared by the whole batch (StyleGAN2).

    y[n] = d[n] ⊙ conv(x[n] ⊙ s[n], W)         x [N, I, H, W], s [N, I], W [O, I, k, k]
    d[n, o] = (Σ_i s[n, i]² · Σ_k W[o, i, k]² + 1e-8)^-½

which equals convolving each sample with its own weights W·s·d (Karras et al. 2020, §2.2) without making them.
Up-sampling by two is a transposed convolution, stride 2, followed by the binomial filter; it has two exact forms:

- `transposed`: conv_transpose2d, zero-pad 1, blur. 9 multiplications an input pixel and channel pair, then the blur.
- `folded`: the filter folded into four 3×3 phases, one ordinary convolution with 4·O outputs and a pixel shuffle.
  36 multiplications, and nothing but a convolution.

The kernel is an implicit matrix product: its rows are pixels of one sample, its reduction runs over taps and channels.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels import upfirdn
from impasto.kernels.epilogue import Epilogue, check_float32, finish, reduce
from impasto.kernels.jit import jit, tl, triton
from impasto.kernels.tiles import power_of_two, splits_of, tile_of

EPSILON = 1e-8


def squared_weights(weight: Tensor) -> Tensor:
    """The table Σ_k W² of demodulation, [O, I], for weight [O, I, k, k]."""
    return weight.square().sum(dim=(2, 3))


def demodulation(styles: Tensor, squares: Tensor) -> Tensor:
    """d [N, O] for styles [N, I] and the table of `squared_weights` [O, I], in the dtype of `styles`."""
    return (styles.square() @ squares.t() + EPSILON).rsqrt()


def prenormalise(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Scale W [O, I, k, k] and s [N, I] into the range of fp16; demodulation cancels the change.

    W ← W / (√(I·k²) · max|W_o|), s ← s / max|s_n|. Only for demodulated layers.
    """
    fan_in = weight[0].numel()
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) * fan_in**0.5
    return weight / scale, styles / styles.abs().amax(dim=1, keepdim=True)


def reference(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: str | None = None) -> Tensor:
    """Modulated convolution of x [N, I, H, W], same padding; `up` is None, "transposed" or "folded" (twice the size).

    Styles and demodulation are computed in their own dtype (float32 or more); x may be of lower precision, and then
    weights and styles are pre-normalised.
    """
    if demodulate and x.dtype in (torch.float16, torch.bfloat16):
        weight, styles = prenormalise(weight, styles)
    x = x * styles.to(x.dtype)[:, :, None, None]
    y = convolve(x, weight, up)
    if demodulate:
        y = y * demodulation(styles, squared_weights(weight)).to(y.dtype)[:, :, None, None]
    return y


def convolve(x: Tensor, weight: Tensor, up: str | None) -> Tensor:
    """The plain convolution of x [N, I, H, W] with weight [O, I, k, k], same padding, up-sampled by two if asked."""
    if up is None:
        return functional.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)
    if up == "transposed":
        y = functional.conv_transpose2d(x, weight.to(x.dtype).transpose(0, 1), stride=2)
        return upfirdn.reference(y, upfirdn.binomial_filter(y.dtype, y.device), padding=(1, 1), gain=4.0)
    if up == "folded":
        y = functional.conv2d(x, fold_up_weight(weight).to(x.dtype), padding=1)
        return functional.pixel_shuffle(y, 2)
    raise ValueError(f'up: found {up!r}; allowed are None, "transposed" and "folded"')


def fold_up_weight(weight: Tensor) -> Tensor:
    """Fold the binomial filter into weight [O, I, 3, 3]: [4·O, I, 3, 3], outputs ordered (o, phase y, phase x)."""
    axis = _fold_axis(weight)
    folded = torch.einsum("pak,qbl,oikl->opqiab", axis, axis, weight)
    out_channels, in_channels = weight.shape[:2]
    return folded.reshape(4 * out_channels, in_channels, 3, 3)


def _fold_axis(like: Tensor) -> Tensor:
    """[phase, tap on x[i-1..i+1], tap of w] for one axis: where tap k of w lands after stride 2 and the filter g."""
    g0, g1, g2, g3 = (2.0 * tap / sum(upfirdn.BINOMIAL) for tap in upfirdn.BINOMIAL)
    even = [[0.0, g0, g1], [g1, g2, g3], [g3, 0.0, 0.0]]
    odd = [[0.0, 0.0, g0], [g0, g1, g2], [g2, g3, 0.0]]
    return torch.tensor([even, odd], dtype=like.dtype, device=like.device)


@dataclasses.dataclass(frozen=True)
class PackedWeight:
    """A weight as the kernels load it: `taps` [k·k, rows, I padded with zeros], the input channels contiguous.

    `rows` are the O output channels, or with `up="folded"` 4·O: all of phase (0, 0), then of (0, 1), (1, 0) and (1, 1).
    """

    taps: Tensor
    in_channels: int
    out_channels: int
    up: str | None


def pack_weight(weight: Tensor, dtype: torch.dtype, *, up: str | None = None) -> PackedWeight:
    """Pack weight [O, I, k, k], k 1 or 3, as `dtype`; `up` is None, or for a 3×3 "transposed" or "folded".

    For float16 and bfloat16 give a demodulated layer's weight from `prenormalise`, or it may overflow.
    """
    out_channels, in_channels, height, width = weight.shape
    if (height, width) not in ((1, 1), (3, 3)) or (up is not None and height == 1):
        allowed = "(1, 1) and (3, 3)" if up is None else "(3, 3)"
        raise ValueError(f"weight: found a kernel of {(height, width)}; allowed are {allowed}")
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"dtype: found {dtype}; allowed are torch.float16, torch.bfloat16 and torch.float32")
    if up not in (None, "transposed", "folded"):
        raise ValueError(f'up: found {up!r}; allowed are None, "transposed" and "folded"')
    if up == "folded":
        phases = fold_up_weight(weight).reshape(out_channels, 4, in_channels, 3, 3)
        weight = phases.transpose(0, 1).flatten(0, 1)
    granule = power_of_two(in_channels, 16, 64)
    taps = weight.new_zeros(height * width, weight.shape[0], -(-in_channels // granule) * granule, dtype=dtype)
    taps[:, :, :in_channels] = weight.permute(2, 3, 0, 1).flatten(0, 1)
    return PackedWeight(taps, in_channels, out_channels, up)


@jit
def accumulate(
    b_sum: tl.tensor,  # float32 [P, O], the sums so far
    p_x: tl.tensor,  # [P] pointers to a tap's pixels, at input channel 0
    m_x: tl.tensor,  # [P] whether they lie in the picture
    p_weight: tl.tensor,  # [O] pointers to a tap's rows of the weight, at input channel 0
    m_weight: tl.tensor,  # [O] whether there is such a row
    p_styles: tl.tensor,  # pointer to the sample's styles
    o_input: tl.tensor,  # [I] the input channels of this step
    inputs: tl.tensor,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    m_input = o_input < inputs
    b_x = tl.load(p_x[:, None] + o_input[None, :], mask=m_x[:, None] & m_input[None, :], other=0.0)
    b_style = tl.load(p_styles + o_input, mask=m_input, other=0.0).to(b_x.dtype)
    b_weight = tl.load(p_weight[None, :] + o_input[:, None], mask=m_weight[None, :], other=0.0)
    return tl.dot(b_x * b_style[None, :], b_weight, b_sum, input_precision=PRECISION)


@jit
def _convolution_kernel(
    x: tl.tensor,  # [N, H, W, I]
    weight: tl.tensor,  # as x [TAPS, UP·UP·O, padded I]
    styles: tl.tensor,  # float32 [N, I]
    demodulation: tl.tensor,  # this and the next four: see `finish`
    noise: tl.tensor,
    strength: tl.tensor,
    bias: tl.tensor,
    noise_stride: tl.tensor,
    out: tl.tensor,  # as x [N, UP·H, UP·W, O]; or the partial sums, float32 [N, SPLITS, UP·H·UP·W, O]
    height: tl.tensor,
    width: tl.tensor,
    inputs: tl.tensor,
    padded_inputs: tl.tensor,
    outputs: tl.tensor,
    TAPS: tl.constexpr,  # 1 or 9
    UP: tl.constexpr,  # 1, or 2: a pixel of x has four output pixels, each with rows of the weight of its own
    SPLITS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    LINEAR: tl.constexpr,
    CLAMP: tl.constexpr,
) -> None:
    n = tl.program_id(2).to(tl.int64)
    split = tl.program_id(1)
    pixels = height * width
    blocks = tl.cdiv(outputs, BLOCK_OUTPUTS)
    phase = tl.program_id(0) // blocks % (UP * UP)
    o_output = tl.program_id(0) % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    o_pixel = tl.program_id(0) // (blocks * UP * UP) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    row, column = o_pixel // width, o_pixel % width

    # Bit t says whether tap t of a pixel lies in the picture.
    inside = tl.zeros([BLOCK_PIXELS], tl.int32)
    for bit in tl.static_range(TAPS):
        tap_row = row + (bit // 3 - 1 if TAPS == 9 else 0)
        tap_column = column + (bit % 3 - 1 if TAPS == 9 else 0)
        here = (tap_row >= 0) & (tap_row < height) & (tap_column >= 0) & (tap_column < width)
        inside |= here.to(tl.int32) << bit

    b_sum = tl.zeros([BLOCK_PIXELS, BLOCK_OUTPUTS], tl.float32)
    steps_of_tap = padded_inputs // BLOCK_INPUTS
    steps = TAPS * steps_of_tap
    p_x = x + (n * pixels + o_pixel) * inputs
    p_weight = weight + (phase * outputs + o_output) * padded_inputs
    for step in range(steps * split // SPLITS, steps * (split + 1) // SPLITS):
        tap = step // steps_of_tap
        shift = (tap // 3 - 1) * width + tap % 3 - 1 if TAPS == 9 else 0
        b_sum = accumulate(
            b_sum,
            p_x + shift * inputs,
            (inside >> tap) & 1 != 0,
            p_weight + tap * (UP * UP * outputs * padded_inputs),
            o_output < outputs,
            styles + n * inputs,
            step % steps_of_tap * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS),
            inputs,
            PRECISION,
        )

    o_out = (UP * row + phase // UP) * (UP * width) + UP * column + phase % UP
    area = UP * UP * pixels
    if SPLITS == 1:
        b_sum = finish(
            b_sum, n, o_out, o_output, demodulation, noise, strength, bias, noise_stride, area, outputs, LINEAR, CLAMP
        )
    p_out = out + ((n * SPLITS + split) * area + o_out[:, None]) * outputs + o_output[None, :]
    tl.store(p_out, b_sum.to(out.dtype.element_ty), mask=(o_pixel < pixels)[:, None] & (o_output < outputs)[None, :])


def modulated_conv(
    x: Tensor, weight: PackedWeight, styles: Tensor, epilogue: Epilogue, *, precision: str = "tf32"
) -> Tensor:
    """The equation with its epilogue: x [N, I, H, W] in channels-last memory to [N, O, H, W], in x's type.

    `weight` is packed in x's type, float16, bfloat16 or float32; with `up="folded"` the output is [N, O, 2·H, 2·W].
    `styles` [N, I] are float32, rounded to x's type before x is scaled: for 16 bits give them as `prenormalise` does.
    `precision` says how float32 is multiplied, "tf32" or "ieee". A sample's values do not depend on the batch. Raises
    ValueError for an argument that does not fit.
    """
    n, _, height, width = x.shape
    up = 2 if weight.up == "folded" else 1
    if weight.up == "transposed":
        raise ValueError('weight: found one packed for up="transposed"; allowed are None and "folded"')
    check(x, weight, styles, precision)
    epilogue.check((n, weight.out_channels, up * height, up * width))
    taps, _, padded_inputs = weight.taps.shape
    tile = tile_of(height * width, weight.in_channels, weight.out_channels, x.dtype, precision)
    programs = triton.cdiv(height * width, tile.pixels) * triton.cdiv(weight.out_channels, tile.outputs) * up * up
    splits = splits_of(height * width, programs, taps * padded_inputs // tile.inputs)
    shape = (n, weight.out_channels, up * height, up * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    sums = out
    if splits > 1:
        sums = torch.empty((n, splits, *shape[2:], weight.out_channels), dtype=torch.float32, device=x.device)
    _convolution_kernel[(programs, splits, n)](
        x,
        weight.taps,
        styles,
        out=sums,
        height=height,
        width=width,
        inputs=weight.in_channels,
        padded_inputs=padded_inputs,
        outputs=weight.out_channels,
        TAPS=taps,
        UP=up,
        SPLITS=splits,
        BLOCK_PIXELS=tile.pixels,
        BLOCK_OUTPUTS=tile.outputs,
        BLOCK_INPUTS=tile.inputs,
        PRECISION=precision,
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=True,
        **(epilogue if splits == 1 else Epilogue()).arguments(),
    )
    if splits > 1:
        reduce(sums, out, epilogue)
    return out


def check(x: Tensor, weight: PackedWeight, styles: Tensor, precision: str) -> None:
    """Raise ValueError unless x, styles and precision fit the weight."""
    if x.dtype is not weight.taps.dtype:
        raise ValueError(f"x: found {x.dtype}; allowed is the weight's {weight.taps.dtype}")
    if x.numel() == 0 or x.shape[1] != weight.in_channels:
        raise ValueError(f"x: found {tuple(x.shape)}; allowed is (N, {weight.in_channels}, H, W), none of them 0")
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"x: found strides {x.stride()}; allowed is channels-last memory")
    check_float32("styles", styles, (x.shape[0], weight.in_channels))
    if precision not in ("tf32", "ieee"):
        raise ValueError(f'precision: found {precision!r}; allowed are "tf32" and "ieee"')
