"""StyleGAN3's non-linearity: bias, up-sampling, leaky ReLU, clamp and down-sampling in one kernel.

    u = up² · (pad(stuff(x + b, up)) * fu)          x [N, C, H, W], b [C], fu separable, [K] on either axis
    t = clamp(lrelu(u, slope) · gain, ±clamp)
    y = (t * fd)[:: down, :: down]

`stuff` puts up − 1 zeros after every sample, `pad` adds zeros to the result or crops it, `*` is convolution where the
filter lies wholly inside (Karras et al. 2021, "Alias-Free Generative Adversarial Networks"). An fd [K, K] that is not
separable is a sum of R that are, Σ cᵣ·dᵣᵀ (`separate`): 3 to 5 for StyleGAN3-R's radial ones in float32.

A program makes a tile of y of one channel from the tile of u that it needs, which never leaves the chip. Along an axis,
either resampling is a product with a small banded matrix of taps, so that of the samples X in reach

    y = B · clamp(lrelu(A · X · A'ᵀ, slope) · gain) · B'ᵀ

with A[t, s] = up · fu[K − 1 + t − up·s] and B[o, t] = fd[K − 1 − t + down·o], but for where the tile begins; the last
is a sum over R where fd is one. Products are three of tf32 each, which keeps the precision of float32. A sample that is
not finite spoils the tiles it is in reach of, since it is multiplied by their zeros.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels import upfirdn
from impasto.kernels.arguments import ceil_div, check_contiguous, check_dtype, check_shape, next_power
from impasto.kernels.jit import jit, tl

SLOPE = 0.2
GAIN = math.sqrt(2.0)
PIXELS = 32
"""Side of a program's tile of up-sampled pixels; at 64 there are more zeros to multiply, and registers spill."""
MAX_TAPS = PIXELS


def reference(
    x: Tensor,
    bias: Tensor,
    up_taps: Tensor,
    down_taps: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    slope: float = SLOPE,
    gain: float = GAIN,
    clamp: float | None = None,
) -> Tensor:
    """The equation for x [N, C, H, W], bias [C], `up_taps` [K] and `down_taps` [K] or [K, K], in x's dtype.

    `padding` is (left, right, top, bottom) in up-sampled pixels; negative values crop.
    """
    reach = up_taps.numel() - 1
    x = x + bias.to(x.dtype).reshape(1, -1, 1, 1)
    # The whole convolution, and beyond it zeros: the same as to pad first.
    u = upfirdn.reference(x, up_taps, up=up, padding=(reach, reach), gain=up * up)
    u = functional.pad(u, [side - reach for side in padding])
    t = functional.leaky_relu(u, slope) * gain
    t = t if clamp is None else t.clamp(-clamp, clamp)
    if down_taps.ndim == 1:
        return upfirdn.reference(t, down_taps, down=down)
    taps = down_taps.flip(0, 1).to(t.dtype).expand(t.shape[1], 1, -1, -1)
    return functional.conv2d(t, taps, stride=down, groups=t.shape[1])


def separate(taps: Tensor) -> Tensor:
    """A filter [K, K] as separable ones, float32 [R, 2, K]: of each that along y, then that along x.

    From the singular value decomposition, less what is below the rounding of float32.
    """
    columns, values, rows = torch.linalg.svd(taps.double())
    kept = int((values > torch.finfo(torch.float32).eps / 2 * values[0]).sum())
    scales = values[:kept, None].sqrt()
    return torch.stack([columns.t()[:kept] * scales, rows[:kept] * scales], dim=1).float()


