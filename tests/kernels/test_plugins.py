"""Our kernels as TensorRT's plugins: what TensorRT would launch, that the kernels take it, and the graphs with them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from impasto.export import plugin_graph
from impasto.export.plugin_lrelu import with_filtered_lrelu
from impasto.export.plugin_node import with_sampler_step
from impasto.kernels import filtered_lrelu, modulated_conv, plugin_kernels, sampler_step
from impasto.kernels.aot import ARCHITECTURES
from impasto.kernels.epilogue import Epilogue
from impasto.kernels.epilogue import reference as epilogue_reference
from impasto.kernels.ptx import Launch, ptx_architecture
from impasto.kernels.sampler_row import COLUMNS, Place, Row, place_table, table
from impasto.kernels.sampler_step import Slots
from tests.kernels.offline import SHARED_LIMIT
from tests.support.bundles import write_tiny_stylegan3
from tests.support.generators import TINY, TINY3, random_generator
from tests.support.tensorrt_standins import RealPackage, real_package

TYPES = {"fp16": ("HALF", torch.float16), "fp32": ("FLOAT", torch.float32)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A plugin in one configuration, and what TensorRT is to allocate and launch. "x" stands for the features' type."""

    plugin: str
    inputs: list[tuple[list[int], str]]
    attributes: dict[str, int | float]
    outputs: list[tuple[list[int], str]]
    grid: tuple[int, int, int]
    extras: list[int]
    threads: int

    def typed(self, kind: str) -> Case:
        """For features in "fp16" or "fp32"."""

        def named(tensors: list[tuple[list[int], str]]) -> list[tuple[list[int], str]]:
            return [(shape, kind if of == "x" else of) for shape, of in tensors]

        return dataclasses.replace(self, inputs=named(self.inputs), outputs=named(self.outputs))


CASES = {
    "modulated_conv": Case(
        "impasto::modulated_conv",
        [
            ([2, 5, 7, 20], "x"),
            ([9, 40, 32], "x"),
            ([2, 20], "FLOAT"),
            ([2, 40], "FLOAT"),
            ([2, 35], "FLOAT"),
            ([1], "FLOAT"),
            ([40], "FLOAT"),
        ],
        {"up": 1, "clamp": 2.0},
        [([2, 5, 7, 40], "x")],
        (1, 1, 2),
        [35, 5, 7, 20, 32, 40],
        128,
    ),
    "modulated_conv up": Case(
        "impasto::modulated_conv",
        [
            ([2, 8, 12, 16], "x"),
            ([9, 4 * 48, 16], "x"),
            ([2, 16], "FLOAT"),
            ([2, 48], "FLOAT"),
            ([2, 4 * 96], "FLOAT"),
            ([1], "FLOAT"),
            ([48], "FLOAT"),
        ],
        {"up": 2, "clamp": 0.0},
        [([2, 16, 24, 48], "x")],
        (2 * 4, 1, 2),
        [4 * 96, 8, 12, 16, 16, 48],
        128,
    ),
    "filtered_lrelu": Case(
        "impasto::filtered_lrelu",
        [([2, 5, 20, 18], "x"), ([5], "x"), ([12], "FLOAT"), ([12], "FLOAT")],
        {
            "up": 2,
            "down": 2,
            "left": 9,
            "right": 8,
            "top": 9,
            "bottom": 9,
            "slope": 0.2,
            "gain": 2.0**0.5,
            "clamp": 0.5,
        },
        [([2, 5, 18, 16], "x")],
        (2 * 5 * 4, 1, 1),
        [5, 20, 18, 18, 16, 9, 9, 4, 2],
        128,
    ),
    "sampler_step": Case(
        "impasto::sampler_step",
        [
            ([3, 4, 20, 16], "FLOAT"),
            ([3, 3, 4, 20, 16], "FLOAT"),
            ([3, 4, 20, 16], "FLOAT"),
            ([3, len(COLUMNS)], "FLOAT"),
            ([3, 5], "INT64"),
            ([5, 4, 20, 16], "x"),
        ],
        {},
        [
            ([3, 4, 20, 16], "FLOAT"),
            ([3, 3, 4, 20, 16], "FLOAT"),
            ([3, 4, 20, 16], "FLOAT"),
            ([5, 4, 20, 16], "x"),
        ],
        (2, 3, 1),
        [1280],
        256,
    ),
}


