"""GEGLU: a linear unit whose gate goes through GELU; the feed-forward layers of diffusion transformers.

    y = a · gelu(b)        x = [a | b] [..., 2D], y [..., D]        gelu(b) = b/2 · (1 + erf(b/√2))

Shazeer 2020, "GLU Variants Improve Transformer". The GELU is the exact one, as in diffusers' `GEGLU`, and the second
half is the gate; the tanh form differs by up to 5e-4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels.arguments import ceil_div, check_contiguous, check_dtype, next_power
from impasto.kernels.jit import jit, tl

TILE = 1024
"""Outputs of a program."""


def reference(x: Tensor) -> Tensor:
    """The first half of x [..., 2D] times GELU of the second: [..., D]."""
    values, gates = x.chunk(2, dim=-1)
    return values * functional.gelu(gates)


@jit
def _geglu_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [rows, 2 · width]
    p_y: tl.tensor,  # as p_x [rows, width]
    rows: tl.tensor,
    width: tl.tensor,
    columns: tl.tensor,  # programs across a row
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    o_r = (tl.program_id(0) // columns) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_d = (tl.program_id(0) % columns) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_y = (o_r < rows)[:, None] & (o_d < width)[None, :]
    o_y = o_r.to(tl.int64)[:, None] * width + o_d[None, :]
    o_x = o_r.to(tl.int64)[:, None] * (2 * width) + o_d[None, :]
    b_a = tl.load(p_x + o_x, mask=m_y, other=0.0).to(tl.float32)
    b_b = tl.load(p_x + o_x + width, mask=m_y, other=0.0).to(tl.float32)
    b_y = b_a * (0.5 * b_b * (1.0 + tl.erf(b_b * 0.7071067811865476)))
    tl.store(p_y + o_y, b_y.to(p_y.dtype.element_ty), mask=m_y)


def geglu(x: Tensor) -> Tensor:
    """GEGLU of x [..., 2D], contiguous, float32, float16 or bfloat16: [..., D] in the same dtype.

    Raises ValueError for anything else.
    """
    if x.ndim < 1 or x.shape[-1] % 2 or x.shape[-1] == 0:
        raise ValueError(f"x: found shape {list(x.shape)}; allowed: an even last axis, 2 or more")
    check_dtype("x", x)
    check_contiguous("x", x)
    width = x.shape[-1] // 2
    y = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    rows = y.numel() // width
    block_d = min(next_power(width), 128)
    block_r, columns = TILE // block_d, ceil_div(width, block_d)
    _geglu_kernel[(ceil_div(rows, block_r) * columns,)](
        x, y, rows, width, columns, BLOCK_R=block_r, BLOCK_D=block_d, num_warps=4, enable_fp_fusion=True
    )
    return y
