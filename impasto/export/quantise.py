"""Graphs whose convolutions take 8 bits, made from the float32 graph and a calibration set: "int8" and "fp8".

Between QuantizeLinear and DequantizeLinear stand what a convolution takes, by one scale, and its weight, by one scale
an output channel; symmetric. TensorRT makes convolutions of 8 bits of it, onnxruntime on a CPU those of int8. All else,
biases and sums too, is float32.

- "int8": by onnxruntime's quantiser, with a range that leaves out a hundred-thousandth of the numbers; it does the
  same to what a convolution gives, for the CPU's kernels.
- "fp8": E4M3, 4 bits of exponent and 3 of fraction, largest number 448. The scale is the largest number seen / 448:
  numbers keep their relative error until 2⁻¹⁵ of it, so that a wide range costs little.
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
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from impasto.export.precision import copied, replace_nodes

PERCENTILE = 99.999
FLOAT8 = TensorProto.FLOAT8E4M3FN
LARGEST = np.float32(448.0)
"""Of E4M3."""

Feeds = Mapping[str, NDArray[Any]]


def to_int8(model: onnx.ModelProto, target: Path, nodes: Collection[str], calibration: Iterable[Feeds]) -> None:
    """Write the float32 graph to `target` with the named convolutions in int8."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with _silent():
        quantize_static(
            model,
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


def largest_inputs(model: onnx.ModelProto, nodes: Collection[str], calibration: Iterable[Feeds]) -> dict[str, float]:
    """The largest absolute number that each of the named convolutions takes, over a calibration set."""
    probed = copied(model)
    taken = {node.name: node.input[0] for node in model.graph.node if node.name in nodes}
    del probed.graph.output[:]
    for name in taken:
        probed.graph.node.append(helper.make_node("Abs", [taken[name]], [f"{name}.size"]))
        probed.graph.node.append(helper.make_node("ReduceMax", [f"{name}.size"], [f"{name}.most"], keepdims=0))
        probed.graph.output.append(helper.make_tensor_value_info(f"{name}.most", TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    most = np.array([session.run(None, dict(feeds)) for feeds in calibration])
    return dict(zip(taken, most.max(axis=0).tolist(), strict=True))


def to_float8(model: onnx.ModelProto, largest: Mapping[str, float]) -> onnx.ModelProto:
    """A copy in which the convolutions that `largest` names, by what they take at most, take E4M3.

    Their weights are initializers, output channels first.
    """
    quantised = copied(model)
    graph = quantised.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in largest:
            scale = np.float32(largest[node.name] or LARGEST) / LARGEST
            nodes += _through_float8(graph, node, scale)
            nodes.append(_dequantised_weight(graph, node, weights[node.input[1]]))
        nodes.append(node)
    replace_nodes(quantised, nodes)
    return quantised


def _through_float8(graph: onnx.GraphProto, node: onnx.NodeProto, scale: np.float32) -> list[onnx.NodeProto]:
    """What the node takes goes through E4M3: two nodes before it."""
    source, name = node.input[0], f"{node.name}.input"
    graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{name}.scale"))
    graph.initializer.append(_zero(f"{name}.zero", ()))
    constants = [f"{name}.scale", f"{name}.zero"]
    node.input[0] = name
    return [
        helper.make_node("QuantizeLinear", [source, *constants], [f"{name}.fp8"], name=f"{name}.quantise"),
        helper.make_node("DequantizeLinear", [f"{name}.fp8", *constants], [name], name=f"{name}.dequantise"),
    ]


def _dequantised_weight(graph: onnx.GraphProto, node: onnx.NodeProto, weight: NDArray[np.float32]) -> onnx.NodeProto:
    """The node's weight is kept in E4M3: the node that makes float32 of it."""
    name = f"{node.name}.weight"
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(largest > 0.0, largest, LARGEST).astype(np.float32) / LARGEST
    rounded = (weight / scale[:, None, None, None]).astype(helper.tensor_dtype_to_np_dtype(FLOAT8))
    graph.initializer.append(numpy_helper.from_array(rounded, f"{name}.fp8"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(_zero(f"{name}.zero", scale.shape))
    node.input[1] = name
    inputs = [f"{name}.fp8", f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.dequantise", axis=0)


def _zero(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, helper.tensor_dtype_to_np_dtype(FLOAT8)), name)


class _Reader:
    """A calibration set as onnxruntime's quantiser reads it."""

    def __init__(self, rows: Iterable[Feeds]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        row = next(self._rows, None)
        return None if row is None else dict(row)


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
