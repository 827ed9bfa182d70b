"""What is asked of TensorRT's builder: by a fake one, by the real Python package, and by name."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from impasto.errors import BackendUnavailable, Cancelled, ExportError
from impasto.export.plan_store import BuildOptions, Target
from impasto.export.plans import require_tensorrt, structure_of
from tests.support import fake_tensorrt
from tests.support.fake_tensorrt import World
from tests.support.tensorrt_modules import over
from tests.support.tensorrt_standins import VERSION, RealPackage, real_package

SOURCES = Path(__file__).parents[2] / "impasto"
HERE = Target("11.4.0.106", "580.65", "NVIDIA H200", "9.0")
PATH = Path("synthesis.onnx")

REMOVED = {
    "BF16 FP16 FP8 FP4 INT4 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS WEIGHTLESS "
    "REJECT_EMPTY_ALGORITHMS": "BuilderFlag",
    "EXPLICIT_BATCH": "NetworkDefinitionCreationFlag",
    "CUBLAS CUBLAS_LT CUDNN": "TacticSource",
    "PROFILE_SHARING_0806 MULTIDEVICE_RUNTIME_10_16": "PreviewFeature",
    "IInt8Calibrator IInt8EntropyCalibrator IInt8EntropyCalibrator2 IInt8MinMaxCalibrator IInt8LegacyCalibrator "
    "CalibrationAlgoType QuantizationFlag IAlgorithmSelector IAlgorithm IStreamReader SubGraphCollection "
    "int8_calibrator algorithm_selector get_calibration_profile set_calibration_profile set_quantization_flag "
    "set_dynamic_range reset_precision precision_is_set set_output_type output_type_is_set reset_output_type "
    "compute_precision device_memory_size get_device_memory_size_for_profile "
    "create_execution_context_without_device_memory weight_streaming_budget minimum_weight_streaming_budget "
    "has_implicit_batch_dimension all_shape_inputs_specified supports_model parse_with_weight_descriptors "
    "get_plugin_creator plugin_creator_list platform_has_tf32 platform_has_fast_fp16 platform_has_fast_int8 "
    "build_engine build_cuda_engine max_workspace_size max_batch_size execute_async execute_async_v2 "
    "num_bindings get_binding_shape set_binding_shape binding_is_input": "",
}
"""Names of TensorRT 10 and earlier that 11 does not have, by the class of those that other classes keep."""


def names_of_tensorrt(source: str) -> set[str]:
    """Attributes in a module, as NAME, and as CLASS.NAME where a name is taken of one."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
            if isinstance(node.value, ast.Attribute):
                found.add(f"{node.value.attr}.{node.attr}")
    return found


def removed_names(source: str) -> set[str]:
    listed = {f"{owner}.{name}" if owner else name for names, owner in REMOVED.items() for name in names.split()}
    return names_of_tensorrt(source) & listed


def test_no_module_uses_a_name_that_tensorrt_11_has_removed() -> None:
    using = [path for path in SOURCES.rglob("*.py") if "import tensorrt" in path.read_text()]
    assert {path.relative_to(SOURCES).as_posix() for path in using} == {
        "engine/tensorrt.py",
        "export/plugins.py",
        "export/tensorrt.py",
    }
    assert {path.name: removed_names(path.read_text()) for path in using} == {path.name: set() for path in using}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16"),
        ("1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
        ("config.int8_calibrator = None", "int8_calibrator"),
        ("context.execute_async_v2(bindings, stream)", "execute_async_v2"),
    ],
)
def test_a_removed_name_would_be_found(source: str, name: str) -> None:
    assert removed_names(source) == {name}