@pytest.fixture(scope="module")
def package(pytestconfig: pytest.Config) -> RealPackage:
    return real_package(pytestconfig)


DRY_RUN = """
import dataclasses, json, sys
from tests.support.plugin_dry_run import dry_run
from impasto.export import plugins
for architecture in json.loads(sys.argv[2]):
    plugins.compile_for(architecture)
    runs = [dry_run(plugin, inputs, **attributes) for plugin, inputs, attributes in json.loads(sys.argv[1])]
    print(json.dumps([dataclasses.asdict(run) for run in runs]))
"""


def check_dry_runs(package: RealPackage, names: Sequence[str], architectures: Sequence[int]) -> None:
    cases = [CASES[name].typed(TYPES[kind][0]) for name in names for kind in TYPES]
    asked = json.dumps([(case.plugin, case.inputs, case.attributes) for case in cases])
    printed = package.run(DRY_RUN, asked, json.dumps(architectures))
    for architecture, line in zip(architectures, printed, strict=True):
        for case, run in zip(cases, json.loads(line), strict=True):
            check_dry_run(case, run, architecture)


def check_dry_run(case: Case, run: dict[str, Any], architecture: int) -> None:
    assert [(shape, kind) for shape, kind in run["outputs"]] == case.outputs
    assert (tuple(run["grid"]), run["extras"]) == (case.grid, case.extras)
    pointers, integers = ["u64"] * len(case.inputs), ["u32"] * len(case.extras)
    # Triton's own two pointers come last; TensorRT gives null for them, which is right where there is no scratch.
    assert run["parameters"] == pointers + integers + ["u64"] * len(case.outputs) + ["u64"] * 2
    assert run["threads"] == run["required_threads"] == case.threads
    assert run["shared"] <= min(48 * 1024, SHARED_LIMIT[architecture])
    assert run["target"].rstrip("a") == f"sm_{ptx_architecture(architecture)}"
    assert tuple(map(int, run["version"].split("."))) <= (8, 8)
    assert not run["tensor_memory"]


def test_what_tensorrt_would_launch_is_what_each_kernel_takes(package: RealPackage) -> None:
    check_dry_runs(package, list(CASES), [90])


@pytest.mark.slow
def test_what_tensorrt_would_launch_is_right_on_every_architecture(package: RealPackage) -> None:
    others = [number for number in ARCHITECTURES if number != 90]
    check_dry_runs(package, ["modulated_conv up", "filtered_lrelu", "sampler_step"], others)


def test_blackwells_plugins_are_those_of_sm_80_whose_matrix_instructions_need_no_tensor_memory() -> None:
    assert [ptx_architecture(number) for number in ARCHITECTURES] == [80, 86, 89, 90, 80, 120]


def launch(plan: Launch, case: Case, tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Run a plugin's kernel in the interpreter with the grid and the integers that TensorRT is to give."""
    run: Any = plan.kernel[case.grid]
    run(*tensors, *case.extras, *outputs, **plan.constants)


def random_inputs(case: Case, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype if of == "x" else torch.float32) for shape, of in case.inputs]


def poisoned(case: Case, dtype: torch.dtype) -> list[Tensor]:
    return [torch.full(shape, torch.nan, dtype=dtype if of == "x" else torch.float32) for shape, of in case.outputs]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["modulated_conv", "modulated_conv up"])
def test_a_modulated_convolution_launched_so_is_the_reference(name: str, kind: str) -> None:
    case, dtype = CASES[name], TYPES[kind][1]
    x, _, styles, demodulation, noise, strength, bias = random_inputs(case, dtype)
    up, clamp = int(case.attributes["up"]), float(case.attributes["clamp"])
    (batch, height, width, inputs), outputs = case.inputs[0][0], len(bias)
    weight = torch.randn(outputs, inputs, 3, 3) / 8
    packed = modulated_conv.pack_weight(weight, dtype, up="folded" if up == 2 else None).taps
    assert list(packed.shape) == case.inputs[1][0]
    (found,) = results = poisoned(case, dtype)
    plan = plugin_kernels.conv_launch(height * width, inputs, outputs, up, clamp, kind)
    launch(plan, case, [x, packed, styles, demodulation, noise, strength, bias], results)
    scaled = (x * styles.to(dtype)[:, None, None]).permute(0, 3, 1, 2).double()
    sums = modulated_conv.convolve(scaled, weight.to(dtype).double(), "folded" if up == 2 else None)
    maps = noise.reshape(batch, height * up, width * up)
    epilogue = Epilogue(demodulation, maps, strength, bias, clamp=clamp or None)
    expected = epilogue_reference(sums, epilogue).permute(0, 2, 3, 1)
    atol = 2e-5 if kind == "fp32" else 2e-2
    torch.testing.assert_close(found.double(), expected, atol=atol, rtol=atol)


