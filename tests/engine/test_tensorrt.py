"""The tensorrt backend over engines that stand for TensorRT's, and onnxruntime's way to GPUs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from impasto.engine import onnxruntime as backend
from impasto.engine.bound_session import BoundSession
from impasto.engine.registry import open_engine
from impasto.errors import BackendUnavailable, BundleError, InternalError
from impasto.export.bundle import ZOO, Bundle, open_bundle
from impasto.export.plan_store import BuildOptions
from tests.support import fake_tensorrt
from tests.support.fake_tensorrt import FakeContext, FakeEngine, World
from tests.support.tensorrt_modules import over

CPU = torch.device("cpu")
TENSORS = {
    "ws": ("INPUT", (-1, 3), "FLOAT"),
    "label": ("INPUT", (-1, 1), "INT64"),
    "image": ("OUTPUT", (-1, 3), "FLOAT"),
}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    with over(fake_tensorrt.make(World())) as (_, running):
        yield running


def doubling(context: FakeContext) -> bool:
    """image = 2·ws + label, from and to the addresses."""
    rows = context.shapes["ws"][0]
    ws, image = (
        np.ctypeslib.as_array((ctypes.c_float * (rows * 3)).from_address(context.addresses[name]))
        for name in ("ws", "image")
    )
    label = np.ctypeslib.as_array((ctypes.c_int64 * rows).from_address(context.addresses["label"]))
    image[:] = 2.0 * ws + np.repeat(label, 3)
    return True


def network(module: ModuleType, engine: Any, monkeypatch: pytest.MonkeyPatch, profile: tuple[int, ...] = (1, 4)) -> Any:
    monkeypatch.setattr(module, "open_engine", lambda plan, options, log: engine)
    return module.open_plans({"synthesis": b"plan"}, BuildOptions(), profile, CPU)["synthesis"]


def feeds(rows: int) -> dict[str, torch.Tensor]:
    ws = torch.arange(3.0 * rows).reshape(rows, 3)
    return {"ws": ws, "label": torch.arange(rows)[:, None]}


def test_a_batch_goes_through_the_profile_of_its_size(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    engine = FakeEngine(tensorrt, TENSORS, doubling)
    planned = network(module, engine, monkeypatch)
    for rows in (4, 1, 4):
        given = feeds(rows)
        (image,) = planned(**given)
        torch.testing.assert_close(image, 2.0 * given["ws"] + given["label"], rtol=0, atol=0)
    assert [context.profile for context in engine.contexts] == [1, 0]
    assert [context.shapes["ws"] for context in engine.contexts] == [(4, 3), (1, 3)]


def test_contexts_share_memory_of_the_largest_profile(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    engine = FakeEngine(tensorrt, TENSORS, doubling, memory=(64, 256))
    planned = network(module, engine, monkeypatch)
    planned(**feeds(1))
    planned(**feeds(4))
    (first, second) = (context.memory for context in engine.contexts)
    assert first == second
    assert first is not None
    assert first[1] == 256


def test_an_input_of_another_type_is_refused(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    planned = network(module, FakeEngine(tensorrt, TENSORS, doubling), monkeypatch)
    with pytest.raises(InternalError, match=r"ws: found torch.float64; the plan takes torch.float32"):
        planned(**(feeds(1) | {"ws": torch.zeros(1, 3, dtype=torch.float64)}))


def test_a_batch_that_tensorrt_refuses_is_an_error(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    planned = network(module, FakeEngine(tensorrt, TENSORS, lambda context: False), monkeypatch)
    with pytest.raises(InternalError, match="TensorRT refused a batch of 4"):
        planned(**feeds(4))


def test_without_plans_the_backend_names_the_command_that_builds_them(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "target_of", lambda device: None)
    monkeypatch.setattr(module, "load_plans", lambda bundle, precision, target: None)
    with pytest.raises(BackendUnavailable, match="remedy: impasto export starry --precision fp16 --tensorrt"):
        module.open_tensorrt(open_bundle(ZOO / "starry" / "1", verify=False), "fp16", "cuda")


def test_a_model_without_layer_noise_asks_for_none(module: Any) -> None:
    with pytest.raises(InternalError, match="only StyleGAN2"):
        module._no_noise(np.zeros((1, 1, 1), np.float32), None)


@pytest.mark.parametrize("model", ["starry", "starry-ddpm"])
def test_the_tensorrt_backend_is_refused_where_it_cannot_be(model: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"tensorrt.*remedy|models of the family diffusion run on onnxruntime"):
        open_engine(open_bundle(ZOO / model / "1", verify=False), backend="tensorrt", device="cuda")


def write_graph(path: Path) -> Path:
    """y = x + 1 for x [batch, 2]."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "g", values[:1], values[1:], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def test_outputs_of_a_bound_session_feed_the_next_where_they_lie(tmp_path: Path) -> None:
    session = backend.open_session(write_graph(tmp_path / "g.onnx"), "CPUExecutionProvider", 1)
    bound = BoundSession(session, "cpu", 0)
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    between = bound.run({"x": x})["y"]
    assert isinstance(between, onnxruntime.OrtValue)
    after = bound.run({"x": between})["y"]
    np.testing.assert_array_equal(after.numpy(), x + 2.0)
    np.testing.assert_array_equal(bound.run({"x": 10.0 * x})["y"].numpy(), 10.0 * x + 1.0)
    np.testing.assert_array_equal(after.numpy(), x + 2.0)