@jit
def _filtered_lrelu_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [N·C, height, width]
    p_y: tl.tensor,  # as p_x [N·C, out_height, out_width]
    p_bias: tl.tensor,  # float32, float16 or bfloat16 [C]
    p_up: tl.tensor,  # float32 [UP_TAPS]
    p_down: tl.tensor,  # float32 [pairs, 2, DOWN_TAPS], along y and along x; not PAIRED, [DOWN_TAPS] for both
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    left: tl.tensor,  # padding
    top: tl.tensor,
    pairs: tl.tensor,  # separable filters whose sum is the one for down-sampling
    tiles: tl.tensor,  # of a channel
    columns: tl.tensor,  # tiles side by side
    slope: tl.tensor,
    gain: tl.tensor,
    clamp: tl.tensor,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    UP_TAPS: tl.constexpr,
    DOWN_TAPS: tl.constexpr,
    PAIRED: tl.constexpr,
    KEPT: tl.constexpr,  # outputs of a tile along an axis
    BLOCK_S: tl.constexpr,  # samples
    BLOCK_T: tl.constexpr,  # up-sampled pixels
    BLOCK_O: tl.constexpr,  # outputs, and room to the next power of two
) -> None:
    plane = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles // columns * KEPT
    column = tl.program_id(0) % tiles % columns * KEPT
    o_s = tl.arange(0, BLOCK_S)
    o_t = tl.arange(0, BLOCK_T)
    o_o = tl.arange(0, BLOCK_O)
    # Where the up-sampling filter begins, and how far from there it meets a sample and not a stuffed zero.
    begin_y = row * DOWN - top
    begin_x = column * DOWN - left
    skip_y = (UP - begin_y % UP) % UP
    skip_x = (UP - begin_x % UP) % UP

    y = (begin_y + skip_y) // UP + o_s[:, None]
    x = (begin_x + skip_x) // UP + o_s[None, :]
    m_x = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    b_x = tl.load(p_x + plane * height * width + (y * width + x), mask=m_x, other=0.0).to(tl.float32)
    b_x = tl.where(m_x, b_x + tl.load(p_bias + plane % channels).to(tl.float32), 0.0)

    b_up_y = _taps(p_up, UP_TAPS - 1 - skip_y + o_t[:, None] - UP * o_s[None, :], UP_TAPS) * UP
    b_u = tl.dot(b_up_y, b_x, input_precision="tf32x3")
    b_up_x = _taps(p_up, UP_TAPS - 1 - skip_x + o_t[None, :] - UP * o_s[:, None], UP_TAPS) * UP
    b_u = tl.dot(b_u, b_up_x, input_precision="tf32x3")
    b_t = tl.where(b_u < 0.0, b_u * slope, b_u) * gain
    b_t = tl.clamp(b_t, -clamp, clamp, propagate_nan=tl.PropagateNan.ALL)
    if PAIRED:
        b_y = tl.zeros([BLOCK_O, BLOCK_O], tl.float32)
        for pair in tl.range(pairs, num_stages=1):
            p_pair = p_down + 2 * pair * DOWN_TAPS
            b_y += _filtered(b_t, p_pair, p_pair + DOWN_TAPS, o_t, o_o, DOWN, DOWN_TAPS)
    else:
        b_y = _filtered(b_t, p_down, p_down, o_t, o_o, DOWN, DOWN_TAPS)

    y = row + o_o[:, None]
    x = column + o_o[None, :]
    m_y = (o_o < KEPT)[:, None] & (y < out_height) & (o_o < KEPT)[None, :] & (x < out_width)
    tl.store(p_y + plane * out_height * out_width + (y * out_width + x), b_y.to(p_y.dtype.element_ty), mask=m_y)


@jit
def _filtered(
    b_t: tl.tensor,  # float32 [BLOCK_T, BLOCK_T]
    p_y: tl.tensor,  # float32 [TAPS]
    p_x: tl.tensor,  # float32 [TAPS]
    o_t: tl.tensor,
    o_o: tl.tensor,
    DOWN: tl.constexpr,
    TAPS: tl.constexpr,
) -> tl.tensor:
    """Every DOWN-th of what a filter along y and one along x give."""
    b_y = tl.dot(_taps(p_y, TAPS - 1 - o_t[None, :] + DOWN * o_o[:, None], TAPS), b_t, input_precision="tf32x3")
    return tl.dot(b_y, _taps(p_x, TAPS - 1 - o_t[:, None] + DOWN * o_o[None, :], TAPS), input_precision="tf32x3")


