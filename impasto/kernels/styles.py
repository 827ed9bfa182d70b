"""The styles of every layer of a StyleGAN2 in one launch (Karras et al. 2019, §3; 2020, §2.2).

    s[l][n] = A[l]·ws[n, i[l]] + b[l]          ws [N, num_ws, K], A[l] [I[l], K], b[l] [I[l]]

and s / max|s| where that is asked for: demodulation cancels the factor, and products with features stay within float16
(`modulated_conv.prenormalise`). A row is summed in one order whatever the batch, which a library's matrix product does
not promise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from impasto.kernels.arguments import next_power
from impasto.kernels.epilogue import check_float32
from impasto.kernels.jit import jit, tl

BLOCK_FEATURES = 32
NUM_WARPS = 8


@dataclasses.dataclass(frozen=True)
class Affine:
    """One layer: `weight` [I, K] and `bias` [I] with their gains, `index` of its row of ws, whether to normalise."""

    weight: Tensor
    bias: Tensor
    index: int
    normalise: bool


@dataclasses.dataclass(frozen=True)
class Affines:
    """All layers as the kernel loads them: `weight` [ΣI, K], `bias` [ΣI], and `rows` int32 [L, 4] on the same device.

    A row of `rows` is a layer's first row of the weight, its number of rows, its index in ws, and 1 to normalise.
    """

    weight: Tensor
    bias: Tensor
    rows: Tensor
    sizes: tuple[int, ...]

    def to(self, device: torch.device) -> Affines:
        """The same on a device."""
        return Affines(self.weight.to(device), self.bias.to(device), self.rows.to(device), self.sizes)


def pack(layers: Sequence[Affine]) -> Affines:
    """Layers in float32, in this order."""
    sizes = tuple(len(layer.bias) for layer in layers)
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    rows = [
        (first, size, layer.index, int(layer.normalise))
        for first, size, layer in zip(firsts, sizes, layers, strict=True)
    ]
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return Affines(weight.float().contiguous(), bias.float(), torch.tensor(rows, dtype=torch.int32), sizes)


def reference(ws: Tensor, layer: Affine) -> Tensor:
    """The styles [N, I] of one layer for ws [N, num_ws, K], in their dtype."""
    styles = ws[:, layer.index] @ layer.weight.to(ws).t() + layer.bias.to(ws)
    return styles / styles.abs().amax(dim=1, keepdim=True) if layer.normalise else styles


@jit
def _styles_kernel(
    ws: tl.tensor,  # float32 [N, num_ws, K]
    weight: tl.tensor,  # float32 [ΣI, K]
    bias: tl.tensor,  # float32 [ΣI]
    rows: tl.tensor,  # int32 [L, 4], of each layer: first row of the weight, rows, index in ws, 1 to normalise
    out: tl.tensor,  # float32: [N, I] of each layer, one after the other
    num_ws: tl.tensor,
    features: tl.tensor,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
) -> None:
    p_layer = rows + tl.program_id(0) * 4
    n = tl.program_id(1)
    first, size = tl.load(p_layer), tl.load(p_layer + 1)
    index, normalise = tl.load(p_layer + 2), tl.load(p_layer + 3)
    o_row = tl.arange(0, BLOCK_ROWS)
    m_row = o_row < size
    p_w = ws + (n * num_ws + index) * features
    p_weight = weight + (first + o_row).to(tl.int64)[:, None] * features
    b_sum = tl.zeros([BLOCK_ROWS, BLOCK_FEATURES], tl.float32)
    for start in range(0, features, BLOCK_FEATURES):
        o_feature = start + tl.arange(0, BLOCK_FEATURES)
        m_feature = o_feature < features
        b_w = tl.load(p_w + o_feature, mask=m_feature, other=0.0)
        b_weight = tl.load(p_weight + o_feature[None, :], mask=m_row[:, None] & m_feature[None, :], other=0.0)
        b_sum += b_weight * b_w[None, :]
    b_style = tl.sum(b_sum, axis=1) + tl.load(bias + first + o_row, mask=m_row, other=0.0)
    largest = tl.max(tl.abs(b_style), axis=0)
    b_style /= tl.where(normalise != 0, largest, 1.0)
    tl.store(out + first * tl.num_programs(1) + n * size + o_row, b_style, mask=m_row)


def styles(ws: Tensor, layers: Affines) -> tuple[Tensor, ...]:
    """Each layer's styles, float32 [N, I], for ws float32 [N, num_ws, K].

    Raises ValueError for ws of another type, shape or layout.
    """
    if ws.ndim != 3:
        raise ValueError(f"ws: found {ws.ndim} dimensions; allowed: 3")
    n, num_ws, features = ws.shape
    check_float32("ws", ws, (n, num_ws, layers.weight.shape[1]))
    out = torch.empty(n * sum(layers.sizes), dtype=torch.float32, device=ws.device)
    _styles_kernel[(len(layers.sizes), n)](
        ws,
        layers.weight,
        layers.bias,
        layers.rows,
        out,
        num_ws,
        features,
        BLOCK_ROWS=next_power(max(layers.sizes)),
        BLOCK_FEATURES=BLOCK_FEATURES,
        num_warps=NUM_WARPS,
        enable_fp_fusion=True,
    )
    parts = torch.split(out, [n * size for size in layers.sizes])
    return tuple(part.view(n, size) for part, size in zip(parts, layers.sizes, strict=True))
