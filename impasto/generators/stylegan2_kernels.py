"""StyleGAN2 for inference through `impasto.kernels`: channels-last features in float16, bfloat16 or float32.

A layer is one to three launches: demodulation, then style scaling, convolution and all that follows it. Styles of all
layers come from one launch, and the picture is float32. A row has the same bytes alone and in a batch: no operation of
ours sums in an order that depends on the batch, as a library's matrix product may.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from impasto.generators.stylegan2 import Linear, Mapping, Synthesis, SynthesisLayer, ToRGB, split_noise, truncate
from impasto.kernels import demodulation, modulated_conv, routing, styles, to_rgb
from impasto.kernels.epilogue import Epilogue
from impasto.kernels.modulated_layer import modulated_layer
from impasto.kernels.routing import Shape, Table
from impasto.kernels.styles import Affine


class KernelMapping:
    """z [N, z_dim], psi [N, num_ws], one a layer, and if conditional c [N, c_dim] → ws [N, num_ws, w_dim], float32."""

    def __init__(self, mapping: Mapping, device: torch.device):
        self._w_avg = mapping.w_avg.detach().to(device)
        self._embed = _Dense(mapping.embed, device, linear=True) if mapping.config.c_dim else None
        self._layers = [_Dense(layer, device, linear=False) for layer in mapping.layers]

    def __call__(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        x = _normalised(z)
        if c is not None and self._embed is not None:
            x = torch.cat([x, _normalised(self._embed(c))], dim=1)
        for layer in self._layers:
            x = layer(x)
        return truncate(x, self._w_avg, psi)


class KernelSynthesis:
    """ws [N, num_ws, w_dim] and noise [N, noise_size] → pictures [N, C, R, R], nominally in [-1, 1]; all float32.

    Features are `dtype`; each layer has the form that `routing.route` gives for the table.
    """

    def __init__(self, synthesis: Synthesis, dtype: torch.dtype, device: torch.device, table: Table):
        self._config = synthesis.config
        self._const: Tensor
        self._blocks: list[tuple[list[_Layer], _ToRGB]] = []
        affines: list[Affine] = []
        index = 0
        for resolution, block in synthesis.blocks:
            if resolution == 4:
                const = block.const.detach()[None].to(device, dtype)
                self._const = const.contiguous(memory_format=torch.channels_last)
            layers: list[SynthesisLayer] = [block.conv1] if resolution == 4 else [block.conv0, block.conv1]
            # A toRGB shares its row of ws with the next block's first layer.
            styled: list[SynthesisLayer | ToRGB] = [*layers, block.torgb]
            affines += [_affine(layer, index + offset, dtype) for offset, layer in enumerate(styled)]
            index += len(layers)
            self._blocks.append(
                ([_Layer(layer, resolution, dtype, device, table) for layer in layers], _ToRGB(block.torgb, device))
            )
        self._affines = styles.pack(affines).to(device)

    def __call__(self, ws: Tensor, noise: Tensor) -> Tensor:
        maps = iter(split_noise(noise, self._config))
        of_layers = iter(styles.styles(ws, self._affines))
        x = self._const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        picture: Tensor | None = None
        for layers, torgb in self._blocks:
            for layer in layers:
                x = layer(x, next(of_layers), next(maps))
            picture = torgb(x, next(of_layers), picture)
        assert picture is not None
        return picture


class _Layer:
    """A 3×3 layer: features, styles [N, I] and noise [N, 1, R, R] to the next features."""

    def __init__(
        self, layer: SynthesisLayer, resolution: int, dtype: torch.dtype, device: torch.device, table: Table
    ) -> None:
        weight = layer.weight.detach()
        if dtype is not torch.float32:
            weight, _ = modulated_conv.prenormalise(weight, torch.ones(1, weight.shape[1]))
        outputs, inputs = weight.shape[:2]
        side = resolution // 2 if layer.up else resolution
        form = routing.route(Shape(inputs, outputs, side, side, layer.up), dtype, launches=True, table=table)
        self._convolve = modulated_layer(weight.to(device), dtype, form=form, up=layer.up)
        self._squares = modulated_conv.squared_weights(weight).to(device)
        self._strength = layer.noise_strength.detach().to(device)
        self._bias = layer.bias.detach().to(device)
        self._clamp = layer.clamp

    def __call__(self, x: Tensor, layer_styles: Tensor, noise: Tensor) -> Tensor:
        factors = demodulation.demodulate(layer_styles, self._squares)
        noise = noise[:, 0].contiguous()
        epilogue = Epilogue(factors, noise, self._strength, self._bias, clamp=self._clamp)
        return self._convolve(x, layer_styles, epilogue)


class _ToRGB:
    """Features, styles [N, I] and the picture so far to the picture."""

    def __init__(self, layer: ToRGB, device: torch.device) -> None:
        self._weight = layer.weight.detach().to(device)
        self._bias = layer.bias.detach().to(device)
        self._clamp = layer.clamp

    def __call__(self, x: Tensor, layer_styles: Tensor, picture: Tensor | None) -> Tensor:
        return to_rgb.to_rgb(x, self._weight, layer_styles, self._bias, picture, clamp=self._clamp)


class _Dense:
    """A fully connected layer of x [N, I] as a 1×1 convolution of N single pixels."""

    def __init__(self, layer: Linear, device: torch.device, *, linear: bool) -> None:
        weight, bias = (tensor.detach().to(device) for tensor in layer.scaled())
        self._weight = modulated_conv.pack_weight(weight[:, :, None, None], torch.float32)
        self._epilogue = Epilogue(bias=bias, linear=linear)

    def __call__(self, x: Tensor) -> Tensor:
        pixels = x[:, :, None, None]
        return modulated_conv.modulated_conv(
            pixels, self._weight, torch.ones_like(x), self._epilogue, precision="ieee"
        ).flatten(1)


def _affine(layer: SynthesisLayer | ToRGB, index: int, dtype: torch.dtype) -> Affine:
    weight, bias = (tensor.detach() for tensor in layer.affine.scaled())
    if isinstance(layer, SynthesisLayer):
        return Affine(weight, bias, index, normalise=dtype is not torch.float32)
    gain = 1.0 / math.sqrt(layer.weight.shape[1])
    return Affine(weight * gain, bias * gain, index, normalise=False)


def _normalised(x: Tensor) -> Tensor:
    """x · (mean x² + 1e-8)^-½ over dim 1: with equal squares, demodulation's formula."""
    return x * demodulation.demodulate(x, x.new_full((1, x.shape[1]), 1.0 / x.shape[1]))
