"""Plans on disk and the swap to them, with a builder that stands for TensorRT."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from impasto.engine.null import NullEngine
from impasto.engine.picture import Engine, PictureRequest, Pixels
from impasto.engine.planned import open_planned
from impasto.engine.swap import SwappingEngine
from impasto.errors import BackendUnavailable, Cancelled, ExportError
from impasto.export import plans
from impasto.export.bundle import Bundle, Manifest, new_bundle, open_bundle, write_manifest
from impasto.export.plan_store import BuildOptions, Plan, PlanKey, PlanStore, Target, store_of
from impasto.export.plans import Report, build_plans, keys_of, load_plans

GPUS = (("NVIDIA H200", "9.0"), ("NVIDIA L40S", "8.9"), ("NVIDIA RTX PRO 6000", "12.0"))
VERSIONS = ("11.3.0.1", "11.4.0.106")
TARGETS = [Target(version, "580.65", *gpu) for gpu in GPUS for version in VERSIONS]
HERE = TARGETS[0]


class FakeBuilder:
    """Builds plans that say what they were built from."""

    def __init__(self, target: Target = HERE, before: Callable[[], None] = lambda: None) -> None:
        self.target = target
        self.built: list[str] = []
        self.refitted: list[str] = []
        self._before = before

    def build(
        self,
        graph: bytes,
        path: Path,
        profile: tuple[int, ...],
        options: BuildOptions,
        report: Report,
        cancelled: Callable[[], bool],
    ) -> Plan:
        self._before()
        if cancelled():
            raise Cancelled("the build was cancelled")
        self.built.append(path.name)
        return Plan(plan_of(graph, self.target), graph.decode().partition(":")[0], '{"Layers": []}')

    def refit(self, plan: bytes, graph: bytes, path: Path, options: BuildOptions) -> Plan | None:
        self.refitted.append(path.name)
        return Plan(plan_of(graph, self.target), graph.decode().partition(":")[0], "{}")


def plan_of(graph: bytes, target: Target) -> bytes:
    return graph + b" for " + repr(target).encode()


def write_bundle(models: Path, name: str, version: str = "1", weights: str = "w") -> Bundle:
    """A bundle of two graphs, files that say which they are."""
    with new_bundle(models, name, version) as folder:
        for graph in ("mapping", "synthesis"):
            (folder / f"{graph}.onnx").write_text(f"{graph} of {name}:{weights}")
        manifest = Manifest(name=name, version=version, family="null", config={}, width=8, height=8)
        write_manifest(folder, manifest)
    return open_bundle(models / name / version)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path, "model0")


def key(**changes: Any) -> PlanKey:
    return dataclasses.replace(PlanKey("0" * 64, "fp32", (1, 2), BuildOptions().flags(), HERE), **changes)


def test_each_of_thirty_machines_and_models_loads_its_own_plan_and_no_other(tmp_path: Path) -> None:
    bundles = [write_bundle(tmp_path, f"model{index}") for index in range(5)]
    for target in TARGETS:
        for made in bundles:
            assert load_plans(made, "fp32", target) is None
            build_plans(made, "fp32", FakeBuilder(target))
    assert len({path.read_bytes() for path in tmp_path.glob("*/1/engines/*.plan")}) == 5 * 3 * 2 * 2
    for target in TARGETS:
        for made in bundles:
            graphs = {graph: (made.path / f"{graph}.onnx").read_bytes() for graph in ("mapping", "synthesis")}
            loaded = load_plans(made, "fp32", target)
            assert loaded == {graph: plan_of(content, target) for graph, content in graphs.items()}


def test_no_plan_is_loaded_under_another_key_whatever_lies_on_disk(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    keys = [key(graph=f"{graph}" * 64, target=target) for graph in range(3) for target in TARGETS[::2]]
    for one in keys:
        store.save(one, Plan(one.name.encode(), "", ""))
    for one in keys:
        for other in keys:
            if one != other:
                for suffix in (".plan", ".json"):
                    shutil.copy(tmp_path / f"{other.name}{suffix}", tmp_path / f"{one.name}{suffix}")
                assert store.load(one) is None
        store.save(one, Plan(one.name.encode(), "", ""))
    assert [store.load(one) for one in keys] == [one.name.encode() for one in keys]


@pytest.mark.parametrize(
    "change",
    [
        {"graph": "1" * 64},
        {"precision": "fp16"},
        {"profile": (1, 4)},
        {"flags": BuildOptions(tf32=True).flags()},
        {"target": dataclasses.replace(HERE, tensorrt="11.4.0.107")},
        {"target": dataclasses.replace(HERE, driver="580.66")},
        {"target": dataclasses.replace(HERE, gpu="NVIDIA H100")},
        {"target": dataclasses.replace(HERE, compute_capability="10.0")},
    ],
)
def test_everything_that_a_plan_depends_on_changes_its_key(change: dict[str, Any], tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    store.save(key(), Plan(b"plan", "", ""))
    assert store.load(key()) == b"plan"
    assert key(**change).name != key().name
    assert store.load(key(**change)) is None


@pytest.mark.parametrize("damage", ["plan", "sha256", "key", "no record", "no plan", "no json", "a list"])
def test_a_damaged_plan_counts_as_none_and_is_built_again(damage: str, bundle: Bundle) -> None:
    build_plans(bundle, "fp32", FakeBuilder())
    (name,) = (one.name for graph, one in keys_of(bundle, "fp32", BuildOptions(), HERE).items() if graph == "mapping")
    plan, record = (bundle.path / "engines" / f"{name}{suffix}" for suffix in (".plan", ".json"))
    found = json.loads(record.read_text())
    if damage == "plan":
        plan.write_bytes(plan.read_bytes() + b"!")
    elif damage in ("sha256", "key"):
        record.write_text(json.dumps(found | {damage: "0" * 64}))
    elif damage == "no plan":
        plan.unlink()
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text("{" if damage == "no json" else "[]")
    assert load_plans(bundle, "fp32", HERE) is None
    builder = FakeBuilder()
    build_plans(bundle, "fp32", builder)
    assert builder.built == ["mapping.onnx"]
    assert load_plans(bundle, "fp32", HERE) is not None


def test_what_the_inspector_says_is_kept(bundle: Bundle) -> None:
    build_plans(bundle, "fp32", FakeBuilder())
    keys = keys_of(bundle, "fp32", BuildOptions(), HERE)
    assert [store_of(bundle).inspector(one) for one in keys.values()] == ['{"Layers": []}'] * 2


def test_plans_are_looked_for_with_the_options_of_the_last_build(bundle: Bundle) -> None:
    build_plans(bundle, "fp32", FakeBuilder(), BuildOptions(tf32=True))
    assert store_of(bundle).options == BuildOptions(tf32=True)
    assert load_plans(bundle, "fp32", HERE) is not None
    build_plans(bundle, "fp32", FakeBuilder(), BuildOptions())
    assert len(list((bundle.path / "engines").glob("*.plan"))) == 4


OTHER_GPU = dataclasses.replace(HERE, gpu="NVIDIA H100", driver="580.66")
OTHER_VERSION = dataclasses.replace(HERE, tensorrt="11.9.0.1")
OTHER_ARCHITECTURE = dataclasses.replace(OTHER_GPU, compute_capability="12.0")
OLD = dataclasses.replace(OTHER_GPU, compute_capability="7.5")


@pytest.mark.parametrize(
    ("options", "load", "do_not"),
    [
        (BuildOptions(), [HERE], [OTHER_GPU, OTHER_VERSION, OTHER_ARCHITECTURE]),
        (BuildOptions(version_compatible=True), [HERE, OTHER_VERSION], [OTHER_GPU, TARGETS[-1]]),
        (BuildOptions(hardware="same compute capability"), [HERE, OTHER_GPU], [OTHER_VERSION, OTHER_ARCHITECTURE]),
        (BuildOptions(hardware="ampere and later"), [OTHER_GPU, OTHER_ARCHITECTURE], [OTHER_VERSION, OLD]),
    ],
)
def test_a_plan_built_for_more_machines_loads_on_those_and_no_others(
    options: BuildOptions, load: list[Target], do_not: list[Target], bundle: Bundle
) -> None:
    build_plans(bundle, "fp32", FakeBuilder(), options)
    assert all(load_plans(bundle, "fp32", target) for target in load)
    assert not any(load_plans(bundle, "fp32", target) for target in do_not)


def test_new_weights_go_into_a_plan_of_the_same_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "structure_of", lambda graph: graph.decode().partition(":")[0])
    first, second = (write_bundle(tmp_path, "model", version, f"weights {version}") for version in ("1", "2"))
    options = BuildOptions(refit=True)
    build_plans(first, "fp32", FakeBuilder(), options)
    builder = FakeBuilder()
    build_plans(second, "fp32", builder, options)
    assert (builder.built, builder.refitted) == ([], ["mapping.onnx", "synthesis.onnx"])
    graph = (second.path / "mapping.onnx").read_bytes()
    assert (load_plans(second, "fp32", HERE) or {})["mapping"] == plan_of(graph, HERE)
    elsewhere = FakeBuilder(TARGETS[1])
    build_plans(second, "fp32", elsewhere, options)
    assert elsewhere.refitted == []


def test_a_bundle_that_cannot_be_written_has_its_plans_in_the_users_cache(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    files = build_plans(bundle, "fp32", FakeBuilder())
    assert {file.parent for file in files} == {tmp_path / "cache" / "impasto" / "engines" / bundle.manifest.digest}
    assert not (bundle.path / "engines").exists()
    assert load_plans(bundle, "fp32", HERE) is not None


def test_a_precision_that_the_bundle_has_no_graph_of_names_the_remedy(bundle: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match="remedy: impasto export model0 --precision fp16"):
        keys_of(bundle, "fp16", BuildOptions(), HERE)


STEPS = ((tempfile, "mkstemp"), (os, "fsync"), (Path, "chmod"), (Path, "replace"), (Path, "unlink"))
"""What saving a plan does to the disk."""


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do the work in a process that ends, without a word, before that step; whether there was such a step."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    count = itertools.count()

    def ending(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(count) == step:
                os._exit(1)
            return function(*arguments, **options)

        return call

    try:
        for owner, name in STEPS:
            setattr(owner, name, ending(getattr(owner, name)))
        work()
        os._exit(0)
    finally:
        os._exit(2)


def test_a_build_that_is_killed_anywhere_leaves_the_old_plan_or_none_or_the_new_one(tmp_path: Path) -> None:
    found = []
    for step in itertools.count():
        store = PlanStore(tmp_path / str(step))
        store.save(key(), Plan(b"old", "", ""))
        was_killed = killed_at(step, functools.partial(store.save, key(), Plan(b"new" * 100_000, "", "")))
        found.append(store.load(key()))
        store.save(key(), Plan(b"again", "", ""))
        assert store.load(key()) == b"again"
        if not was_killed:
            break
    assert len(found) > 8
    assert set(found[:-1]) <= {b"old", None, b"new" * 100_000}
    assert (found[0], found[-1]) == (b"old", b"new" * 100_000)
    assert None in found


def test_what_a_killed_build_left_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".left.plan-x.part").write_bytes(b"half")
    store = PlanStore(tmp_path)
    store.save(key(), Plan(b"plan", "", ""))
    assert (tmp_path / ".left.plan-x.part").exists()
    monkeypatch.setattr("impasto.export.plan_store.STALE_SECONDS", -1.0)
    store.save(key(), Plan(b"plan", "", ""))
    assert not list(tmp_path.glob(".*.part"))


class CountingEngine:
    """A null engine of a named backend, that takes a while and fails once it is closed."""

    def __init__(self, bundle: Bundle, backend: str) -> None:
        self._engine = NullEngine(bundle, "cpu")
        self.backend = backend
        self.runs = 0
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        assert not self.closed
        time.sleep(0.001)
        pictures = self._engine.run(requests)
        assert not self.closed
        self.runs += 1
        return pictures

    def close(self) -> None:
        self.closed = True


class Opened:
    """Opens counting engines, and keeps them by backend."""

    def __init__(self, bundle: Bundle) -> None:
        self.engines: dict[str, CountingEngine] = {}
        self._bundle = bundle

    def __call__(self, backend: str, precision: str, device: str) -> Engine:
        if backend == "torch":
            raise BackendUnavailable("backend torch: not here")
        self.engines[backend] = CountingEngine(self._bundle, backend)
        return self.engines[backend]  # type: ignore[return-value]


def test_a_swap_under_load_loses_no_request(bundle: Bundle) -> None:
    may_build = threading.Event()
    builder = FakeBuilder(before=lambda: may_build.wait(30) and None)
    opened = Opened(bundle)
    engine = open_planned(bundle, "fp32", "cuda", builder, opened)
    assert isinstance(engine, SwappingEngine)
    engine.warm_up()
    assert engine.backend == "onnxruntime"
    stop, made, asked = threading.Event(), [0] * 4, [0] * 4

    def load(worker: int) -> None:
        while not stop.is_set():
            asked[worker] += 1
            made[worker] += len(engine.run([PictureRequest(seed=worker)]))

    workers = [threading.Thread(target=load, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    while opened.engines["onnxruntime"].runs < 20:
        time.sleep(0.001)
    may_build.set()
    assert engine.wait(30)
    assert engine.backend == "tensorrt"
    while opened.engines["tensorrt"].runs < 20:
        time.sleep(0.001)
    stop.set()
    for worker in workers:
        worker.join()
    assert made == asked
    assert sum(made) >= 40
    assert opened.engines["onnxruntime"].closed
    assert not opened.engines["tensorrt"].closed
    assert builder.built == ["mapping.onnx", "synthesis.onnx"]
    engine.close()
    assert opened.engines["tensorrt"].closed


def test_an_engine_of_another_number_of_lanes_takes_over_and_tells_its_own(bundle: Bundle) -> None:
    opened = Opened(bundle)

    def of_lanes(backend: str, precision: str, device: str) -> Engine:
        engine = opened(backend, precision, device)
        engine.lanes = 0 if backend == "tensorrt" else 4
        return engine

    engine = open_planned(bundle, "fp32", "cuda", FakeBuilder(), of_lanes)
    assert isinstance(engine, SwappingEngine)
    assert (engine.backend, engine.lanes) == ("onnxruntime", 4)
    engine.warm_up()
    assert engine.wait(30)
    assert (engine.backend, engine.lanes) == ("tensorrt", 0)
    engine.close()


def test_a_model_whose_plans_are_there_never_runs_on_another_backend(bundle: Bundle) -> None:
    build_plans(bundle, "fp32", FakeBuilder())
    opened = Opened(bundle)
    builder = FakeBuilder()
    assert open_planned(bundle, "fp32", "cuda", builder, opened).backend == "tensorrt"
    assert (list(opened.engines), builder.built) == (["tensorrt"], [])


def test_a_build_that_fails_leaves_the_first_engine_serving(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ExportError("synthesis.onnx: TensorRT cannot build it: no reason")

    opened = Opened(bundle)
    engine = open_planned(bundle, "fp32", "cuda", FakeBuilder(before=fail), opened)
    assert isinstance(engine, SwappingEngine)
    engine.warm_up()
    assert engine.wait(30)
    assert engine.backend == "onnxruntime"
    assert len(engine.run([PictureRequest(seed=1)])) == 1
    assert "model0 stays on onnxruntime: synthesis.onnx: TensorRT cannot build it" in caplog.text
    assert load_plans(bundle, "fp32", HERE) is None


def test_closing_ends_a_build_and_what_it_opens(bundle: Bundle) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(30)

    opened = Opened(bundle)
    engine = open_planned(bundle, "fp32", "cuda", FakeBuilder(before=wait), opened)
    assert isinstance(engine, SwappingEngine)
    engine.warm_up()
    assert begun.wait(30)
    engine.close()
    go_on.set()
    assert engine.wait(30)
    assert opened.engines["onnxruntime"].closed
    assert "tensorrt" not in opened.engines
    assert load_plans(bundle, "fp32", HERE) is None