class FallenBack:
    """A session that onnxruntime opened on the CPU though it was asked for a GPU."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.options = options
        self.asked.append((options["providers"], options["enable_fallback"]))

    asked: list[Any] = []  # noqa: RUF012 - of all sessions of a test

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def fallen_back(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of such sessions."""
    offered = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    monkeypatch.setattr(FallenBack, "asked", [])
    return FallenBack.asked


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = ZOO / "starry" / "1"
    return open_bundle(path, verify=False)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-tensorrt"])
def test_a_gpu_session_that_fell_back_to_the_cpu_is_refused(name: str, bundle: Bundle, fallen_back: list[Any]) -> None:
    with pytest.raises(BackendUnavailable, match=r"could not start; onnxruntime offers \['CPUExecutionProvider'\]"):
        open_engine(bundle, backend=name, device="cuda:1")
    ((providers, fallback),) = fallen_back
    names = [provider for provider, _ in providers]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider"][name == "onnxruntime" :]
    assert {options["device_id"] for _, options in providers} == {"1"}
    assert fallback == 0


def test_onnxruntimes_tensorrt_keeps_its_engines_and_knows_the_buckets(
    bundle: Bundle, fallen_back: list[Any], tmp_path: Path
) -> None:
    name, options = backend.tensorrt_provider_of("cuda", bundle, bundle.path / "synthesis.onnx")
    assert name == "TensorrtExecutionProvider"
    cache = tmp_path / "cache" / "impasto" / "onnxruntime-tensorrt" / bundle.manifest.digest
    assert cache.is_dir()
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(cache)
    config = bundle.manifest.config
    num_ws = 2 * (config["resolution"].bit_length() - 2)
    assert f"ws:1x{num_ws}x{config['w_dim']}," in options["trt_profile_min_shapes"] + ","
    largest = bundle.manifest.buckets[-1]
    assert f"ws:{largest}x{num_ws}x{config['w_dim']}," in options["trt_profile_max_shapes"] + ","


def test_where_onnxruntime_has_no_gpu_the_remedy_is_named(bundle: Bundle) -> None:
    for name, lacks in (("onnxruntime", "no CUDA"), ("onnxruntime-tensorrt", "no TensorRT")):
        with pytest.raises(BackendUnavailable, match=rf"has {lacks}; remedy: pip install .*'impasto\[gpu\]'"):
            open_engine(bundle, backend=name, device="cuda")
    with pytest.raises(BackendUnavailable, match="allowed is"):
        open_engine(bundle, backend="onnxruntime-tensorrt", device="cpu")


def test_a_graph_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"g.onnx: onnxruntime cannot load it"):
        backend.open_session(tmp_path / "g.onnx", "CPUExecutionProvider", 1)
