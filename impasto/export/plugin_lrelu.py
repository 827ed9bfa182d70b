"""StyleGAN3's graph with `filtered_lrelu` as a plugin: its up-sampling, leaky ReLU and down-sampling become one node.

In the plain graph they are, one after the other and each of one use,

    ConvTranspose, ConvTranspose, LeakyRelu, [Clip,] Conv, Conv          all depthwise, along one axis each

as `impasto.generators.stylegan3_frozen` writes them, with the gains up² and √2 in the first two. Filters that are not
separable stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from impasto.export.plugin_node import NAMESPACE, plugin_node
from impasto.kernels import filtered_lrelu

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class _Chain:
    """The nodes of one filtered leaky ReLU; `nodes` are all of them, from first to last."""

    nodes: tuple[onnx.NodeProto, ...]
    up: int
    down: int
    crop: int
    up_taps: Array
    down_taps: Array
    slope: float
    clamp: float


def with_filtered_lrelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a node for every filtered leaky ReLU in it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for chain in _Finder(graph).chains():
        first, last = chain.nodes[0], chain.nodes[-1]
        name = last.output[0]
        channels = next(tensor.dims[0] for tensor in graph.initializer if tensor.name == first.input[1])
        kind = next(tensor.data_type for tensor in graph.initializer if tensor.name == first.input[1])
        bias = np.zeros(channels, helper.tensor_dtype_to_np_dtype(kind))  # was added before
        arrays = {"bias": bias, "up_taps": chain.up_taps, "down_taps": chain.down_taps}
        for field, values in arrays.items():
            graph.initializer.append(numpy_helper.from_array(values, f"{name}.{field}"))
        padding = len(chain.up_taps) - 1 - chain.crop
        node = plugin_node(
            "filtered_lrelu",
            [first.input[0], *(f"{name}.{field}" for field in arrays)],
            [name],
            up=chain.up,
            down=chain.down,
            left=padding,
            right=padding,
            top=padding,
            bottom=padding,
            slope=chain.slope,
            gain=filtered_lrelu.GAIN,
            clamp=chain.clamp,
        )
        place = list(graph.node).index(last)
        graph.node.insert(place, node)
        for old in chain.nodes:
            graph.node.remove(old)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    result.opset_import.append(helper.make_opsetid(NAMESPACE, 1))
    return result


class _Finder:
    """Finds the chains of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._users = {name: node for node in graph.node for name in node.input}
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}

    def chains(self) -> list[_Chain]:
        """All, in the graph's order."""
        found = (self._chain(node) for node in self._graph.node if node.op_type == "LeakyRelu")
        return [chain for chain in found if chain is not None]

    def _chain(self, lrelu: onnx.NodeProto) -> _Chain | None:
        rows = self._makers.get(lrelu.input[0])
        columns = self._makers.get(rows.input[0]) if rows else None
        after = self._only_user(lrelu)
        clip = after if after is not None and after.op_type == "Clip" else None
        down = self._only_user(clip) if clip is not None else after
        last = self._only_user(down) if down is not None else None
        if columns is None or rows is None or down is None or last is None:
            return None
        if [node.op_type for node in (columns, rows, down, last)] != ["ConvTranspose"] * 2 + ["Conv"] * 2:
            return None
        taps = [values for node in (columns, rows, down, last) if (values := self._taps(node)) is not None]
        if len(taps) < 4:
            return None
        strides = max(_attribute(columns, "strides", [1, 1]))
        # The first of the two has the gain up alone, the second √2 as well.
        up_taps = taps[0] / strides
        return _Chain(
            tuple(node for node in (columns, rows, lrelu, clip, down, last) if node is not None),
            strides,
            max(_attribute(down, "strides", [1, 1])),
            max(_attribute(columns, "pads", [0])),
            up_taps.astype(np.float32),
            taps[2][::-1].astype(np.float32),
            float(_attribute(lrelu, "alpha", 0.01)),
            float(self._value(clip.input[2])) if clip is not None else 0.0,
        )

    def _only_user(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        return self._users[node.output[0]] if self._uses[node.output[0]] == 1 else None

    def _taps(self, node: onnx.NodeProto) -> Array | None:
        """The filter [K] of a depthwise convolution along one axis, without bias; None for any other."""
        weight = self._constants.get(node.input[1])
        if weight is None or len(node.input) > 2 or _attribute(node, "group", 1) != weight.dims[0]:
            return None
        filters: Array = numpy_helper.to_array(weight)[:, 0]
        return filters[0].reshape(-1) if min(filters.shape[1:]) == 1 else None

    def _value(self, name: str) -> Array:
        if name in self._constants:
            return numpy_helper.to_array(self._constants[name])
        return numpy_helper.to_array(_attribute(self._makers[name], "value", None))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = [attribute for attribute in node.attribute if attribute.name == name]
    return helper.get_attribute_value(found[0]) if found else default
