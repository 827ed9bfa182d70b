"""StyleGAN3: synthesis from Fourier features without aliasing (Karras et al. 2021), from the published formulas.

Parameter and buffer names are those of the official PyTorch checkpoints, so that importing one is a rename of nothing.
Where a picture is on its canvas is an input: `transform` [N, 3, 3] maps a place of the picture to the place of the
generator's canvas that is seen there, in picture widths from the centre, x to the right and y down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators import stylegan3_filters
from impasto.generators.stylegan2 import Linear, Mapping, truncate
from impasto.generators.stylegan3_config import Layer, Signal, StyleGAN3Config
from impasto.kernels import filtered_lrelu, modulated_conv, upfirdn

OUTPUT_SCALE = 0.25


class SynthesisInput(nn.Module):
    """Sine waves of random frequencies within the first cutoff, placed by w and `transform`, and mixed."""

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, config: StyleGAN3Config):
        super().__init__()
        self.signal = config.signals[0]
        channels = self.signal.channels
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = Linear(config.w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.eye(4)[0])
        # Uniform over the disc of frequencies below the cutoff.
        radius, angle = self.signal.cutoff * torch.rand(channels).sqrt(), 2.0 * math.pi * torch.rand(channels)
        self.register_buffer("freqs", torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1))
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def forward(self, w: Tensor, transform: Tensor) -> Tensor:
        """w [N, w_dim], transform [N or 1, 3, 3] → [N, C, S, S]."""
        placed = placement(self.affine(w), transform)
        waves = fourier_features(placed, canvas(self.signal).to(w), self.freqs, self.phases, self.signal)
        mixed = torch.matmul(self.weight / math.sqrt(self.weight.shape[1]), waves)
        return mixed.reshape(-1, self.signal.channels, self.signal.size, self.signal.size)


def placement(pose: Tensor, transform: Tensor) -> Tensor:
    """M = R(t₀, t₁)·T(−t₂, −t₃)·transform without its last row, [N, 2, 3], where pose [N, 4] is t·‖t₀, t₁‖."""
    pose = pose / pose[:, :2].square().sum(dim=1, keepdim=True).sqrt()
    cosine, sine, x, y = pose.unbind(dim=1)
    rotated = torch.stack([cosine, -sine, sine * y - cosine * x, sine, cosine, -sine * x - cosine * y], dim=1)
    return torch.matmul(rotated.reshape(-1, 2, 3), transform)


def canvas(signal: Signal) -> Tensor:
    """The places of a signal's pixels, [3, S²] float32: x and y in picture widths from the centre, and 1."""
    line = (torch.arange(signal.size, dtype=torch.float64) + 0.5 - signal.size / 2) / signal.rate
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones_like(x).flatten()]).float()


def fourier_features(placed: Tensor, places: Tensor, freqs: Tensor, phases: Tensor, signal: Signal) -> Tensor:
    """sin(2π(f·Mp + φ))·a for f = freqs [C, 2], φ = phases [C], M = placed [N, 2, 3], p = places [3, P]: [N, C, P].

    a = 1 − (‖f·M‖ − cutoff) / (rate/2 − cutoff), clamped to 0 … 1, fades what M makes too fine for the sampling rate.
    """
    angles = torch.matmul(freqs, torch.matmul(placed, places)) + phases[:, None]
    seen = torch.matmul(freqs, placed[:, :, :2]).square().sum(dim=2).sqrt()
    amplitudes = (1.0 - (seen - signal.cutoff) / (signal.rate / 2 - signal.cutoff)).clamp(0.0, 1.0)
    return (2.0 * math.pi * angles).sin() * amplitudes[:, :, None]


