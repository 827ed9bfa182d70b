"""Convolutions in E4M3: what is rounded, by what scale, and to what."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from impasto.export.quantise import largest_inputs, to_float8

GRAPH = """<ir_version: 10, opset_import: ["": 20]>
layers (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4, 8, 8] r) {
    h = Conv <pads = [1, 1, 1, 1]> (x, w, bias)
    r = Relu (h)
    y = Conv <pads = [1, 1, 1, 1]> (r, v)
}"""
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": (RNG.normal(size=(4, 3, 3, 3)) * [[[[1e-4]]], [[[1.0]]], [[[300.0]]], [[[0.0]]]]).astype(np.float32),
    "v": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32),
    "bias": RNG.normal(size=4).astype(np.float32),
}
ROWS = [{"x": (RNG.normal(size=(1, 3, 8, 8)) * size).astype(np.float32)} for size in (1.0, 5.0, 0.1)]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    for node in model.graph.node:
        node.name = f"layer_{node.output[0]}"
    for name, values in CONSTANTS.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def ran(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"x": x})
    return outputs


def through(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """values / scale as E4M3 holds them, those beyond its largest at that, times scale."""
    scaled = np.clip(values.astype(np.float32) / scale.astype(np.float32), -448.0, 448.0)
    return scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale


def convolved(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    found = torch.nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1)
    return found.numpy()


def test_the_largest_inputs_are_those_of_all_rows(model: onnx.ModelProto) -> None:
    found = largest_inputs(model, ["layer_h", "layer_y"], ROWS)
    assert found == {
        "layer_h": max(float(np.abs(row["x"]).max()) for row in ROWS),
        "layer_y": max(float(ran(model, row["x"])[1].max()) for row in ROWS),
    }


def test_inputs_have_one_scale_and_weights_one_an_output_channel(model: onnx.ModelProto) -> None:
    eight = to_float8(model, {"layer_y": 7.0})
    onnx.checker.check_model(eight, full_check=True)
    constants = {tensor.name: tensor for tensor in eight.graph.initializer}
    nodes = {node.name: node for node in eight.graph.node}
    assert [node.op_type for node in eight.graph.node] == [
        "Conv", "Relu", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv",
    ]  # fmt: skip
    quantise = nodes["layer_y.input.quantise"]
    assert quantise.input[0] == "r"
    assert numpy_helper.to_array(constants[quantise.input[1]]) == np.float32(7.0) / np.float32(448.0)
    assert constants[quantise.input[2]].data_type == TensorProto.FLOAT8E4M3FN
    weight, scale, _ = (constants[name] for name in nodes["layer_y.weight.dequantise"].input)
    assert (weight.data_type, list(weight.dims)) == (TensorProto.FLOAT8E4M3FN, [4, 4, 3, 3])
    largest = np.abs(CONSTANTS["v"]).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(numpy_helper.to_array(scale), largest / np.float32(448.0))
    assert "v" not in constants


def test_a_graph_of_fp8_gives_sums_of_what_e4m3_holds(model: onnx.ModelProto) -> None:
    largest = largest_inputs(model, ["layer_h", "layer_y"], ROWS[:1])
    x = ROWS[1]["x"]  # of which some numbers are beyond what was seen
    y, r = ran(to_float8(model, largest), x)
    scales = {name: np.abs(CONSTANTS[name]).max(axis=(1, 2, 3), keepdims=True) / 448.0 for name in "wv"}
    scales["w"][3] = 1.0  # a channel of zeros
    h = convolved(through(x, np.float32(largest["layer_h"]) / np.float32(448.0)), through(CONSTANTS["w"], scales["w"]))
    expected = np.maximum(h + CONSTANTS["bias"][:, None, None], 0.0)
    np.testing.assert_allclose(r, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    expected = convolved(
        through(r, np.float32(largest["layer_y"]) / np.float32(448.0)), through(CONSTANTS["v"], scales["v"])
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    exact = ran(model, x)[0]
    assert np.abs(y - exact).max() > 1e-3 * np.abs(exact).max()


def test_a_convolution_that_takes_nothing_but_zeros_gives_zeros(model: onnx.ModelProto) -> None:
    zeros = np.zeros((1, 3, 8, 8), np.float32)
    y, r = ran(to_float8(model, {"layer_h": 0.0}), zeros)
    np.testing.assert_array_equal(r[0, :, 0, 0], np.maximum(CONSTANTS["bias"], 0.0))
    assert np.isfinite(y).all()
