"""The rules that every exported graph keeps, so that any runtime can run it in any batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx
from onnx import TensorProto

MAX_IR_VERSION = 10
MAX_OPSET = 20
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
CONTROL_FLOW = {"If", "Loop", "Scan"}
CONVOLUTIONS = {"Conv", "ConvTranspose"}
STANDARD_DOMAINS = {"", "ai.onnx"}
INTERFACE_TYPES = {"input": (TensorProto.FLOAT, TensorProto.INT64), "output": (TensorProto.FLOAT,)}
INTERFACE_WORDS = {"input": "float32, or int64 for indices", "output": "float32"}
SIDES = {2: "height", 3: "width"}
"""Of [N, C, H, W]: what may be free besides the batch, and the name that it then has, or is computed from."""
WIDE_TYPES = {TensorProto.DOUBLE, TensorProto.COMPLEX64, TensorProto.COMPLEX128}


@dataclasses.dataclass(frozen=True)
class Violation:
    """A broken rule and the node, input, output or initializer that breaks it."""

    rule: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule}"


def violations(model: onnx.ModelProto) -> list[Violation]:
    """All broken rules of a graph; none for one that may be published."""
    return [*_versions(model), *_interface(model.graph), *_nodes(model.graph), *_initializers(model.graph)]


def _versions(model: onnx.ModelProto) -> Iterator[Violation]:
    if model.ir_version > MAX_IR_VERSION:
        yield Violation(f"IR version at most {MAX_IR_VERSION}, found {model.ir_version}", "model")
    for opset in model.opset_import:
        if opset.domain not in STANDARD_DOMAINS:
            yield Violation(f"standard operators only, found domain {opset.domain!r}", "model")
        elif opset.version > MAX_OPSET:
            yield Violation(f"opset at most {MAX_OPSET}, found {opset.version}", "model")
    for function in model.functions:
        yield Violation("no local functions", f"function {function.name}")


def _interface(graph: onnx.GraphProto) -> Iterator[Violation]:
    constants = {tensor.name for tensor in graph.initializer}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.name in constants:
                continue
            where = f"{kind} {value.name}"
            dims = value.type.tensor_type.shape.dim
            if not dims or not dims[0].dim_param:
                yield Violation("the first dimension is the batch, and free", where)
            if not all(_fixed_or_side(place, dim) for place, dim in enumerate(dims) if place):
                yield Violation("every dimension but the batch is fixed, or called height or width", where)
            if value.type.tensor_type.elem_type not in INTERFACE_TYPES[kind]:
                yield Violation(f"{kind}s are {INTERFACE_WORDS[kind]}", where)


def _fixed_or_side(place: int, dim: onnx.TensorShapeProto.Dimension) -> bool:
    return dim.HasField("dim_value") or SIDES.get(place, "none") in dim.dim_param


def _nodes(graph: onnx.GraphProto) -> Iterator[Violation]:
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in constants}
    for node in graph.node:
        where = f"node {node.name or node.output[0]} ({node.op_type})"
        if node.domain not in STANDARD_DOMAINS:
            yield Violation(f"standard operators only, found domain {node.domain!r}", where)
        if node.op_type in RANDOM:
            yield Violation("no random operator; noise is an input", where)
        if node.op_type in CONTROL_FLOW:
            yield Violation("no control flow", where)
        if node.op_type in CONVOLUTIONS and node.input[1] not in constants:
            yield Violation("convolution weights are constant", where)


def _initializers(graph: onnx.GraphProto) -> Iterator[Violation]:
    for tensor in graph.initializer:
        where = f"initializer {tensor.name}"
        if tensor.data_location == TensorProto.EXTERNAL:
            yield Violation("weights are inside the graph", where)
        if tensor.data_type in WIDE_TYPES:
            yield Violation("no float64 and no complex numbers", where)