class SynthesisLayer(nn.Module):
    """A modulated convolution, then leaky ReLU at a higher sampling rate; toRGB has no leaky ReLU, nor demodulation."""

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(self, layer: Layer, config: StyleGAN3Config):
        super().__init__()
        self.layer = layer
        self.clamp = config.conv_clamp
        source, target = layer.source, layer.target
        self.affine = Linear(config.w_dim, source.channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(target.channels, source.channels, layer.kernel, layer.kernel))
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        if not layer.is_torgb:
            rate = source.rate * layer.up
            low_pass = stylegan3_filters.radial if layer.radial else stylegan3_filters.separable
            up_filter = stylegan3_filters.separable(layer.up_taps, source.cutoff, source.half_width, rate)
            down_filter = low_pass(layer.down_taps, target.cutoff, target.half_width, rate)
            self.register_buffer("up_filter", up_filter)
            self.register_buffer("down_filter", down_filter)

    def scaled_weight(self) -> Tensor:
        """The weight with unit mean square in every output channel; toRGB's divided by √(I·k²)."""
        if self.layer.is_torgb:
            return self.weight / math.sqrt(self.weight[0].numel())
        return self.weight * self.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, I, H, H], w [N, w_dim] → [N, O, R, R]."""
        weight, styles = self.scaled_weight(), self.affine(w)
        gain = self.magnitude_ema.rsqrt()
        if not self.layer.is_torgb:
            # Of each sample by itself, so that a row does not depend on its batch; demodulation cancels it.
            styles = unit_mean_square(styles)
            squares = modulated_conv.squared_weights(weight)
            gain = gain * (styles.square() @ squares.t() + modulated_conv.EPSILON).rsqrt()[:, :, None, None]
        x = functional.conv2d(x * styles[:, :, None, None], weight, padding=self.layer.kernel - 1) * gain
        return self._activated(x)

    def _activated(self, x: Tensor) -> Tensor:
        x = x + self.bias[:, None, None]
        if self.layer.is_torgb:
            return self._clamped(x)
        up, down = self.layer.up, self.layer.down
        x = upfirdn.reference(x, self.up_filter, up=up, padding=self.layer.padding, gain=up * up)
        x = self._clamped(functional.leaky_relu(x, filtered_lrelu.SLOPE) * filtered_lrelu.GAIN)
        if not self.layer.radial:
            return upfirdn.reference(x, self.down_filter, down=down)
        taps = self.down_filter.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, -1, -1)
        return functional.conv2d(x, taps, stride=down, groups=x.shape[1])

    def _clamped(self, x: Tensor) -> Tensor:
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def unit_mean_square(styles: Tensor) -> Tensor:
    """styles [N, I] · (mean styles²)^-½ over dim 1."""
    return styles * styles.square().mean(dim=1, keepdim=True).rsqrt()


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] and transform [N or 1, 3, 3] to pictures [N, C, R, R], nominally in [-1, 1]."""

    def __init__(self, config: StyleGAN3Config):
        super().__init__()
        self.config = config
        self.input = SynthesisInput(config)
        for layer in config.layers:
            setattr(self, layer.name, SynthesisLayer(layer, config))

    @property
    def layers(self) -> Iterator[SynthesisLayer]:
        for layer in self.config.layers:
            yield getattr(self, layer.name)

    def forward(self, ws: Tensor, transform: Tensor) -> Tensor:
        x: Tensor = self.input(ws[:, 0], transform)
        for index, layer in enumerate(self.layers):
            x = layer(x, ws[:, index + 1])
        return x * OUTPUT_SCALE


class StyleGAN3(nn.Module):
    """Mapping and synthesis together, with the state dict of an official `G_ema`."""

    def __init__(self, config: StyleGAN3Config):
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def forward(
        self, z: Tensor, c: Tensor | None = None, psi: Tensor | None = None, transform: Tensor | None = None
    ) -> Tensor:
        """Pictures [N, C, R, R] for z [N, z_dim]; psi [N, num_ws] defaults to 1, transform to the stored one."""
        if psi is None:
            psi = z.new_ones(z.shape[0], self.config.num_ws)
        if transform is None:
            transform = self.synthesis.input.transform[None]
        ws = truncate(self.mapping(z, c), self.mapping.w_avg, psi)
        pictures: Tensor = self.synthesis(ws, transform)
        return pictures
