"""StyleGAN2 for inference: the same pictures from constants folded beforehand and fewer passes over memory.

A layer's output y = lrelu(d ⊙ conv(x ⊙ s) + noise·strength + b)·√2 is computed as y = d ⊙ h with

    h = lrelu(√2·conv(x ⊙ s) + √2·(noise·strength + b) / d)

since leaky ReLU commutes with a positive factor. Features travel as h; the factor d joins the next layer's styles, so
that a layer scales its input once and never its output. The second term is one small matrix product.
Every convolution weight is a constant, and the batch is free, as ONNX wants it; `stylegan2_graph` is the form for CPUs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.stylegan2 import Mapping, Synthesis, SynthesisLayer, ToRGB, normalise, split_noise, truncate
from impasto.kernels import bias_act, modulated_conv, upfirdn

# Below this side the product of toRGB is so thin that onnxruntime splits its sums by the number of threads.
MIN_SIDE_OF_RGB_PRODUCT = 64


class FrozenMapping(nn.Module):
    """z [N, z_dim], psi [N, num_ws], one a layer, and if conditional c [N, c_dim] → ws [N, num_ws, w_dim]."""

    def __init__(self, mapping: Mapping):
        super().__init__()
        self.depth = mapping.config.mapping_layers
        self.register_buffer("w_avg", mapping.w_avg.detach().clone())
        if mapping.config.c_dim:
            constants(self, "embed", *mapping.embed.scaled())
        for index, layer in enumerate(mapping.layers):
            constants(self, f"fc{index}", *layer.scaled())

    def forward(self, z: Tensor, psi: Tensor, c: Tensor | None = None) -> Tensor:
        x = normalise(z)
        if c is not None:
            x = torch.cat([x, normalise(product(self, "embed", c))], dim=1)
        for index in range(self.depth):
            x = functional.leaky_relu(product(self, f"fc{index}", x), bias_act.SLOPE) * bias_act.GAIN
        return truncate(x, self.get_buffer("w_avg"), psi)


class FrozenSynthesis(nn.Module):
    """ws [N, num_ws, w_dim] and noise [N, noise_size] → pictures [N, C, R, R], nominally in [-1, 1]."""

    def __init__(self, synthesis: Synthesis):
        super().__init__()
        self.config = synthesis.config
        for resolution, block in synthesis.blocks:
            if resolution == 4:
                self.register_buffer("const", block.const.detach()[None].clone())
            else:
                setattr(self, f"b{resolution}_conv0", FrozenLayer(block.conv0))
            setattr(self, f"b{resolution}_conv1", FrozenLayer(block.conv1))
            setattr(self, f"b{resolution}_torgb", FrozenToRGB(block.torgb, resolution))
        self.register_buffer("skip", blur(self.config.img_channels))

    def forward(self, ws: Tensor, noise: Tensor) -> Tensor:
        maps = iter(split_noise(noise, self.config))
        features = self.get_buffer("const").expand(ws.shape[0], -1, -1, -1)
        scale = torch.ones_like(features[:, :, 0, 0])
        picture: Tensor | None = None
        for index, resolution in enumerate(self.config.resolutions):
            if resolution > 4:
                conv0 = getattr(self, f"b{resolution}_conv0")
                features, scale = conv0(features, scale, ws[:, 2 * index - 1], next(maps))
            conv1 = getattr(self, f"b{resolution}_conv1")
            features, scale = conv1(features, scale, ws[:, 2 * index], next(maps))
            rgb = getattr(self, f"b{resolution}_torgb")(features, scale, ws[:, 2 * index + 1])
            picture = rgb if picture is None else self._upsampled(picture) + rgb
        assert picture is not None
        return picture

    def _upsampled(self, picture: Tensor) -> Tensor:
        """Twice the size: the binomial filter as a depthwise transposed convolution, equal to `upfirdn.upsample2`."""
        return functional.conv_transpose2d(
            picture, self.get_buffer("skip"), stride=2, padding=1, groups=picture.shape[1]
        )


class FrozenLayer(nn.Module):
    """A 3×3 layer: (h, its scale, w, noise) → (next h, its scale)."""

    def __init__(self, layer: SynthesisLayer):
        super().__init__()
        self.clamp = layer.clamp
        weight = layer.weight.detach()
        constants(self, "affine", *layer.affine.scaled())
        self.register_buffer("squares", modulated_conv.squared_weights(weight).t().contiguous())
        self.convolution = (UpConvolution if layer.up else Convolution)(weight * bias_act.GAIN)
        strength = layer.noise_strength.detach().expand_as(layer.bias)
        self.register_buffer("noise_and_bias", torch.stack([strength, layer.bias.detach()], dim=1) * bias_act.GAIN)

    def forward(self, h: Tensor, scale: Tensor, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        styles = product(self, "affine", w)
        demodulation = (styles.square() @ self.get_buffer("squares") + modulated_conv.EPSILON).rsqrt()
        x = self.convolution(h * (styles * scale)[:, :, None, None])
        rows = noise.flatten(2)
        rows = torch.cat([rows, torch.ones_like(rows)], dim=1)
        offset = torch.matmul(self.get_buffer("noise_and_bias") / demodulation[:, :, None], rows)
        h = functional.leaky_relu(x + offset.reshape(-1, *x.shape[1:]), bias_act.SLOPE)
        if self.clamp is not None:
            bound = (self.clamp / demodulation)[:, :, None, None]
            h = torch.minimum(torch.maximum(h, -bound), bound)
        return h, demodulation


class Convolution(nn.Module):
    """x [N, I, H, W] with a weight [O, I, 3, 3], same padding → [N, O, H, W]."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.get_buffer("weight"), padding=1)