@pytest.mark.parametrize("kind", TYPES)
def test_a_filtered_lrelu_launched_so_is_the_reference(kind: str) -> None:
    case, dtype = CASES["filtered_lrelu"], TYPES[kind][1]
    x, bias, up_taps, down_taps = random_inputs(case, dtype)
    up_taps, down_taps = up_taps / 4, down_taps / 4
    (found,) = results = poisoned(case, dtype)
    how = {name: case.attributes[name] for name in ("slope", "gain", "clamp")}
    launch(plugin_kernels.lrelu_launch(2, 2, 12, 12, **how, dtype=kind), case, [x, bias, up_taps, down_taps], results)
    tensors = [tensor.double() for tensor in (x, bias, up_taps, down_taps)]
    expected = filtered_lrelu.reference(*tensors, up=2, down=2, padding=(9, 8, 9, 9), **how)
    atol = 2e-5 if kind == "fp32" else 2e-3
    torch.testing.assert_close(found.double(), expected, atol=atol, rtol=atol)


ROWS = table(
    [
        Row(guidance=5.0, state=0.5, output=0.25, current=0.5, past1=0.125, saved=0.25, noise=0.5, save_current=1.0),
        Row(state=1.0, current=-0.5, past2=0.5, past3=0.25, head=2.0, clamp=0.5, input=0.75),
        Row(state=2.0),
    ]
)
PLACES = place_table([Place(0, 1, 3, seed=2**63 + 5, step=4), Place(1, 0, seed=7), Place(-1)])


@pytest.mark.parametrize("kind", TYPES)
def test_a_sampler_step_launched_so_is_the_reference_and_leaves_its_inputs_alone(kind: str) -> None:
    case, dtype = CASES["sampler_step"], TYPES[kind][1]
    latent, history, saved, _, _, output = random_inputs(case, dtype)
    tensors = [latent, history, saved, torch.from_numpy(ROWS), torch.from_numpy(PLACES), output]
    before = [tensor.clone() for tensor in tensors]
    results = poisoned(case, dtype)
    launch(plugin_kernels.step_launch(1280, kind), case, tensors, results)
    assert all(torch.equal(after, was) for after, was in zip(tensors, before, strict=True))
    slots, model_input = Slots(latent, history, saved), torch.full_like(results[3], torch.nan)
    sampler_step.reference(slots, tensors[3], tensors[4], output, model_input)
    for found, expected in zip(results, (latent, history, saved, model_input), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3 if kind == "fp16" else 1e-5, equal_nan=True)
    assert results[3].isnan().flatten(1).all(dim=1).tolist() == [False, False, True, False, True]


class _Op(OpRun):
    """A plugin in onnx's reference evaluator."""

    op_domain = "impasto"