def graph_of(weight: float = 1.0, side: int | str = 4) -> bytes:
    """x [batch, 3, 4] times a weight."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, side]) for name in ("x", "y")]
    constant = numpy_helper.from_array(np.full((4,), weight, np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "weight"], ["y"])], "g", values[:1], values[1:], [constant]
    )
    return helper.make_model(graph).SerializeToString()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def module(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with over(fake_tensorrt.make(world)) as (exporting, _):
        monkeypatch.setattr(exporting, "target_of", lambda device: HERE)
        yield exporting


def build(module: Any, graph: bytes | None = None, options: BuildOptions | None = None, **given: Any) -> Any:
    arguments = {"report": lambda stage: None, "cancelled": lambda: False} | given
    builder = module.TensorRTBuilder("cuda")
    return builder.build(graph or graph_of(), PATH, (1, 2, 8), options or BuildOptions(), **arguments)


def test_each_bucket_has_a_profile_of_its_own(module: ModuleType, world: World) -> None:
    plan = build(module)
    assert plan.content == b"plan of " + graph_of()
    shapes = [profile.shapes["x"] for profile in world.configs[0].profiles]
    assert shapes == [((batch, 3, 4),) * 3 for batch in (1, 2, 8)]


def test_a_plan_keeps_what_the_inspector_says_in_detail(module: ModuleType, world: World) -> None:
    assert build(module).inspector == '{"Format": "JSON"}'
    assert world.configs[0].profiling_verbosity.name == "DETAILED"


@pytest.mark.parametrize(
    ("options", "flags", "level"),
    [
        (BuildOptions(), set(), "NONE"),
        (BuildOptions(refit=True, tf32=True), {"REFIT", "TF32"}, "NONE"),
        (BuildOptions(hardware="ampere and later"), set(), "AMPERE_PLUS"),
        (BuildOptions(hardware="same compute capability"), set(), "SAME_COMPUTE_CAPABILITY"),
        (BuildOptions(version_compatible=True), {"VERSION_COMPATIBLE"}, "NONE"),
    ],
)
def test_options_become_flags(
    options: BuildOptions, flags: set[str], level: str, module: ModuleType, world: World
) -> None:
    build(module, options=options)
    config = world.configs[0]
    assert (config.flags, config.hardware_compatibility_level.name) == (flags, level)
    assert (config.pools, config.builder_optimization_level) == ({"WORKSPACE": 4096 * 2**20}, 3)
    assert {runtime.engine_host_code_allowed for runtime in world.runtimes} == {options.version_compatible}


def test_what_was_timed_is_known_to_the_next_build_of_this_machine_alone(
    module: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.known_cache = b"timed after "
    build(module)
    build(module)
    assert [config.cache.content for config in world.configs] == [b"", b"timed after "]
    build(module)
    assert world.configs[2].cache.content == b"", "a cache that does not fit is left alone"
    monkeypatch.setattr(module, "target_of", lambda device: Target("11.4", "1", "another", "9.0"))
    build(module)
    assert world.configs[3].cache.content == b""


def test_progress_is_told(module: ModuleType, world: World) -> None:
    stages: list[str] = []
    build(module, report=stages.append)
    assert stages == ["Building: 1 of 2", "Building: 2 of 2"]


def test_a_build_ends_when_nobody_wants_it_any_more(module: ModuleType, tmp_path: Path) -> None:
    stages: list[str] = []
    with pytest.raises(Cancelled):
        build(module, report=stages.append, cancelled=lambda: len(stages) == 1)
    assert stages == ["Building: 1 of 2"]
    assert not list(tmp_path.rglob("*.cache"))


def test_what_cannot_be_read_or_built_says_why(module: ModuleType, world: World) -> None:
    world.fails = True
    with pytest.raises(ExportError, match=r"synthesis.onnx: TensorRT cannot build it: no tactic"):
        build(module)
    world.parser_errors = (("conv0", "Conv", "unsupported"), ("n1", "Sin", "no importer"))
    with pytest.raises(ExportError, match=r"node conv0 \(Conv\): unsupported; node n1 \(Sin\): no importer"):
        build(module)


def test_a_graph_with_free_sides_is_refused(module: ModuleType) -> None:
    with pytest.raises(ExportError, match=r"input x: found shape \(-1, 3, -1\); allowed is a free batch alone"):
        build(module, graph_of(side="width"))


def test_a_plan_that_tensorrt_refuses_is_an_error(module: Any, world: World) -> None:
    world.loads = False
    with pytest.raises(ExportError, match="plan: TensorRT cannot load it"):
        module.open_engine(b"plan", BuildOptions(), module.Log())


def test_a_plan_takes_another_graphs_weights(module: Any, world: World) -> None:
    options = BuildOptions(refit=True)
    first = build(module, graph_of(1.0), options)
    second = module.TensorRTBuilder("cuda").refit(first.content, graph_of(2.0), PATH, options)
    assert second.content == b"plan of " + graph_of(2.0)
    assert second.structure == first.structure
    world.refits = False
    assert module.TensorRTBuilder("cuda").refit(first.content, graph_of(2.0), PATH, options) is None


def test_a_graphs_structure_is_all_but_its_weights() -> None:
    assert structure_of(graph_of(1.0)) == structure_of(graph_of(2.0))
    assert structure_of(graph_of(1.0)) != structure_of(graph_of(1.0, side=5))
    assert onnx.load_from_string(graph_of(1.0)).graph.initializer[0].raw_data


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\nGCC 13.3.0", "580.65.06"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.57  Tue Apr 1", "575.57"),
    ],
)
def test_the_drivers_version_is_read(told: str, version: str, module: Any, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(told)
    assert module.driver_version(tmp_path / "version") == version


def test_without_tensorrt_the_backend_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendUnavailable, match=r"backend tensorrt: .*tensorrt.*; remedy: pip install .*'impasto\[gpu\]'"
    ):
        require_tensorrt("cuda")


@pytest.mark.parametrize(
    ("version", "device", "told"),
    [
        ("10.16.1.11", "cuda", "found TensorRT 10.16.1.11; allowed is 11 and later; remedy: pip install --upgrade"),
        ("11.4.0.106", "cpu", "device: found 'cpu'; backend tensorrt runs on cuda or cuda:N"),
        ("11.4.0.106", "cuda:7", "device: found 'cuda:7', but torch sees 0 CUDA devices; remedy: an NVIDIA GPU"),
    ],
)
def test_a_wrong_version_or_no_device_is_told(
    version: str, device: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_tensorrt.make(World())
    fake.__version__ = version
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(BackendUnavailable) as caught:
        require_tensorrt(device)
    assert told in str(caught.value)


@pytest.fixture(scope="module")
def package(pytestconfig: pytest.Config) -> RealPackage:
    return real_package(pytestconfig)


REAL = """
import contextlib, torch, tensorrt
from pathlib import Path
from impasto.errors import BackendUnavailable
from impasto.export import plans
from impasto.export.plan_store import BuildOptions, Target
try:
    plans.open_builder("cuda")
