"""StyleGAN2 for graphs of lower precision: `stylegan2_frozen` with values kept in a range that 8 or 16 bits can hold.

Weights and styles of a layer are brought into one range (Karras et al. 2020, the released models):

    W ← W / (√(I·k²) · max|W_o|)        s ← s / max|s_n|

which demodulation cancels, since d = (Σ_i s²·Σ_k W² + ε)^-½ is of these. So |x ⊙ s| ≤ |x|, and a convolution's sums are
at most √(I·k²)·max|x|: neither leaves float16, whatever the size of weights and styles. All is computed in float32:
`export.precision` then lowers the convolutions of these layers. Those below MIN_SIDE stay as they are: they take little
time, and would add as much noise to the picture as any other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.stylegan2 import Synthesis, SynthesisLayer
from impasto.generators.stylegan2_frozen import FrozenSynthesis, constants, product
from impasto.kernels import bias_act, modulated_conv, upfirdn

MIN_SIDE = 32
"""The first resolution whose layers are of lower precision."""


def prenormalised_synthesis(synthesis: Synthesis, *, fold_up: bool = False) -> FrozenSynthesis:
    """As `FrozenSynthesis`, the layers from MIN_SIDE on pre-normalised.

    With `fold_up` an up-sampling layer is one ordinary convolution, for runtimes that have no transposed one in 8 bits.
    """
    frozen = FrozenSynthesis(synthesis)
    for resolution, block in synthesis.blocks:
        if resolution >= MIN_SIDE:
            setattr(frozen, f"b{resolution}_conv0", PrenormalisedLayer(block.conv0, fold_up=fold_up))
            setattr(frozen, f"b{resolution}_conv1", PrenormalisedLayer(block.conv1))
    return frozen


class PrenormalisedLayer(nn.Module):
    """A 3×3 layer: (h, its scale, w, noise) → (next h, its scale), as `stylegan2_frozen.FrozenLayer`."""

    def __init__(self, layer: SynthesisLayer, *, fold_up: bool = False):
        super().__init__()
        self.clamp = layer.clamp
        self.up = ("folded" if fold_up else "transposed") if layer.up else None
        constants(self, "affine", *layer.affine.scaled())
        weight = layer.weight.detach()
        weight, _ = modulated_conv.prenormalise(weight, torch.ones(1, weight.shape[1]))
        self.register_buffer("squares", modulated_conv.squared_weights(weight).t().contiguous())
        if self.up == "folded":
            weight = modulated_conv.fold_up_weight(weight)
        elif self.up == "transposed":
            taps = upfirdn.binomial_filter()
            blur = (torch.outer(taps, taps) * 4.0).expand(weight.shape[0], 1, -1, -1)
            self.register_buffer("blur", blur.clone())
            weight = weight.transpose(0, 1)
        self.register_buffer("weight", weight.contiguous())
        strength = layer.noise_strength.detach().expand_as(layer.bias)
        self.register_buffer("noise_and_bias", torch.stack([strength, layer.bias.detach()], dim=1))

    def forward(self, h: Tensor, scale: Tensor, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        styles = product(self, "affine", w)
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
        demodulation = (styles.square() @ self.get_buffer("squares") + modulated_conv.EPSILON).rsqrt()
        sums = self._convolved(h * (styles * scale)[:, :, None, None])
        rows = noise.flatten(2)
        rows = torch.cat([rows, torch.ones_like(rows)], dim=1)
        offset = torch.matmul(self.get_buffer("noise_and_bias") / demodulation[:, :, None], rows)
        h = functional.leaky_relu(sums + offset.reshape(-1, *sums.shape[1:]), bias_act.SLOPE) * bias_act.GAIN
        if self.clamp is not None:
            bound = (self.clamp / demodulation)[:, :, None, None]
            h = torch.minimum(torch.maximum(h, -bound), bound)
        return h, demodulation

    def _convolved(self, x: Tensor) -> Tensor:
        weight = self.get_buffer("weight")
        if self.up == "folded":
            return functional.pixel_shuffle(functional.conv2d(x, weight, padding=1), 2)
        if self.up == "transposed":
            x = functional.conv_transpose2d(x, weight, stride=2)
            return functional.conv2d(x, self.get_buffer("blur"), padding=1, groups=x.shape[1])
        return functional.conv2d(x, weight, padding=1)
