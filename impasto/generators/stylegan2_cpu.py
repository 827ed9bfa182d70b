"""StyleGAN2 for inference in eager torch on a CPU, one row at a time: `stylegan2_frozen` in float32, or with bfloat16.

A row has the same bytes whatever the number of threads: the operations that split a sum among threads, small ones all,
run in one. (Which do was found by trying, with oneDNN and MKL in torch 2.13; engines check it when they warm up.)

In bfloat16 the layers from 16×16 on are

    h = lrelu(conv(x ⊙ s, √2·W) + √2·(b + noise·strength) / d)          [1, C, R, R], channels-last

where the convolution takes and gives bfloat16, its sums being float32, and all else is float32. So a layer rounds three
times, its input, its weight and its sums; the passes between convolutions round nothing, and would take no less time in
bfloat16. Layers up to 8×8 stay float32: they take little time, and each that rounds would add as much noise to the
picture as any other. Up-sampling is the folded form, which rounds nothing before the filter. The convolution adds
√2·b/d to its sums, which therefore belong to one row. New memory for a layer's features takes as long as a pass over
them, so a layer writes into its input's, which nothing reads after it.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.generators.stylegan2 import Mapping, Synthesis, SynthesisLayer, ToRGB
from impasto.generators.stylegan2_frozen import FrozenMapping, FrozenSynthesis, constants, product
from impasto.kernels import bias_act, modulated_conv

MIN_SIDE = 32
"""The first resolution whose layers use all threads."""
MIN_BFLOAT16_SIDE = 16
"""The first one whose layers may be bfloat16."""
GEOMETRY = ([1, 1], [1, 1], [1, 1], 1)
"""Padding, strides, dilation and groups of every 3×3 convolution, as oneDNN's operators take them."""


def cpu_mapping(mapping: Mapping) -> nn.Module:
    """The mapping network for single rows, with the inputs and outputs of `FrozenMapping`."""
    return InOneThread(FrozenMapping(mapping))


def float32_synthesis(synthesis: Synthesis) -> FrozenSynthesis:
    """The synthesis network for single rows, ws [1, num_ws, w_dim] and noise [1, noise_size] to a picture."""
    frozen = FrozenSynthesis(synthesis)
    for resolution, block in synthesis.blocks:
        setattr(frozen, f"b{resolution}_torgb", ThinToRGB(block.torgb))
        for name in ("conv0", "conv1") if 4 < resolution < MIN_SIDE else ("conv1",) if resolution == 4 else ():
            layer = f"b{resolution}_{name}"
            setattr(frozen, layer, InOneThread(getattr(frozen, layer)))
    return frozen


def bfloat16_synthesis(synthesis: Synthesis) -> FrozenSynthesis:
    """As `float32_synthesis`, with convolutions in bfloat16; what goes in and comes out is float32."""
    frozen = float32_synthesis(synthesis)
    for resolution, block in synthesis.blocks:
        if resolution < MIN_BFLOAT16_SIDE:
            continue
        for name, layer, side in (("conv0", block.conv0, resolution // 2), ("conv1", block.conv1, resolution)):
            rounded = BFloat16Layer(layer, side)
            setattr(frozen, f"b{resolution}_{name}", rounded if resolution >= MIN_SIDE else InOneThread(rounded))
    return frozen


class InOneThread(nn.Module):
    """A network that runs in one thread, whatever the number of threads around it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        with one_thread():
            return self.network(*inputs, **named)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch uses no thread but this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class PackedConvolution(nn.Module):
    """x [1, I, side, side] with a weight [O, I, 3, 3] and perhaps a bias [O] → [1, O, side, side]; one dtype.

    The weight lies in oneDNN's own order, into which `conv2d` would bring it again at every call.
    """

    def __init__(self, weight: Tensor, side: int):
        super().__init__()
        shape = [1, weight.shape[1], side, side]
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *GEOMETRY, shape)
        # Opaque to copies and to `state_dict`: not a buffer.
        self.packed = packed

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.packed, bias, *GEOMETRY, "none", [], "")
        return result


class Memory(threading.local):
    """Tensors of a layer that it writes anew at each call, on whichever thread."""

    def __init__(self) -> None:
        self._kept: dict[torch.dtype, Tensor] = {}

    def like(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The one of that dtype, channels-last in the shape of x."""
        if dtype not in self._kept or self._kept[dtype].shape != x.shape:
            self._kept[dtype] = torch.empty(x.shape, dtype=dtype, memory_format=torch.channels_last)
        return self._kept[dtype]


class BFloat16Layer(nn.Module):
    """A 3×3 layer of one row: (h, its scale, w, noise) → (next h, its scale), as `stylegan2_frozen.FrozenLayer`.

    h is [1, C, side, side], and is overwritten; what comes out is valid until the next call on the same thread.
    """

    def __init__(self, layer: SynthesisLayer, side: int):
        super().__init__()
        self.up = layer.up
        self.clamp = layer.clamp
        self._memory = Memory()
        constants(self, "affine", *layer.affine.scaled())
        weight = layer.weight.detach()
        self.register_buffer("squares", modulated_conv.squared_weights(weight).t().contiguous())
        if layer.up:
            weight = modulated_conv.fold_up_weight(weight)
        rounded = (weight * bias_act.GAIN).bfloat16()
        self.convolution = PackedConvolution(rounded.contiguous(memory_format=torch.channels_last), side)
        self.register_buffer("bias", layer.bias.detach() * bias_act.GAIN)
        self.register_buffer("strength", layer.noise_strength.detach() * bias_act.GAIN)

    def forward(self, h: Tensor, scale: Tensor, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with one_thread():
            styles = product(self, "affine", w)
            demodulation = (styles.square() @ self.get_buffer("squares") + modulated_conv.EPSILON).rsqrt()
        x = self._memory.like(h, torch.bfloat16).copy_(h.mul_((styles * scale)[:, :, None, None]))
        bias = (self.get_buffer("bias") / demodulation[0]).bfloat16()
        if self.up:
            sums = functional.pixel_shuffle(self.convolution(x, bias.repeat_interleave(4)), 2)
        else:
            sums = self.convolution(x, bias)
        h = (h if h.shape == sums.shape else self._memory.like(sums, torch.float32)).copy_(sums)
        h.addcmul_(noise, (self.get_buffer("strength") / demodulation)[:, :, None, None])
        functional.leaky_relu_(h, bias_act.SLOPE)
        if self.clamp is not None:
            bound = (self.clamp / demodulation)[:, :, None, None]
            h.clamp_(-bound, bound)
        return h, demodulation


class ThinToRGB(nn.Module):
    """The 1×1 layer to the picture's channels of one row: (h, its scale, w) → picture, all float32."""

    def __init__(self, layer: ToRGB):
        super().__init__()
        self.clamp = layer.clamp
        constants(self, "affine", *layer.affine.scaled())
        weight = layer.weight.detach()[:, :, 0, 0]
        self.register_buffer("weight", weight / math.sqrt(weight.shape[1]))
        self.register_buffer("bias", layer.bias.detach().clone())

    def forward(self, h: Tensor, scale: Tensor, w: Tensor) -> Tensor:
        with one_thread():
            styles = product(self, "affine", w) * scale
        # Three outputs: scaling the row's weights is far cheaper than scaling its features.
        weight = self.get_buffer("weight") * styles
        rgb = functional.linear(h.permute(0, 2, 3, 1), weight, self.get_buffer("bias")).permute(0, 3, 1, 2)
        return rgb.contiguous() if self.clamp is None else rgb.clamp(-self.clamp, self.clamp).contiguous()
