"""How a graph lies on disk: in one file, or with its weights beside it, and which weights in half the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EXTERNAL_ABOVE = 512 * 2**20
"""Bytes of weights above which they go to a file of their own, NAME.onnx.data: protobuf ends at 2 GiB."""
MIN_ELEMENTS = 256
"""Smaller tensors are left alone: a node to convert one takes about as much."""


def halve_initializers(graph: onnx.GraphProto) -> None:
    """Keep as float16, with a Cast to float32, each float32 initializer that float16 holds without loss.

    Every value of the graph stays the same; runtimes fold the Casts when they load it.
    """
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else None
        if values is None or values.size < MIN_ELEMENTS:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.float", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def save_graph(model: onnx.ModelProto, path: Path, external_above: int = EXTERNAL_ABOVE) -> None:
    """Write the graph; its weights to `path`.data if they are more than `external_above` bytes."""
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weights <= external_above:
        path.write_bytes(model.SerializeToString())
        return
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=MIN_ELEMENTS)
