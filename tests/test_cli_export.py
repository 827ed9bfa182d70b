"""`impasto export --tensorrt` from the command line, with a builder that stands for TensorRT's."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner, Result

from impasto.cli import app
from impasto.export import plans
from impasto.export.bundle import Bundle, open_bundle
from impasto.export.plan_store import BuildOptions, Plan, PlanStore, Target
from impasto.export.plans import Report, keys_of, load_plans, structure_of
from impasto.export.plugin_node import NAMESPACE
from tests.support.bundles import write_tiny_bundle

HERE = Target("11.4.0.106", "580.65", "NVIDIA H200", "9.0")


@dataclasses.dataclass
class RecordingBuilder:
    """Keeps what it is asked for; a plan of it is the digest of its graph."""

    target: Target = HERE
    built: list[tuple[str, BuildOptions, onnx.ModelProto]] = dataclasses.field(default_factory=list)
    refitted: list[str] = dataclasses.field(default_factory=list)
    devices: list[str] = dataclasses.field(default_factory=list)

    def build(
        self,
        graph: bytes,
        path: Path,
        profile: tuple[int, ...],
        options: BuildOptions,
        report: Report,
        cancelled: Callable[[], bool],
    ) -> Plan:
        assert not cancelled()
        self.built.append((path.name, options, onnx.load_from_string(graph)))
        for step in (1, 2):
            report(f"Building for {profile}: {step} of 2")
        return Plan(hashlib.sha256(graph).digest(), structure_of(graph), '{"Layers": []}')

    def refit(self, plan: bytes, graph: bytes, path: Path, options: BuildOptions) -> Plan | None:
        self.refitted.append(path.name)
        return Plan(hashlib.sha256(graph).digest(), structure_of(graph), "{}")


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> RecordingBuilder:
    """What `impasto export --tensorrt` finds on this machine."""
    builder = RecordingBuilder()

    def opened(device: str) -> RecordingBuilder:
        builder.devices.append(device)
        return builder

    monkeypatch.setattr(plans, "open_builder", opened)
    return builder


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_tiny_bundle(tmp_path, resolution=32, channel_base=512, channel_max=16))


def export(bundle: Bundle, *options: str) -> Result:
    models = bundle.path.parent.parent
    result = CliRunner().invoke(app, ["export", bundle.manifest.name, "--models", str(models), "--tensorrt", *options])
    assert result.exit_code == 0, result.output
    return result


def operators(model: onnx.ModelProto) -> set[str]:
    """Of our plugins in a graph."""
    return {
        node.op_type
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "plugin_namespace" and attribute.s.decode() == NAMESPACE
    }


def test_plans_are_built_told_of_and_stored(builder: RecordingBuilder, bundle: Bundle) -> None:
    result = export(bundle, "--device", "cuda:1")
    assert builder.devices == ["cuda:1"]
    assert [(name, options) for name, options, _ in builder.built] == [
        ("mapping.onnx", BuildOptions()),
        ("synthesis.onnx", BuildOptions()),
    ]
    told = [line.removeprefix("export tiny: ") for line in result.stderr.splitlines()]
    steps = [f"Building for (1, 2, 4, 8): {step} of 2" for step in (1, 2)]
    assert told == ["reading", "building mapping", *steps, "building synthesis", *steps]
    keys = keys_of(bundle, "fp32", BuildOptions(), HERE)
    assert result.stdout.split() == [str(bundle.path / "engines" / f"{key.name}.plan") for key in keys.values()]
    assert load_plans(bundle, "fp32", HERE) == {
        graph: hashlib.sha256((bundle.path / f"{graph}.onnx").read_bytes()).digest() for graph in keys
    }
    assert load_plans(bundle, "fp32", dataclasses.replace(HERE, driver="580.66")) is None


def test_a_second_run_says_that_they_are_there_and_builds_nothing(builder: RecordingBuilder, bundle: Bundle) -> None:
    first = export(bundle)
    again = export(bundle)
    assert len(builder.built) == 2
    assert again.stdout == first.stdout
    assert again.stderr.splitlines()[-1] == "its plans in fp32 for NVIDIA H200 are there already"
    assert "already" not in first.stderr


def test_with_plugins_our_kernels_are_in_the_graph_and_the_plain_plan_stays(
    builder: RecordingBuilder, bundle: Bundle
) -> None:
    export(bundle)
    export(bundle, "--plugins")
    assert [(name, options.plugins, operators(model)) for name, options, model in builder.built] == [
        ("mapping.onnx", False, set()),
        ("synthesis.onnx", False, set()),
        ("mapping.onnx", True, set()),
        ("synthesis.onnx", True, {"modulated_conv"}),
    ]
    store = PlanStore(bundle.path / "engines")
    for options in (BuildOptions(), BuildOptions(plugins=True)):
        assert all(store.load(key) for key in keys_of(bundle, "fp32", options, HERE).values())


def test_with_refit_another_version_takes_its_weights_into_the_plans_there_are(
    builder: RecordingBuilder, bundle: Bundle
) -> None:
    export(bundle, "--refit")
    models = bundle.path.parent.parent
    CliRunner().invoke(app, ["export", "tiny", "--models", str(models)])
    other = open_bundle(models / "tiny" / "2")
    for file in ("mapping.onnx", "synthesis.onnx"):
        change_weights(other, file)
    result = export(open_bundle(models / "tiny" / "2", verify=False), "--refit")
    assert len(builder.built) == 2
    assert builder.refitted == ["mapping.onnx", "synthesis.onnx"]
    assert "building" not in result.stderr
    assert all(path.startswith(str(models / "tiny" / "2")) for path in result.stdout.split())


def change_weights(bundle: Bundle, file: str) -> None:
    """Double the largest constant of a graph, and write its digest anew."""
    from impasto.export.bundle import write_manifest

    model: Any = onnx.load(bundle.path / file)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.CopyFrom(onnx.numpy_helper.from_array(2.0 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, bundle.path / file)
    write_manifest(bundle.path, bundle.manifest)


def test_plans_for_more_machines_are_asked_for_by_option(builder: RecordingBuilder, bundle: Bundle) -> None:
    export(bundle, "--version-compatible", "--hardware", "ampere and later")
    options = BuildOptions(version_compatible=True, hardware="ampere and later")
    assert [given for _, given, _ in builder.built] == [options] * 2
    elsewhere = Target("11.9.0.1", "590.10", "NVIDIA L40S", "8.9")
    assert load_plans(bundle, "fp32", elsewhere) is not None


def test_a_precision_that_is_not_there_becomes_the_next_version_first(
    builder: RecordingBuilder, bundle: Bundle
) -> None:
    result = export(bundle, "--precision", "fp8")
    lowered = open_bundle(bundle.path.parent / "2")
    assert [name for name, _, _ in builder.built] == ["mapping.onnx", "synthesis.fp8.onnx"]
    assert load_plans(lowered, "fp8", HERE) is not None
    found = lowered.manifest.precisions["fp8"]
    assert result.stderr.splitlines()[-1] == (
        f"fp8 against fp32: at least {found.psnr_db:.1f} dB and an SSIM of {found.ssim:.4f}"
    )
    again = export(bundle, "--precision", "fp8")
    assert not (bundle.path.parent / "3").exists()
    told = again.stderr.splitlines()
    assert "version 2 has its fp8 graph already" in told
    assert "its plans in fp8 for NVIDIA H200 are there already" in told


def test_plugins_are_refused_where_there_are_none(builder: RecordingBuilder, bundle: Bundle) -> None:
    options = ["--models", str(bundle.path.parent.parent), "--tensorrt", "--plugins", "--precision", "int8"]
    result = CliRunner().invoke(app, ["export", "tiny", *options])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "impasto: plugins: found 'stylegan2 in int8'; allowed is stylegan2 or stylegan3 in fp32 or fp16"
    )
    assert builder.built == []
    assert not (bundle.path.parent / "2").exists()