@jit
def _taps(p_taps: tl.tensor, index: tl.tensor, TAPS: tl.constexpr) -> tl.tensor:
    """The taps at an index, and zeros outside the filter."""
    return tl.load(p_taps + index, mask=(index >= 0) & (index < TAPS), other=0.0)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A program's square tile, by its side: the outputs it keeps, and its blocks of outputs and samples."""

    kept: int
    outputs: int
    samples: int
    warps: int


def tile(up: int, down: int, up_taps: int, down_taps: int) -> Tile:
    """The tile that PIXELS up-sampled pixels give."""
    kept = (PIXELS - down_taps) // down + 1
    samples = (PIXELS + up_taps - 2) // up + 1
    return Tile(kept, next_power(max(kept, 16)), next_power(max(samples, 16)), 4 if samples <= 32 else 8)


def filtered_lrelu(
    x: Tensor,
    bias: Tensor,
    up_taps: Tensor,
    down_taps: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    slope: float = SLOPE,
    gain: float = GAIN,
    clamp: float | None = None,
) -> Tensor:
    """As `reference`, computed in float32 and rounded once.

    x [N, C, H, W] and `bias` [C] are float32, float16 or bfloat16, each for itself, and contiguous (not channels-last);
    `up_taps` is float32 [K], and `down_taps` float32 [K], or [R, 2, K] from `separate`; K up to 32. Raises ValueError
    for anything else, for a clamp below zero, and where no output would be left.
    """
    if x.ndim != 4 or not x.numel():
        raise ValueError(f"x: found shape {list(x.shape)}; allowed: [N, C, H, W] with no dimension of 0")
    n, channels, height, width = x.shape
    check_dtype("x", x)
    check_contiguous("x", x)
    check_dtype("bias", bias)
    check_shape("bias", bias, (channels,))
    check_contiguous("bias", bias)
    pairs = len(down_taps) if down_taps.ndim == 3 else 0
    for name, taps, shapes, fits in (
        ("up_taps", up_taps, f"[1] to [{MAX_TAPS}]", up_taps.ndim == 1),
        ("down_taps", down_taps, f"[K] or [R, 2, K], K from 1 to {MAX_TAPS}", down_taps.shape[:-1] in ((), (pairs, 2))),
    ):
        check_dtype(name, taps, (torch.float32,))
        if not (fits and taps.numel() and taps.shape[-1] <= MAX_TAPS):
            raise ValueError(f"{name}: found shape {list(taps.shape)}; allowed: {shapes}")
        check_contiguous(name, taps)
    down_size = down_taps.shape[-1]
    for name, factor in (("up", up), ("down", down)):
        if factor < 1:
            raise ValueError(f"{name}: found {factor}; allowed: 1 or more")
    if clamp is not None and not clamp >= 0.0:
        raise ValueError(f"clamp: found {clamp}; allowed: None, or 0 and more")
    left, right, top, bottom = padding
    reach = up_taps.numel() - 1 + down_size
    out_height = (height * up + top + bottom - reach) // down + 1
    out_width = (width * up + left + right - reach) // down + 1
    if out_height < 1 or out_width < 1:
        raise ValueError(f"padding: found {padding} at {height}×{width} times {up}; allowed: what leaves an output")

    sides = tile(up, down, up_taps.numel(), down_size)
    rows, columns = ceil_div(out_height, sides.kept), ceil_div(out_width, sides.kept)
    y = torch.empty(n, channels, out_height, out_width, dtype=x.dtype, device=x.device)
    # fmt: off
    _filtered_lrelu_kernel[(n * channels * rows * columns,)](
        x, y, bias, up_taps, down_taps, channels, height, width, out_height, out_width, left, top, pairs,
        rows * columns, columns, float(slope), float(gain), math.inf if clamp is None else float(clamp),
        UP=up, DOWN=down, UP_TAPS=up_taps.numel(), DOWN_TAPS=down_size, PAIRED=pairs > 0, KEPT=sides.kept,
        BLOCK_S=sides.samples, BLOCK_T=PIXELS, BLOCK_O=sides.outputs, num_warps=sides.warps, enable_fp_fusion=True,
    )
    # fmt: on
    return y