class modulated_conv_op(_Op):
    def _run(self, x: Any, weight: Any, *others: Any, up: int = 0, clamp: float = 0.0, **_: Any) -> tuple[Any]:
        batch, height, width, inputs = x.shape
        outputs = len(others[-1])
        kind = {"float16": "fp16", "float32": "fp32"}[x.dtype.name]
        plan = plugin_kernels.conv_launch(height * width, inputs, outputs, up, float(clamp), kind)
        tiles = -(-height * width // plan.constants["BLOCK_PIXELS"]) * up * up
        extras = [height * width * up * up, height, width, inputs, weight.shape[2], outputs]
        y = torch.full((batch, height * up, width * up, outputs), torch.nan, dtype=torch.from_numpy(x).dtype)
        tensors = [torch.from_numpy(np.array(values)) for values in (x, weight, *others)]
        case = dataclasses.replace(CASES["modulated_conv"], grid=(tiles, 1, batch), extras=extras)
        launch(plan, case, tensors, [y])
        return (y.numpy(),)


class filtered_lrelu_op(_Op):
    def _run(self, x: Any, bias: Any, up_taps: Any, down_taps: Any, **given: Any) -> tuple[Any]:
        padding = [given.pop(side) for side in ("left", "right", "top", "bottom")]
        how: Any = {name: given[name] for name in ("up", "down", "slope", "gain")}
        tensors = [torch.from_numpy(np.array(values)) for values in (x, bias, up_taps, down_taps)]
        y = filtered_lrelu.reference(*tensors, **how, padding=padding, clamp=given["clamp"] or None)
        return (y.numpy(),)


class sampler_step_op(_Op):
    def _run(self, *values: Any, **_: Any) -> tuple[Any, ...]:
        latent, history, saved, rows, places, output = (torch.from_numpy(np.array(each)) for each in values)
        model_input = torch.full_like(output, torch.nan)
        sampler_step.reference(Slots(latent, history, saved), rows, places, output, model_input)
        return latent.numpy(), history.numpy(), saved.numpy(), model_input.numpy()


def evaluate(model: onnx.ModelProto, **feeds: Any) -> list[Any]:
    """A graph with plugins, by onnx's reference evaluator."""
    onnx.checker.check_model(model)
    for operator in (modulated_conv_op, filtered_lrelu_op, sampler_step_op):
        operator.__name__ = operator.__name__.removesuffix("_op")
    return ReferenceEvaluator(model, new_ops=[modulated_conv_op, filtered_lrelu_op, sampler_step_op]).run(None, feeds)


def check_nodes(model: onnx.ModelProto, name: str, count: int) -> None:
    """So many nodes of a plugin, each with as many inputs and the very attributes that the plugin has."""
    nodes = [node for node in model.graph.node if node.op_type == name]
    assert len(nodes) == count
    for node in nodes:
        case = CASES[name]
        found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        fixed = {"plugin_namespace": b"impasto", "plugin_version": b"1", "aot": 1}
        assert {field: found.pop(field) for field in fixed} == fixed
        assert {field: type(value) for field, value in found.items()} == {
            field: type(value) for field, value in case.attributes.items()
        }
        assert (len(node.input), len(node.output)) == (len(case.inputs), len(case.outputs))


@pytest.mark.parametrize(("precision", "least"), [("fp32", 100.0), ("fp16", 45.0)])
def test_stylegan2s_graph_with_plugins_makes_the_generators_pictures(precision: str, least: float) -> None:
    config = dataclasses.replace(TINY, resolution=16, channel_base=128, channel_max=8, conv_clamp=256.0)
    generator = random_generator(config)
    model = plugin_graph.stylegan2_synthesis(generator, precision)
    check_nodes(model, "modulated_conv", 5)
    ws, noise = torch.randn(2, config.num_ws, config.w_dim), torch.randn(2, config.noise_size)
    (found,) = evaluate(model, ws=ws.numpy(), noise=noise.numpy())
    expected = generator.synthesis(ws, noise).numpy()
    assert found.dtype == np.float32
    error = float(np.square(found - expected, dtype=np.float64).mean())
    assert 10 * np.log10(4.0 / error) >= least


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_in_fp16_styles_of_any_size_make_the_same_picture(scale: float) -> None:
    generator = random_generator(TINY)
    for resolution, block in generator.synthesis.blocks:
        for layer in [block.conv1] if resolution == 4 else [block.conv0, block.conv1]:
            layer.affine.weight.mul_(scale)
            layer.affine.bias.mul_(scale)
    ws, noise = torch.randn(1, TINY.num_ws, TINY.w_dim), torch.zeros(1, TINY.noise_size)
    (found,) = evaluate(plugin_graph.stylegan2_synthesis(generator, "fp16"), ws=ws.numpy(), noise=noise.numpy())
    expected = generator.synthesis(ws, noise).numpy()
    assert 10 * np.log10(4.0 / np.square(found - expected).mean()) >= 45.0


def lrelu_graph(clip: bool, separable: bool = True) -> onnx.ModelProto:
    """x [batch, 3, 9, 8] up by two, leaky ReLU, down by two, as StyleGAN3's plain graph writes it."""
    random = np.random.RandomState(0)
    up, down = random.randn(6).astype(np.float32), random.randn(1, 6).astype(np.float32)
    rows_down = random.randn(6, 1) if separable else random.randn(6, 6)
    weights = {
        "up_columns": 2.0 * up[None],
        "up_rows": 2.0 * 2.0**0.5 * up[:, None],
        "down_columns": down,
        "down_rows": down.T if separable else rows_down,
    }
    constants = [
        numpy_helper.from_array(np.broadcast_to(taps, (3, 1, *taps.shape)).astype(np.float32), name)
        for name, taps in weights.items()
    ]
    constants += [
        helper.make_tensor(name, TensorProto.FLOAT, [], [end]) for name, end in (("low", -0.7), ("high", 0.7))
    ]
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up_columns"], ["a"], group=3, strides=[1, 2], pads=[0, 2, 0, 2]),
        helper.make_node("ConvTranspose", ["a", "up_rows"], ["b"], group=3, strides=[2, 1], pads=[2, 0, 2, 0]),
        helper.make_node("LeakyRelu", ["b"], ["c"], alpha=0.2),
        *([helper.make_node("Clip", ["c", "low", "high"], ["d"])] if clip else []),
        helper.make_node("Conv", ["d" if clip else "c", "down_columns"], ["e"], group=3, strides=[1, 2]),
        helper.make_node("Conv", ["e", "down_rows"], ["y"], group=3, strides=[2, 1]),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 9, 8])]
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, None, None])]
    graph = helper.make_graph(nodes, "g", values, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("clip", [True, False])
def test_stylegan3s_resampled_lrelu_becomes_one_node_of_the_same_values(clip: bool) -> None:
    plain = lrelu_graph(clip)
    model = with_filtered_lrelu(plain)
    check_nodes(model, "filtered_lrelu", 1)
    assert len(model.graph.node) == 1
    x = np.random.RandomState(1).randn(2, 3, 9, 8).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(plain.SerializeToString()).run(None, {"x": x})
    (found,) = evaluate(model, x=x)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert len(plain.graph.node) == 5 + clip, "the plain graph is left as it was"


def test_a_filter_that_is_not_separable_stays_as_it_is() -> None:
    plain = lrelu_graph(clip=False, separable=False)
    model = with_filtered_lrelu(plain)
    assert [node.op_type for node in model.graph.node] == [node.op_type for node in plain.graph.node]


@pytest.mark.slow
def test_the_graph_of_a_whole_stylegan3_makes_the_same_pictures_with_plugins(tmp_path: Path) -> None:
    path = write_tiny_stylegan3(tmp_path, c_dim=0, conv_kernel=3, radial_filters=False) / "synthesis.onnx"
    plain = onnx.load(path)
    model = with_filtered_lrelu(plain)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("filtered_lrelu") == TINY3.num_layers
    assert "LeakyRelu" not in kinds
    assert "ConvTranspose" not in kinds
    feeds = {"ws": np.random.RandomState(0).randn(2, TINY3.num_ws, TINY3.w_dim).astype(np.float32)}
    feeds["transform"] = np.stack([np.eye(3, dtype=np.float32)] * 2)
    (expected,) = onnxruntime.InferenceSession(path).run(None, feeds)
    (found,) = evaluate(model, **feeds)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_denoiser_with_the_sampler_behind_it_makes_the_whole_step() -> None:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 2, 3]) for name in ("sample", "noise")
    ]
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["sample", "half"], ["noise"])], "g", values[:1], values[1:], [half]
    )
    model = with_sampler_step(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    random = np.random.RandomState(0)
    shapes = {"sample": (5, 4, 2, 3), "latent": (3, 4, 2, 3), "history": (3, 3, 4, 2, 3), "saved": (3, 4, 2, 3)}
    feeds: dict[str, Any] = {name: random.randn(*shape).astype(np.float32) for name, shape in shapes.items()}
    found = evaluate(model, **{name: values.copy() for name, values in feeds.items()}, rows=ROWS, places=PLACES)
    latent, history, saved = (torch.from_numpy(feeds[name].copy()) for name in ("latent", "history", "saved"))
    output = torch.from_numpy(feeds["sample"]) * 0.5
    model_input = torch.full_like(output, torch.nan)
    rows, places = torch.from_numpy(ROWS), torch.from_numpy(PLACES)
    sampler_step.reference(Slots(latent, history, saved), rows, places, output, model_input)
    for values, expected in zip(found, (latent, history, saved, model_input), strict=True):
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-6)
    assert not np.array_equal(found[0], feeds["latent"])
    check_nodes(model, "sampler_step", 1)
    assert [value.name for value in model.graph.output] == ["next_latent", "next_history", "next_saved", "model_input"]