except BackendUnavailable as error:
    print(error)
import impasto.export.tensorrt as exporting
import impasto.engine.tensorrt as running
torch.cuda.device = contextlib.nullcontext
exporting.target_of = lambda device: Target(tensorrt.__version__, "580", "NVIDIA H200", "9.0")
log = exporting.Log()
log.log(tensorrt.ILogger.Severity.ERROR, "told")
stages = []
progress = exporting.Progress(stages.append, lambda: len(stages) > 1)
progress.phase_start("Building", "", 2)
print(log.errors, [progress.step_complete("Building", step) for step in (0, 1)], stages)
progress.phase_finish("Building")
builder = exporting.TensorRTBuilder("cuda")
calls = {
    "build": lambda: builder.build(b"", Path("x"), (1,), BuildOptions(plugins=True), print, lambda: False),
    "load": lambda: running.open_plans({"x": b"plan"}, BuildOptions(), (1,), torch.device("cpu")),
}
for name, call in calls.items():
    try:
        call()
    except TypeError as error:
        print(name, error)
print(tensorrt.__version__, len(running.DTYPES))
"""


def test_the_code_runs_over_the_real_package_until_a_device_is_needed(package: RealPackage) -> None:
    no_device, seen, building, loading, version = package.run(REAL)
    assert "but torch sees 0 CUDA devices" in no_device
    assert seen == "['told'] [True, False] ['Building: 1 of 2', 'Building: 2 of 2']"
    # The first call of either that the libraries answer.
    assert building.startswith("build ")
    assert loading.startswith("load ")
    assert "factory function returned nullptr" in building
    assert "factory function returned nullptr" in loading
    assert version == f"{VERSION} 6"


def test_every_enumeration_that_is_named_is_the_real_ones(package: RealPackage) -> None:
    names = [
        f"{node.name}.{ast.unparse(line.targets[0])}"
        for node in ast.parse(fake_tensorrt.STUB.read_text()).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Enum" for base in node.bases)
        for line in node.body
        if isinstance(line, ast.Assign)
    ]
    assert len(names) > 15
    assert package.run(f"import tensorrt\nfor name in {names!r}: eval('tensorrt.' + name)\nprint('all')") == ["all"]


def test_the_digest_of_plugins_is_part_of_a_plans_key() -> None:
    from impasto.export import plugin_graph

    assert len(plugin_graph.digest()) == len(hashlib.sha256().hexdigest())
