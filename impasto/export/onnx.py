"""From a torch module to an ONNX graph whose every input and output has a free batch as its first dimension.

Height and width, the last two of [N, C, H, W], are free too where that is asked for.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from impasto.errors import ExportError
from impasto.export.graph_file import halve_initializers, save_graph
from impasto.export.lint import MAX_IR_VERSION, MAX_OPSET, SIDES, violations


def export_graph(
    module: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    path: Path,
    *,
    free_sides: Collection[str] = (),
    half_weights: bool = False,
) -> onnx.ModelProto:
    """Export `module` to `path` and return the graph. ExportError names each rule of the linter that it breaks.

    `example` gives shapes (batch of two or more, so that no dimension looks constant); `inputs` and `outputs` name
    the graph's tensors. The inputs in `free_sides` may have any height and width, and the graph calls them so. With
    `half_weights` the file keeps what float16 can hold exactly as float16; the graph computes in float32 all the same.
    """
    free = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys((0, *(SIDES if name in free_sides else ())), free) for name in inputs)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(example),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=MAX_OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.ir_version = MAX_IR_VERSION
    _forget_the_source(model)
    if free_sides:
        _name_axes(model.graph)
    if half_weights:
        halve_initializers(model.graph)
    if broken := violations(model):
        raise ExportError(f"{path.name}: " + "; ".join(str(violation) for violation in broken))
    save_graph(model, path)
    onnx.checker.check_model(path, full_check=True)
    return model


def _name_axes(graph: onnx.GraphProto) -> None:
    """Call what is free of the inputs batch, height and width, also where another dimension is computed from it."""
    names = {
        dim.dim_param: SIDES.get(place, "batch")
        for value in graph.input
        for place, dim in enumerate(value.type.tensor_type.shape.dim)
        if dim.dim_param
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


def _forget_the_source(model: onnx.ModelProto) -> None:
    """Drop stack traces and scopes: they hold paths of the exporting machine and weigh as much as a small model."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    items: list[Any] = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on missing optional packages and deprecations off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
