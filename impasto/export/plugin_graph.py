"""Graphs whose heavy layers are our kernels, as TensorRT's plugins: another way to build a plan than the plain graph.

A node names its plugin as `impasto.export.plugins` registers it. Inputs and outputs are those of the plain graph, so
that an engine runs either. Features of a StyleGAN2 travel as [N, H, W, C], which is how its kernel reads them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from impasto.export.bundle import WEIGHTS, Bundle
from impasto.export.lint import MAX_IR_VERSION, MAX_OPSET
from impasto.export.plugin_lrelu import with_filtered_lrelu
from impasto.export.plugin_node import NAMESPACE, plugin_node
from impasto.export.publish import load_generator
from impasto.generators.stylegan2 import Linear, StyleGAN2, SynthesisLayer, ToRGB
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.kernels import modulated_conv, ptx, upfirdn

FAMILIES = ("stylegan2", "stylegan3")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
"""Of the features of a graph with plugins."""


def digest() -> str:
    """Of what plugins are made of: part of the key of a plan that holds them."""
    return ptx.digest()


def synthesis(bundle: Bundle, precision: str, file: str) -> onnx.ModelProto:
    """The bundle's synthesis network with plugins; `file` is the plain graph's, of that precision."""
    if bundle.manifest.family == "stylegan3":
        return with_filtered_lrelu(onnx.load(bundle.path / file))
    generator = load_generator(StyleGAN2Config(**bundle.manifest.config), bundle.path / WEIGHTS)
    return stylegan2_synthesis(generator, precision)


def stylegan2_synthesis(generator: StyleGAN2, precision: str) -> onnx.ModelProto:
    """ws [N, num_ws, w_dim] and noise [N, noise_size] to image_float [N, C, R, R], the 3×3 layers in "fp16" or "fp32".

    Everything but the features and the weights that they meet is float32.
    """
    return _StyleGAN2Graph(generator, precision).model()


class _StyleGAN2Graph:
    """Builds the graph, layer by layer; every method that computes gives the name of its result."""

    def __init__(self, generator: StyleGAN2, precision: str) -> None:
        self._synthesis = generator.synthesis
        self._config = generator.config
        self._precision = precision
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._count = 0

    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        picture = self._pictures()
        self._nodes.append(helper.make_node("Identity", [picture], ["image_float"], name="image_float"))
        config, side = self._config, self._config.resolution

        def value(name: str, *shape: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

        graph = helper.make_graph(
            self._nodes,
            "synthesis",
            [value("ws", config.num_ws, config.w_dim), value("noise", config.noise_size)],
            [value("image_float", config.img_channels, side, side)],
            self._constants,
        )
        opsets = [helper.make_opsetid("", MAX_OPSET), helper.make_opsetid(NAMESPACE, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=MAX_IR_VERSION)

    def _pictures(self) -> str:
        start = index = 0
        x = picture = ""
        for resolution, block in self._synthesis.blocks:
            area = resolution * resolution
            layers = [block.conv1] if resolution == 4 else [block.conv0, block.conv1]
            if resolution == 4:
                x = self._rows_of(block.const)
            for place, layer in enumerate(layers):
                noise = self._op("Slice", "noise", self._ints(start), self._ints(start + area), self._ints(1))
                x = self._layer(layer, f"b{resolution}.conv{place}", x, self._w(index), noise, resolution)
                start, index = start + area, index + 1
            # A toRGB shares its row of ws with the next block's first layer.
            rgb = self._rgb(block.torgb, f"b{resolution}.torgb", x, self._w(index), resolution)
            picture = self._op("Add", self._upsampled(picture), rgb) if picture else rgb
        return picture

    def _layer(self, layer: SynthesisLayer, name: str, x: str, w: str, noise: str, resolution: int) -> str:
        """Features [N, R or R/2, R or R/2, I] to [N, R, R, O]."""
        weight, styles = layer.weight.detach(), self._affine(layer.affine, name, w, 1.0)
        if self._precision != "fp32":
            weight, _ = modulated_conv.prenormalise(weight, torch.ones(1, weight.shape[1]))
            largest = self._op("ReduceMax", self._op("Abs", styles), self._ints(1), keepdims=1)
            styles = self._op("Div", styles, largest)
        squares = self._constant(f"{name}.squares", modulated_conv.squared_weights(weight).t().contiguous())
        energy = self._op("MatMul", self._op("Mul", styles, styles), squares)
        epsilon = self._constant(f"{name}.epsilon", torch.tensor(modulated_conv.EPSILON))
        demodulation = self._op("Reciprocal", self._op("Sqrt", self._op("Add", energy, epsilon)))
        packed = modulated_conv.pack_weight(weight, PRECISIONS[self._precision], up="folded" if layer.up else None)
        parameters = [
            self._constant(f"{name}.weight", packed.taps),
            styles,
            demodulation,
            noise,
            self._constant(f"{name}.strength", layer.noise_strength.detach().reshape(1)),
            self._constant(f"{name}.bias", layer.bias.detach()),
        ]
        result = self._name("modulated_conv")
        attributes = {"up": 2 if layer.up else 1, "clamp": float(layer.clamp or 0.0)}
        self._nodes.append(plugin_node("modulated_conv", [x, *parameters], [result], **attributes))
        return result

    def _rgb(self, layer: ToRGB, name: str, x: str, w: str, resolution: int) -> str:
        """Features [N, R, R, I] to a picture [N, C, R, R]."""
        outputs, inputs = layer.weight.shape[:2]
        styles = self._affine(layer.affine, name, w, 1.0 / math.sqrt(inputs))
        styles = self._op("Unsqueeze", styles, self._ints(2))
        weight = self._constant(f"{name}.weight", layer.weight.detach()[:, :, 0, 0].t()[None].contiguous())
        pixels = self._op("Reshape", x, self._ints(0, resolution * resolution, inputs))
        if self._precision != "fp32":
            pixels = self._op("Cast", pixels, to=TensorProto.FLOAT)
        rgb = self._op("MatMul", pixels, self._op("Mul", styles, weight))
        rgb = self._op("Add", rgb, self._constant(f"{name}.bias", layer.bias.detach()))
        if layer.clamp is not None:
            bounds = (self._constant(f"{name}.{end}", torch.tensor(end * layer.clamp)) for end in (-1.0, 1.0))
            rgb = self._op("Clip", rgb, *bounds)
        planes = self._op("Transpose", rgb, perm=[0, 2, 1])
        return self._op("Reshape", planes, self._ints(0, outputs, resolution, resolution))

    def _upsampled(self, picture: str) -> str:
        channels = self._config.img_channels
        taps = upfirdn.binomial_filter()
        kernel = (torch.outer(taps, taps) * 4.0).expand(channels, 1, -1, -1)
        weight = self._constant("skip", kernel.contiguous())
        return self._op("ConvTranspose", picture, weight, strides=[2, 2], pads=[1, 1, 1, 1], group=channels)

    def _affine(self, linear: Linear, name: str, w: str, gain: float) -> str:
        weight, bias = (tensor.detach() * gain for tensor in linear.scaled())
        parameters = (self._constant(f"{name}.affine.{kind}", t) for kind, t in (("weight", weight), ("bias", bias)))
        return self._op("Gemm", w, *parameters, transB=1)

    def _rows_of(self, const: Tensor) -> str:
        """The learnt constant [C, 4, 4] for every row: [N, 4, 4, C]."""
        values = const.detach().permute(1, 2, 0)[None].to(PRECISIONS[self._precision]).contiguous()
        batch = self._op("Shape", "ws", start=0, end=1)
        shape = self._op("Concat", batch, self._ints(*values.shape[1:]), axis=0)
        return self._op("Expand", self._constant("const", values), shape)

    def _w(self, index: int) -> str:
        """Row `index` of ws, [N, w_dim]."""
        place = self._constant(f"index{index}", torch.tensor(index))
        return self._op("Gather", "ws", place, axis=1)

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        result = self._name(kind)
        self._nodes.append(helper.make_node(kind, list(inputs), [result], name=result, **attributes))
        return result

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def _ints(self, *values: int) -> str:
        return self._array(f"ints_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def _constant(self, name: str, values: Tensor) -> str:
        return self._array(name, values.contiguous().numpy())

    def _array(self, name: str, values: NDArray[Any]) -> str:
        if all(tensor.name != name for tensor in self._constants):
            self._constants.append(numpy_helper.from_array(values, name))
        return name
