"""ONNX nodes for our kernels, which TensorRT's parser makes plugins of."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from impasto.kernels.sampler_row import COLUMNS, HISTORY, PLACE_COLUMNS

NAMESPACE = "impasto"
STATE = ("latent", "history", "saved")


def plugin_node(name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: int | float) -> onnx.NodeProto:
    """A node of the plugin that `impasto.export.plugins` registers by this name, its kernel compiled ahead of time."""
    node = helper.make_node(name, list(inputs), list(outputs), name=outputs[0], domain=NAMESPACE)
    fixed = {"plugin_namespace": NAMESPACE, "plugin_version": "1", "aot": 1}
    node.attribute.extend(helper.make_attribute(field, value) for field, value in (fixed | attributes).items())
    return node


def with_sampler_step(model: onnx.ModelProto) -> onnx.ModelProto:
    """A denoiser's graph with the sampler's step behind it, for a step that never leaves the GPU.

    To the model's inputs come `latent` [N, C, h, w], `history` [N, 3, C, h, w], `saved` [N, C, h, w], `rows` and
    `places` of `impasto.kernels.sampler_row`, where a place's slot is its own row, or -1. The model's one output gives
    way to `next_latent`, `next_history`, `next_saved` and `model_input`, the denoiser's next input, of which rows that
    no place names hold anything. No row may rescale.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    (output,) = graph.output
    tensor = output.type.tensor_type
    sides = [dim.dim_value or dim.dim_param for dim in tensor.shape.dim][1:]
    shapes = {"latent": sides, "history": [HISTORY, *sides], "saved": sides}
    state = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", *shapes[n]]) for n in STATE]
    graph.input.extend(state)
    graph.input.append(helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["rows", len(COLUMNS)]))
    graph.input.append(helper.make_tensor_value_info("places", TensorProto.INT64, ["rows", len(PLACE_COLUMNS)]))
    outputs = [*(f"next_{name}" for name in STATE), "model_input"]
    graph.node.append(plugin_node("sampler_step", [*STATE, "rows", "places", output.name], outputs))
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(f"next_{name}", TensorProto.FLOAT, ["rows", *shapes[name]]) for name in STATE
    )
    graph.output.append(helper.make_tensor_value_info("model_input", tensor.elem_type, ["batch", *sides]))
    result.opset_import.append(helper.make_opsetid(NAMESPACE, 1))
    return result