class UpConvolution(nn.Module):
    """x [N, I, H, W] with a weight [O, I, 3, 3], transposed of stride 2, then the binomial filter → [N, O, 2H, 2W]."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight.transpose(0, 1).contiguous())
        self.register_buffer("blur", blur(weight.shape[0]).to(weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv_transpose2d(x, self.get_buffer("weight"), stride=2)
        return functional.conv2d(x, self.get_buffer("blur"), padding=1, groups=x.shape[1])


class FrozenToRGB(nn.Module):
    """The 1×1 layer to the picture's channels: (h, its scale, w) → picture."""

    def __init__(self, layer: ToRGB, resolution: int):
        super().__init__()
        self.clamp = layer.clamp
        self.as_product = resolution >= MIN_SIDE_OF_RGB_PRODUCT
        gain = 1.0 / math.sqrt(layer.weight.shape[1])
        weight, bias = layer.affine.scaled()
        constants(self, "affine", weight * gain, bias * gain)
        self.register_buffer("weight", layer.weight.detach().clone())
        self.register_buffer("bias", layer.bias.detach()[None, :, None, None].clone())

    def forward(self, h: Tensor, scale: Tensor, w: Tensor) -> Tensor:
        styles = product(self, "affine", w) * scale
        weight = self.get_buffer("weight")
        if self.as_product:
            # Three outputs: scaling the weights of each sample is far cheaper than scaling its features.
            rgb = torch.matmul(weight[:, :, 0, 0] * styles[:, None, :], h.flatten(2))
            rgb = rgb.reshape(-1, weight.shape[0], *h.shape[2:])
        else:
            rgb = functional.conv2d(h * styles[:, :, None, None], weight)
        rgb = rgb + self.get_buffer("bias")
        return rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)


def blur(channels: int) -> Tensor:
    """The depthwise weight [channels, 1, 4, 4] of the binomial filter, with the gain of up-sampling by two."""
    taps = upfirdn.binomial_filter()
    return (torch.outer(taps, taps) * 4.0).repeat(channels, 1, 1, 1)


def constants(module: nn.Module, name: str, weight: Tensor, bias: Tensor) -> None:
    """Keep a fully connected layer in a module, ready for `product`."""
    module.register_buffer(f"{name}_weight", weight.detach().t().contiguous())
    module.register_buffer(f"{name}_bias", bias.detach().clone())


def product(module: nn.Module, name: str, x: Tensor) -> Tensor:
    """x [N, in] through the layer that `constants` keeps: [N, out]."""
    return x @ module.get_buffer(f"{name}_weight") + module.get_buffer(f"{name}_bias")
