"""What follows the sums of a StyleGAN2 layer, inside the kernel that makes them (Karras et al. 2020, §2.2).

    y = clamp(lrelu(d[n, o]·sum + noise[n, h, w]·strength + bias[o], 0.2)·√2, ±clamp)

The sums are float32 and so is everything here; the kernel rounds once, where it stores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from impasto.kernels import bias_act
from impasto.kernels.jit import jit, tl, triton


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """The parts of the equation for outputs [N, O, H, W]; a part that is None is left out. All tensors are float32.

    `demodulation` [N, O]; `noise` [N or 1, H, W] with its factor `strength`, one element; `bias` [O]; `linear` leaves
    out the leaky ReLU and its gain; `clamp` bounds the absolute value.
    """

    demodulation: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None
    bias: Tensor | None = None
    linear: bool = False
    clamp: float | None = None

    def check(self, shape: tuple[int, int, int, int]) -> None:
        """Raise ValueError unless every part fits outputs of `shape`."""
        n, outputs, height, width = shape
        check_float32("demodulation", self.demodulation, (n, outputs))
        check_float32("noise", self.noise, (n, height, width), (1, height, width))
        check_float32("strength", self.strength, (), (1,))
        check_float32("bias", self.bias, (outputs,))
        if (self.noise is None) != (self.strength is None):
            found = "noise" if self.strength is None else "strength"
            raise ValueError(f"noise and strength: found {found} alone; allowed are both or neither")

    def arguments(self) -> dict[str, Any]:
        """The arguments of a kernel that ends in `finish`."""
        shared = self.noise is None or self.noise.shape[0] == 1
        return {
            "demodulation": self.demodulation,
            "noise": self.noise,
            "strength": self.strength,
            "bias": self.bias,
            "noise_stride": 0 if self.noise is None or shared else self.noise[0].numel(),
            "LINEAR": self.linear,
            "CLAMP": self.clamp,
        }


def check_float32(name: str, found: Tensor | None, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless `found` is None or a contiguous float32 tensor of one of `shapes`."""
    if found is not None and not (
        found.dtype is torch.float32 and found.is_contiguous() and tuple(found.shape) in shapes
    ):
        layout = "contiguous" if found.is_contiguous() else "non-contiguous"
        allowed = " or ".join(map(str, shapes))
        raise ValueError(
            f"{name}: found {layout} {found.dtype} {tuple(found.shape)}; allowed is contiguous torch.float32 {allowed}"
        )


def reference(sums: Tensor, epilogue: Epilogue) -> Tensor:
    """The equation for sums [N, O, H, W], in their dtype."""
    y = sums
    if epilogue.demodulation is not None:
        y = y * epilogue.demodulation.to(y.dtype)[:, :, None, None]
    if epilogue.noise is not None and epilogue.strength is not None:
        y = y + (epilogue.noise.to(y.dtype) * epilogue.strength.to(y.dtype))[:, None]
    return bias_act.reference(y, epilogue.bias, linear=epilogue.linear, clamp=epilogue.clamp)


@jit
def finish(
    b_y: tl.tensor,  # float32 [P, O] sums of a tile
    n: tl.tensor,  # its sample, int64
    o_pixel: tl.tensor,  # [P] its pixels in the sample
    o_output: tl.tensor,  # [O] its channels
    demodulation: tl.tensor,  # float32 [N, O] or None
    noise: tl.tensor,  # float32 [N or 1, H·W] or None
    strength: tl.tensor,  # float32 [1] or None
    bias: tl.tensor,  # float32 [O] or None
    noise_stride: tl.tensor,  # from the noise of a sample to the next; 0: all have the same
    pixels: tl.tensor,
    outputs: tl.tensor,
    LINEAR: tl.constexpr,
    CLAMP: tl.constexpr,
) -> tl.tensor:
    m_output = o_output < outputs
    if demodulation is not None:
        b_y *= tl.load(demodulation + n * outputs + o_output, mask=m_output, other=0.0)[None, :]
    if noise is not None:
        b_noise = tl.load(noise + n * noise_stride + o_pixel, mask=o_pixel < pixels, other=0.0)
        b_y += (b_noise * tl.load(strength))[:, None]
    if bias is not None:
        b_y += tl.load(bias + o_output, mask=m_output, other=0.0)[None, :]
    if not LINEAR:
        b_y = tl.where(b_y < 0.0, b_y * 0.2, b_y) * 1.4142135623730951
    if CLAMP is not None:
        b_y = tl.clamp(b_y, -CLAMP, CLAMP, propagate_nan=tl.PropagateNan.ALL)
    return b_y


@jit
def _reduction_kernel(
    partial: tl.tensor,  # [N, SPLITS, P, O]
    demodulation: tl.tensor,  # this and the next four: see `finish`
    noise: tl.tensor,
    strength: tl.tensor,
    bias: tl.tensor,
    noise_stride: tl.tensor,
    out: tl.tensor,  # [N, P, O]
    pixels: tl.tensor,
    outputs: tl.tensor,
    SPLITS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    LINEAR: tl.constexpr,
    CLAMP: tl.constexpr,
) -> None:
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(outputs, BLOCK_OUTPUTS)
    o_output = tl.program_id(0) % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    o_pixel = tl.program_id(0) // blocks * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    mask = (o_pixel < pixels)[:, None] & (o_output < outputs)[None, :]
    o_tile = o_pixel[:, None] * outputs + o_output[None, :]
    b_sum = tl.zeros([BLOCK_PIXELS, BLOCK_OUTPUTS], tl.float32)
    for split in tl.static_range(SPLITS):
        b_sum += tl.load(partial + (n * SPLITS + split) * pixels * outputs + o_tile, mask=mask, other=0.0)
    b_y = finish(
        b_sum, n, o_pixel, o_output, demodulation, noise, strength, bias, noise_stride, pixels, outputs, LINEAR, CLAMP
    )
    tl.store(out + n * pixels * outputs + o_tile, b_y.to(out.dtype.element_ty), mask=mask)


def apply(sums: Tensor, epilogue: Epilogue) -> Tensor:
    """The equation for sums [N, O, H, W] in channels-last memory, in the same and in their type."""
    out = torch.empty_like(sums)
    reduce(sums.permute(0, 2, 3, 1)[:, None], out, epilogue)
    return out


def reduce(partial: Tensor, out: Tensor, epilogue: Epilogue) -> None:
    """Add partial sums [N, S, H, W, O] in float32, in their order, and write the equation's y into `out` [N, O, H, W].

    `out` lies in channels-last memory. Raises ValueError where `epilogue` does not fit.
    """
    n, splits, height, width, outputs = partial.shape
    epilogue.check((n, outputs, height, width))
    grid = (triton.cdiv(height * width, 16) * triton.cdiv(outputs, 64), n)
    _reduction_kernel[grid](
        partial,
        out=out,
        pixels=height * width,
        outputs=outputs,
        SPLITS=splits,
        BLOCK_PIXELS=16,
        BLOCK_OUTPUTS=64,
        enable_fp_fusion=True,
        **epilogue.arguments(),
    )
