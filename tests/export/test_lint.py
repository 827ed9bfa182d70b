from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from impasto.export.lint import violations

WEIGHT = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")


def graph(
    *nodes: onnx.NodeProto,
    batch: str | int = "batch",
    side: str | int = 8,
    kind: int = TensorProto.FLOAT,
    initializers: tuple[onnx.TensorProto, ...] = (WEIGHT,),
    ir_version: int = 10,
    opset: int = 20,
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", kind, [batch, 3, side, side])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 6, 6])
    made = helper.make_graph(list(nodes), "graph", [x], [y], list(initializers))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


CONV = helper.make_node("Conv", ["x", "weight"], ["y"], name="conv")


def shaped(graph: onnx.ModelProto, *shape: str | int) -> onnx.ModelProto:
    """The graph with that shape of its input and output."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
    return graph


def test_a_clean_graph_has_no_violation() -> None:
    assert violations(graph(CONV)) == []


@pytest.mark.parametrize("sides", [("height", "width"), (8, "2*width"), ("2*((height - 1)//2) + 2", 8)])
def test_height_and_width_may_be_free_under_their_names(sides: tuple[str | int, ...]) -> None:
    assert violations(shaped(graph(CONV), "batch", 3, *sides)) == []


@pytest.mark.parametrize(
    "shape", [("batch", "height", 8, 8), ("batch", 3, "width", "height"), ("batch", 3, "", 8), ("batch", 3, "s1", 8)]
)
def test_no_other_dimension_may_be_free(shape: tuple[str | int, ...]) -> None:
    rule = "every dimension but the batch is fixed, or called height or width"
    found = violations(shaped(graph(CONV), *shape))
    assert [(violation.rule, violation.where) for violation in found] == [(rule, "input x"), (rule, "output y")]


@pytest.mark.parametrize(
    ("model", "rule", "where"),
    [
        (graph(CONV, batch=1), "the first dimension is the batch, and free", "input x"),
        (graph(CONV, side="side"), "every dimension but the batch is fixed, or called height or width", "input x"),
        (graph(CONV, kind=TensorProto.FLOAT16), "inputs are float32, or int64 for indices", "input x"),
        (graph(CONV, ir_version=11), "IR version at most 10, found 11", "model"),
        (graph(CONV, opset=21), "opset at most 20, found 21", "model"),
        (
            graph(helper.make_node("RandomNormalLike", ["x"], ["y"], name="noise")),
            "no random operator; noise is an input",
            "node noise (RandomNormalLike)",
        ),
        (
            graph(helper.make_node("ModConv", ["x"], ["y"], name="mine", domain="impasto")),
            "standard operators only, found domain 'impasto'",
            "node mine (ModConv)",
        ),
        (
            graph(
                helper.make_node("Mul", ["weight", "weight"], ["dynamic"]),
                helper.make_node("Conv", ["x", "dynamic"], ["y"], name="conv"),
            ),
            "convolution weights are constant",
            "node conv (Conv)",
        ),
        (
            graph(CONV, initializers=(WEIGHT, numpy_helper.from_array(np.ones(2), "wide"))),
            "no float64 and no complex numbers",
            "initializer wide",
        ),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_broken_rule_names_what_breaks_it(model: onnx.ModelProto, rule: str, where: str) -> None:
    found = violations(model)
    assert [(violation.rule, violation.where) for violation in found] == [(rule, where)]


def test_weights_outside_the_graph_are_found() -> None:
    outside = onnx.TensorProto()
    outside.CopyFrom(WEIGHT)
    outside.data_location = TensorProto.EXTERNAL
    assert [violation.rule for violation in violations(graph(CONV, initializers=(outside,)))] == [
        "weights are inside the graph"
    ]


def test_control_flow_and_local_functions_are_found() -> None:
    body = helper.make_graph([], "body", [], [])
    branch = helper.make_node("If", ["x"], ["y"], name="branch", then_branch=body, else_branch=body)
    model = graph(branch)
    model.functions.append(helper.make_function("mine", "F", [], [], [], [helper.make_opsetid("", 20)]))
    assert {str(violation) for violation in violations(model)} == {
        "node branch (If): no control flow",
        "function F: no local functions",
    }
