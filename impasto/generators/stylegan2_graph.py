"""StyleGAN2 as a graph for CPUs: `stylegan2_frozen` with its larger convolutions in forms that take less time there.

They are the same sums in another order, of standard operators with constant weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.stylegan2 import Synthesis
from impasto.generators.stylegan2_frozen import FrozenSynthesis, blur

MIN_SIDE = 16
"""Of what a rewritten convolution takes: below it reading the weights takes the time, not multiplying by them."""
MIN_CHANNELS = 64
"""Of a layer in minimal filtering, and half its side: with fewer, more passes over memory cost what they save."""
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where F(4, 3) evaluates polynomials, besides infinity: float32 errs least with these, twice as without."""

TAPS = {"even": [2, 0], "odd": [1]}
"""Of three, those that make the even and the odd places of a transposed convolution of stride 2, in their order."""


def graph_synthesis(synthesis: Synthesis) -> FrozenSynthesis:
    """As `FrozenSynthesis`: the same pictures within the rounding of float32."""
    frozen = FrozenSynthesis(synthesis)
    for resolution in synthesis.config.resolutions:
        if resolution >= 2 * MIN_SIDE:
            layer = getattr(frozen, f"b{resolution}_conv0")
            layer.convolution = PhasedUpConvolution(layer.convolution.weight.transpose(0, 1))
        if resolution >= MIN_SIDE and synthesis.config.channels(resolution) >= max(MIN_CHANNELS, resolution // 2):
            layer = getattr(frozen, f"b{resolution}_conv1")
            layer.convolution = MinimalConvolution(layer.convolution.weight)
    return frozen


class PhasedUpConvolution(nn.Module):
    """x [N, I, H, W] → [N, O, 2H, 2W], as `stylegan2_frozen.UpConvolution`, by four convolutions of stride 1.

    On each axis the transposed convolution of stride 2 is, with x[-1] = x[H] = 0,

        y[2i] = w₂ x[i − 1] + w₀ x[i]        y[2i + 1] = w₁ x[i]        0 ≤ i ≤ H

    one convolution for each parity of row and column: as many products, but none of them scattered into overlapping
    windows. They come together channels-last, where [H, W, 2, O] is [H, 2W, O] without a move.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        for row, vertical in TAPS.items():
            for column, horizontal in TAPS.items():
                phase = weight[:, :, vertical][:, :, :, horizontal]
                self.register_buffer(f"{row}_{column}", phase.contiguous())
        self.register_buffer("blur", blur(weight.shape[0]).to(weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = self.get_buffer("blur").shape[0], x.shape[2] + 1, x.shape[3] + 1
        rows = []
        for row in TAPS:
            phases = torch.cat([self._phase(x, row, column) for column in TAPS], dim=1)
            rows.append(phases.permute(0, 2, 3, 1).reshape(-1, height, 1, 2 * width * channels))
        y = torch.cat(rows, dim=2).reshape(-1, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        return functional.conv2d(functional.pad(y, (1, 0, 1, 0)), self.get_buffer("blur"), groups=channels)

    def _phase(self, x: Tensor, row: str, column: str) -> Tensor:
        """y at rows and columns of this parity, [N, O, H + 1, W + 1]."""
        before = [len(TAPS[parity]) - 1 for parity in (column, row)]
        return functional.conv2d(functional.pad(x, (before[0], 1, before[1], 1)), self.get_buffer(f"{row}_{column}"))


class MinimalConvolution(nn.Module):
    """x [N, I, H, W] → [N, O, H, W], as `stylegan2_frozen.Convolution`, H a multiple of 16, with half the products.

    Down the columns it is Winograd's minimal filtering F(4, 3): four rows from six instead of twelve products,

        y = A ((G w) ⊙ (B x)),        x the rows 4t − 1 … 4t + 4, y the rows 4t … 4t + 3,

    where a product is a convolution of 1×3. B is six depthwise convolutions of stride 4; A is a matrix product, of
    four tiles at once so that it is not too thin. Lavin and Gray 2016, "Fast algorithms for convolutional neural
    networks"; the matrices are those of Toom and Cook, for the polynomials' values at POINTS.
    """

    TILES = 4

    def __init__(self, weight: Tensor):
        super().__init__()
        b, g, a = minimal_filtering()
        for index, taps in enumerate(b):
            self.register_buffer(f"b{index}", taps.reshape(1, 1, -1, 1).repeat(weight.shape[1], 1, 1, 1).to(weight))
            product = torch.einsum("r,oirs->ois", g[index], weight.double())
            self.register_buffer(f"g{index}", product[:, :, None].to(weight))
        tiles = torch.eye(self.TILES, dtype=a.dtype)
        # Rows (tile, row of it), columns (product, tile).
        self.register_buffer("a", torch.einsum("tu,ip->tipu", tiles, a).reshape(4 * self.TILES, -1).to(weight))

    def forward(self, x: Tensor) -> Tensor:
        inputs, side, a = x.shape[1], x.shape[3], self.get_buffer("a")
        products = []
        for index in range(a.shape[1] // self.TILES):
            b, g = self.get_buffer(f"b{index}"), self.get_buffer(f"g{index}")
            rows = functional.conv2d(x, b, stride=(4, 1), padding=(1, 0), groups=inputs)
            product = functional.conv2d(rows, g, padding=(0, 1))
            products.append(product.reshape(-1, len(g), rows.shape[2] // self.TILES, 1, self.TILES, side))
        blocks = torch.cat(products, dim=3).flatten(3, 4)
        return torch.matmul(a, blocks).flatten(2, 3)


def minimal_filtering() -> tuple[Tensor, Tensor, Tensor]:
    """B [6, 6], G [6, 3] and A [4, 6] of F(4, 3), in float64: A((G w) ⊙ (B x))ᵢ = Σᵣ wᵣ x₍ᵢ₊ᵣ₎.

    The coefficients of a product of polynomials follow from its values at six points by V⁻¹, V their Vandermonde
    matrix; a convolution with a fixed factor is the transpose of that product.
    """

    def values(coefficients: int) -> Tensor:
        """Of the monomials at each point; at infinity the last coefficient."""
        finite = [[point**power for power in range(coefficients)] for point in POINTS]
        return torch.tensor([*finite, [0.0] * (coefficients - 1) + [1.0]], dtype=torch.float64)

    return torch.linalg.inv(values(6)).t(), values(3), values(4).t()
