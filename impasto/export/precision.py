"""Graphs that multiply in 16 bits, made from the float32 graph: "fp16" and "bf16".

Products with constant weights, which is where the time goes, take 16 bits and give 16 bits. What then only moves or
joins numbers stays so, as ReLUs, padding and residual sums. All else is float32: norms, softmax, means, exponentials,
sums over places, and what is one vector a row, such as styles and embeddings of a timestep.

Nothing here chooses values: a generator whose values do not fit is brought into range beforehand, such as by
`generators.stylegan2_prenormalised`. Depthwise convolutions, which filter, stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from impasto.export.lint import CONVOLUTIONS

MIN_PSNR = {"fp16": 45.0, "bf16": 40.0, "int8": 30.0, "fp8": 30.0}
"""dB, of every picture against float32, a peak of 2: a graph that has less is refused.

E4M3 rounds a number by up to 1/16 of itself, int8 by 1/254 of the largest: over a layer about as much noise.
"""
HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BFLOAT16_OPSET = 22
"""The first with convolutions in bfloat16."""
INDEX_CHOICES = {"ArgMax", "ArgMin", "TopK"}
"""Where the last bit decides: all that leads there stays float32."""
JOINING = {"Add", "Concat"}
MOVING = {
    "DepthToSpace", "Expand", "LeakyRelu", "MaxPool", "Pad", "Relu", "Reshape", "Resize", "Slice", "SpaceToDepth",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Take numbers as their first input alone, and give some of them, or 0, or one times a constant."""


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose constants are float32 where the file keeps them as float16 with a Cast behind."""
    model = copied(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Cast" or node.input[0] not in constants or _attribute(node, "to", 0) != TensorProto.FLOAT:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    replace_nodes(model, nodes)
    return model


def products(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions and matrix products with constant weights that may be of lower precision."""
    constants = {tensor.name for tensor in model.graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in _values(model)}
    precise = _before_choices(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in (*CONVOLUTIONS, "MatMul")
        and node.input[1] in constants
        and _attribute(node, "group", 1) == 1
        and ranks.get(node.output[0], 3) > 2
        and node.name not in precise
    ]


def dense_convolutions(model: onnx.ModelProto, min_side: int = 0) -> list[str]:
    """Those of `products` that are convolutions of more than one tap, with an output of sides of `min_side` or more.

    An output whose sides are free counts as large.
    """
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    sides = {
        value.name: value.type.tensor_type.shape.dim[-1].dim_value or min_side
        for value in _values(model)
        if value.type.tensor_type.shape.dim
    }
    lowered = set(products(model))
    return [
        node.name
        for node in model.graph.node
        if node.name in lowered
        and node.op_type in CONVOLUTIONS
        and np.prod(weights[node.input[1]][2:]) > 1
        and sides.get(node.output[0], min_side) >= min_side
    ]


def halve(model: onnx.ModelProto, precision: str, nodes: Collection[str]) -> onnx.ModelProto:
    """A copy in which the named products, and what only carries their results, are in 16 bits."""
    model = copied(model)
    if precision == "bf16":
        for opset in model.opset_import:
            opset.version = max(opset.version, BFLOAT16_OPSET)
    return _Halving(model, precision, nodes).run()


