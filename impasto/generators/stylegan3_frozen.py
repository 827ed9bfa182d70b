"""StyleGAN3 for inference: the same pictures from constants folded beforehand, with plain operators only.

Up-sampling is a depthwise transposed convolution along either axis, with the gains up² and √2 in its taps, since leaky
ReLU commutes with a positive factor; down-sampling is a depthwise convolution with a stride. Every convolution weight
is a constant, and the batch is free: the form that is exported to ONNX.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.stylegan2_frozen import constants, product
from impasto.generators.stylegan3 import (
    OUTPUT_SCALE,
    Synthesis,
    SynthesisInput,
    SynthesisLayer,
    canvas,
    fourier_features,
    placement,
    unit_mean_square,
)
from impasto.kernels import filtered_lrelu, modulated_conv


class FrozenSynthesis(nn.Module):
    """ws [N, num_ws, w_dim] and transform [N, 3, 3] → pictures [N, C, R, R], nominally in [-1, 1]."""

    def __init__(self, synthesis: Synthesis):
        super().__init__()
        self.input = FrozenInput(synthesis.input)
        *hidden, torgb = synthesis.layers
        self.hidden = nn.ModuleList(FrozenLayer(layer) for layer in hidden)
        self.torgb = FrozenToRGB(torgb)

    def forward(self, ws: Tensor, transform: Tensor) -> Tensor:
        x: Tensor = self.input(ws[:, 0], transform)
        for index, layer in enumerate(self.hidden):
            x = layer(x, ws[:, index + 1])
        pictures: Tensor = self.torgb(x, ws[:, len(self.hidden) + 1])
        return pictures * OUTPUT_SCALE


class FrozenInput(nn.Module):
    """(w, transform) → [N, C, S, S]."""

    def __init__(self, source: SynthesisInput):
        super().__init__()
        self.signal = source.signal
        constants(self, "affine", *source.affine.scaled())
        self.register_buffer("freqs", source.freqs.clone())
        self.register_buffer("phases", source.phases.clone())
        self.register_buffer("places", canvas(source.signal))
        self.register_buffer("weight", source.weight.detach() / math.sqrt(source.weight.shape[1]))

    def forward(self, w: Tensor, transform: Tensor) -> Tensor:
        placed = placement(product(self, "affine", w), transform)
        freqs, phases = self.get_buffer("freqs"), self.get_buffer("phases")
        waves = fourier_features(placed, self.get_buffer("places"), freqs, phases, self.signal)
        mixed = torch.matmul(self.get_buffer("weight"), waves)
        return mixed.reshape(-1, self.signal.channels, self.signal.size, self.signal.size)


class FrozenLayer(nn.Module):
    """(x, w) → the layer's output."""

    def __init__(self, source: SynthesisLayer):
        super().__init__()
        layer = self.layer = source.layer
        self.clamp = source.clamp
        weight = source.scaled_weight().detach()
        constants(self, "affine", *source.affine.scaled())
        # The gain magnitude_ema^-½ of the layer's input joins its demodulation.
        magnitude = source.magnitude_ema.detach()
        squares = modulated_conv.squared_weights(weight).t().contiguous()
        self.register_buffer("squares", squares * magnitude)
        self.register_buffer("epsilon", modulated_conv.EPSILON * magnitude)
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", source.bias.detach()[:, None, None].clone())
        up_taps, down_taps = source.up_filter * layer.up, source.down_filter
        channels = layer.target.channels
        self.register_buffer("up_rows", _depthwise(up_taps[:, None] * filtered_lrelu.GAIN, channels))
        self.register_buffer("up_columns", _depthwise(up_taps[None], channels))
        if layer.radial:
            self.register_buffer("down", _depthwise(down_taps.flip(0, 1), channels))
        else:
            self.register_buffer("down_rows", _depthwise(down_taps.flip(0)[:, None], channels))
            self.register_buffer("down_columns", _depthwise(down_taps.flip(0)[None], channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = unit_mean_square(product(self, "affine", w))
        demodulation = (styles.square() @ self.get_buffer("squares") + self.get_buffer("epsilon")).rsqrt()
        x = functional.conv2d(x * styles[:, :, None, None], self.get_buffer("weight"), padding=self.layer.kernel - 1)
        x = self._up(x * demodulation[:, :, None, None] + self.get_buffer("bias"))
        x = functional.leaky_relu(x, filtered_lrelu.SLOPE)
        return self._down(x if self.clamp is None else x.clamp(-self.clamp, self.clamp))

    def _up(self, x: Tensor) -> Tensor:
        up, channels = self.layer.up, x.shape[1]
        # What the padding of the zero-stuffed signal leaves of the whole convolution: as much on either side.
        crop = self.layer.up_taps - 1 - self.layer.padding[0]
        x = functional.conv_transpose2d(
            x, self.get_buffer("up_columns"), stride=(1, up), padding=(0, crop), groups=channels
        )
        return functional.conv_transpose2d(
            x, self.get_buffer("up_rows"), stride=(up, 1), padding=(crop, 0), groups=channels
        )

    def _down(self, x: Tensor) -> Tensor:
        down, channels = self.layer.down, x.shape[1]
        if self.layer.radial:
            return functional.conv2d(x, self.get_buffer("down"), stride=down, groups=channels)
        x = functional.conv2d(x, self.get_buffer("down_columns"), stride=(1, down), groups=channels)
        return functional.conv2d(x, self.get_buffer("down_rows"), stride=(down, 1), groups=channels)


class FrozenToRGB(nn.Module):
    """The 1×1 layer to the picture's channels: (x, w) → picture, not yet scaled."""

    def __init__(self, source: SynthesisLayer):
        super().__init__()
        self.layer = source.layer
        self.clamp = source.clamp
        constants(self, "affine", *source.affine.scaled())
        self.register_buffer("weight", (source.scaled_weight() * source.magnitude_ema.rsqrt()).detach())
        self.register_buffer("bias", source.bias.detach()[:, None, None].clone())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = product(self, "affine", w)
        x = functional.conv2d(x * styles[:, :, None, None], self.get_buffer("weight")) + self.get_buffer("bias")
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def _depthwise(taps: Tensor, channels: int) -> Tensor:
    """taps [K, L] as the weight [C, 1, K, L] of a convolution of each channel by itself."""
    return taps.expand(channels, 1, -1, -1).clone()
