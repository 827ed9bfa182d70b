"""Graphs of lower precision, made from the float32 graph: what convolutions take, multiply and give.

- "fp16", "bf16": each convolution gets its input and weight in 16 bits and gives 16 bits; all else stays float32.
- "int8": each convolution gets 8 bits between QuantizeLinear and DequantizeLinear (symmetric, per tensor; weights per
  output channel), with ranges seen over a calibration set: TensorRT and onnxruntime make integer convolutions of it.

Nothing here chooses values: a generator whose values do not fit is brought into range beforehand, such as by
`generators.stylegan2_prenormalised`. Depthwise convolutions, which filter, stay as they are.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from impasto.export.lint import CONVOLUTIONS

MIN_PSNR = {"fp16": 45.0, "bf16": 40.0, "int8": 30.0}
"""dB, of every picture against float32, a peak of 2: a graph that has less is refused."""
HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BFLOAT16_OPSET = 22
"""The first with convolutions in bfloat16."""
PERCENTILE = 99.999

Feeds = Mapping[str, NDArray[Any]]


def dense_convolutions(model: onnx.ModelProto, min_side: int = 0) -> list[str]:
    """Names of the convolutions that mix channels by more than one tap, whose output has sides of `min_side` or more.

    An output whose sides are free counts as large.
    """
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    sides = {
        value.name: value.type.tensor_type.shape.dim[-1].dim_value or min_side
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.shape.dim
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type in CONVOLUTIONS
        and _group(node) == 1
        and np.prod(weights[node.input[1]][2:]) > 1
        and sides.get(node.output[0], min_side) >= min_side
    ]


def halve(model: onnx.ModelProto, precision: str, nodes: Collection[str]) -> onnx.ModelProto:
    """A copy in which the named convolutions, whose weights are initializers, are in 16 bits."""
    model = _copied(model)
    if precision == "bf16":
        for opset in model.opset_import:
            opset.version = max(opset.version, BFLOAT16_OPSET)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    edited: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name not in nodes:
            edited.append(node)
            continue
        edited.append(_cast(node.input[0], f"{node.name}.half", HALVES[precision]))
        node.input[0] = f"{node.name}.half"
        for name in node.input[1:]:
            _round(weights[name], precision)
        result = node.output[0]
        node.output[0] = f"{result}.half"
        edited += [node, _cast(node.output[0], result, TensorProto.FLOAT)]
    del model.graph.node[:]
    model.graph.node.extend(edited)
    _forget_types(model)
    return model


def quantise(path: Path, target: Path, nodes: Collection[str], calibration: Iterable[Feeds]) -> None:
    """Write the float32 graph `path` to `target` with the named convolutions in 8 bits, by onnxruntime's quantiser."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with _silent():
        quantize_static(
            path,
            target,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            op_types_to_quantize=["Conv"],
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "CalibPercentile": PERCENTILE},
        )


def without_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that rounds as the graph of `halve(…, "bf16")` and multiplies in float32.

    For runtimes whose convolutions do not take bfloat16; those that do also add their products in float32.
    """
    model = _copied(model)
    for opset in model.opset_import:
        opset.version = min(opset.version, BFLOAT16_OPSET - 2)
    wide = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    edited: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type not in CONVOLUTIONS or node.input[1] not in wide:
            edited.append(node)
            continue
        for place, name in enumerate(node.input):
            node.input[place] = f"{node.name}.wide{place}"
            edited.append(_cast(name, node.input[place], TensorProto.FLOAT))
        result = node.output[0]
        node.output[0] = f"{result}.wide"
        edited += [node, _cast(node.output[0], result, TensorProto.BFLOAT16)]
    del model.graph.node[:]
    model.graph.node.extend(edited)
    return model


class _Reader:
    """A calibration set as onnxruntime's quantiser reads it."""

    def __init__(self, rows: Iterable[Feeds]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        row = next(self._rows, None)
        return None if row is None else dict(row)


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _cast(source: str, target: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=dtype)


def _round(tensor: onnx.TensorProto, precision: str) -> None:
    values = numpy_helper.to_array(tensor)
    if tensor.data_type != TensorProto.FLOAT:
        return
    if precision == "fp16":
        with np.errstate(over="ignore"):  # infinity shows in the pictures, and is refused by them
            halves = values.astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(halves, tensor.name))
        return
    # Round to nearest, ties to even, on the upper half of the bits.
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, rounded.tobytes(), raw=True))


def _forget_types(model: onnx.ModelProto) -> None:
    """Drop the notes of types between nodes, which are of the graph before, and infer them anew."""
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    model.graph.value_info.extend(inferred.graph.value_info)


def _group(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the quantiser's prints and advice off the user's screen."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