class _Halving:
    """Walks through a graph once. A tensor NAME has a twin NAME.half where one of 16 bits is made or wanted."""

    def __init__(self, model: onnx.ModelProto, precision: str, nodes: Collection[str]) -> None:
        self._model = model
        self._dtype = HALVES[precision]
        self._chosen = set(nodes)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made: set[str] = set()
        """What is computed in 16 bits."""
        self._there: set[str] = set()
        """Twins, and tensors made again from theirs, that are in the graph."""
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        for node in self._model.graph.node:
            numbers = self._numbers(node)
            if not numbers:
                for name in node.input:
                    self._want_float(name)
                self._nodes.append(node)
                continue
            for place in numbers:
                self._want_half(node.input[place])
                node.input[place] += ".half"
            for place, name in enumerate(node.output):
                self._made.add(name)
                self._there.add(f"{name}.half")
                node.output[place] = f"{name}.half"
            self._nodes.append(node)
        for output in self._model.graph.output:
            self._want_float(output.name)
        replace_nodes(self._model, self._nodes)
        return self._model

    def _numbers(self, node: onnx.NodeProto) -> list[int]:
        """Which inputs are of 16 bits; none of a node that stays in float32."""
        if node.name in self._chosen:
            return [place for place, name in enumerate(node.input) if name]
        if node.op_type in JOINING and all(name in self._made for name in node.input):
            return list(range(len(node.input)))
        # A value to pad with would be a number too.
        moves = node.op_type in MOVING and (node.op_type != "Pad" or not any(node.input[2:3]))
        return [0] if moves and node.input[0] in self._made else []

    def _want_half(self, name: str) -> None:
        twin = f"{name}.half"
        if twin in self._there:
            return
        self._there.add(twin)
        if name in self._constants:
            self._model.graph.initializer.append(_rounded(self._constants[name], twin, self._dtype))
        else:
            self._nodes.append(_cast(name, twin, self._dtype))

    def _want_float(self, name: str) -> None:
        if name in self._made and name not in self._there:
            self._there.add(name)
            self._nodes.append(_cast(f"{name}.half", name, TensorProto.FLOAT))


def computed_wide(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that rounds as a graph of `halve` and computes in float32, for runtimes without products of 16 bits.

    Those that have them also add in float32, so that both give the same but for the order of sums. Such a runtime may
    run the graph itself and leave the rounding out, as onnxruntime does on a CPU with float16: it tells nothing then.
    """
    model = copied(model)
    for opset in model.opset_import:
        opset.version = min(opset.version, BFLOAT16_OPSET - 2)
    short = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    short = {name: dtype for name, dtype in short.items() if dtype in HALVES.values()}
    edited: list[onnx.NodeProto] = []
    for node in model.graph.node:
        dtype = next((short[name] for name in node.input if name in short), None)
        if node.op_type == "Cast" and (to := _attribute(node, "to", 0)) in HALVES.values():
            short[node.output[0]] = to
        if node.op_type == "Cast" or dtype is None:
            edited.append(node)
            continue
        for place, name in enumerate(node.input):
            if name in short:
                node.input[place] = f"{node.name}.wide{place}"
                edited.append(_cast(name, node.input[place], TensorProto.FLOAT))
        results = list(node.output)
        short.update(dict.fromkeys(results, dtype))
        node.output[:] = [f"{name}.wide" for name in results]
        edited += [node, *(_cast(f"{name}.wide", name, dtype) for name in results)]
    replace_nodes(model, edited)
    return model


def _before_choices(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes from which an index is chosen."""
    needed: set[str] = set()
    found = set()
    for node in reversed(model.graph.node):
        if node.op_type in INDEX_CHOICES or needed.intersection(node.output):
            needed.update(node.input)
            found.add(node.name)
    return found


def _values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.value_info, *model.graph.output]


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Another model of the same content."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _cast(source: str, target: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=dtype)


def _rounded(tensor: onnx.TensorProto, name: str, dtype: int) -> onnx.TensorProto:
    with np.errstate(over="ignore"):  # infinity shows in the pictures, and is refused by them
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
    return numpy_helper.from_array(values, name)


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put these nodes in place; drop constants that none of them takes, and notes on what none of them makes."""
    graph = model.graph
    del graph.node[:]
    graph.node.extend(nodes)
    taken = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in taken]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    made = {name for node in nodes for name in node.output}
    notes = [value for value in graph.value_info if value.name in made]
    del graph.value_info[:]
    graph.value_info.extend(notes)


def _attribute(node: onnx.NodeProto, name: str, usual: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), usual)
