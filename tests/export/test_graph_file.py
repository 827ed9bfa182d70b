from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from impasto.export.graph_file import MIN_ELEMENTS, halve_initializers, save_graph
from impasto.export.lint import violations

RNG = np.random.default_rng(0)
EXACT = RNG.standard_normal((32, 32)).astype(np.float16).astype(np.float32)
INEXACT = RNG.standard_normal((32, 32)).astype(np.float32)
LARGE = np.full((32, 32), 1e6, np.float32)
SMALL = np.ones(MIN_ELEMENTS - 1, np.float32)


def chain(**weights: np.ndarray) -> onnx.ModelProto:
    """y = x times each square weight in turn."""
    nodes, value = [], "x"
    for name in weights:
        nodes.append(helper.make_node("MatMul", [value, name], [f"after_{name}"], name=f"times_{name}"))
        value = f"after_{name}"
    nodes.append(helper.make_node("Identity", [value], ["y"], name="end"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 32]) for name in "xy")
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    made = helper.make_graph(nodes, "graph", [x], [y], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": np.ones((3, 32), np.float32)})[0]
    return found


def test_what_half_precision_holds_exactly_takes_half_the_bytes_and_changes_no_value(tmp_path: Path) -> None:
    model = chain(exact=EXACT, inexact=INEXACT)
    save_graph(model, tmp_path / "full.onnx")
    halve_initializers(model.graph)
    save_graph(model, tmp_path / "half.onnx")
    assert {tensor.name: tensor.data_type for tensor in model.graph.initializer} == {
        "exact.half": TensorProto.FLOAT16,
        "inexact": TensorProto.FLOAT,
    }
    onnx.checker.check_model(tmp_path / "half.onnx", full_check=True)
    assert violations(model) == []
    saved = (tmp_path / "full.onnx").stat().st_size - (tmp_path / "half.onnx").stat().st_size
    assert EXACT.size * 2 - 200 < saved < EXACT.size * 2
    assert run(tmp_path / "half.onnx").tobytes() == run(tmp_path / "full.onnx").tobytes()


@pytest.mark.parametrize("values", [INEXACT, LARGE, SMALL, np.ones((32, 32), np.int64)])
def test_other_tensors_are_left_alone(values: np.ndarray) -> None:
    graph = helper.make_graph([], "graph", [], [], [numpy_helper.from_array(values, "weight")])
    halve_initializers(graph)
    assert np.array_equal(numpy_helper.to_array(graph.initializer[0]), values)
    assert (graph.initializer[0].name, len(graph.node)) == ("weight", 0)


def test_convolutions_may_take_weights_kept_in_half_precision() -> None:
    weight = numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "weight")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8, side, side]) for name, side in _SIDES)
    made = helper.make_graph([helper.make_node("Conv", ["x", "weight"], ["y"])], "graph", [x], [y], [weight])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    halve_initializers(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Conv"]
    assert violations(model) == []


_SIDES = (("x", 8), ("y", 6))


def test_weights_of_a_large_graph_lie_beside_it(tmp_path: Path) -> None:
    model = chain(exact=EXACT, inexact=INEXACT)
    save_graph(model, tmp_path / "whole.onnx")
    save_graph(model, tmp_path / "split.onnx", external_above=EXACT.nbytes + INEXACT.nbytes - 1)
    assert {file.name for file in tmp_path.iterdir()} == {"whole.onnx", "split.onnx", "split.onnx.data"}
    assert (tmp_path / "split.onnx").stat().st_size < 2000
    onnx.checker.check_model(tmp_path / "split.onnx", full_check=True)
    assert run(tmp_path / "split.onnx").tobytes() == run(tmp_path / "whole.onnx").tobytes()
