"""Families that one file each describes: published, published anew, imported; and what another one takes."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import impasto
from impasto.errors import BundleError, CheckpointError, ExportError
from impasto.export.bundle import Manifest, open_bundle
from impasto.export.lint import violations
from impasto.export.publish import export_again, publish_checkpoint
from impasto.export.publish_family import publish_family
from impasto.generators.checkpoints import read_checkpoint
from impasto.generators.families import FAMILIES
from impasto.generators.family import Family, Graph, draw_latents, save_weights
from impasto.generators.gan import GANConfig
from impasto.generators.interface import PSI, SEED, Interface, latent, output_pictures
from tests.support.families import TINY, random_module

GRAPHS = {"gan": ["decoder"], "vae": ["decoder", "encoder"], "vq": ["decoder", "encoder", "embedding"]}


def manifest_of(models: Path, family: str) -> Manifest:
    return open_bundle(models / family / "1").manifest


@pytest.mark.parametrize("family", TINY)
def test_every_graph_has_parity_at_batch_1_3_and_8_and_keeps_the_rules(family: str, family_models: Path) -> None:
    manifest = manifest_of(family_models, family)
    assert {name for name in manifest.files if name.endswith(".onnx")} == {f"{name}.onnx" for name in GRAPHS[family]}
    outputs = {"decoder": "decoder.image_float", "encoder": "encoder.z", "embedding": "embedding.z"}
    expected = [(outputs[graph], batch) for graph in GRAPHS[family] for batch in (1, 3, 8)]
    assert [(entry.output, entry.batch) for entry in manifest.parity] == expected
    assert all(entry.max_abs_error <= 1e-4 for entry in manifest.parity)
    assert all(entry.max_abs_error > 0.0 for entry in manifest.parity if entry.output == "decoder.image_float")
    for name in GRAPHS[family]:
        graph = onnx.load(family_models / family / "1" / f"{name}.onnx")
        assert violations(graph) == []
        assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}


def test_the_manifest_says_what_a_request_may_hold(family_models: Path) -> None:
    inputs = {family: {spec.name: spec.shape for spec in manifest_of(family_models, family).inputs} for family in TINY}
    pictures = {"image": (-1, 16, 16, 3), "image_to": (-1, 16, 16, 3), "blend": (-1, 1)}
    assert inputs["gan"] == {"seed": (-1, 1), "z": (-1, 8), "psi": (-1, 1), "label": (-1, 1), "c": (-1, 3)}
    assert inputs["vae"] == {"seed": (-1, 1), "z": (-1, 128), "psi": (-1, 1), **pictures}
    assert inputs["vq"] == {"z": (-1, 256), "codes": (-1, 8, 8), **pictures}
    for family, config in TINY.items():
        manifest = manifest_of(family_models, family)
        assert (manifest.family, manifest.config) == (family, dataclasses.asdict(config))
        assert {spec.name: spec.shape for spec in manifest.outputs} == {
            "image": (-1, 16, 16, 3),
            "image_float": (-1, 3, 16, 16),
        }


@pytest.mark.parametrize("family", TINY)
def test_the_weights_of_a_bundle_are_a_checkpoint(family: str, family_models: Path) -> None:
    read = read_checkpoint(family_models / family / "1" / "weights.safetensors")
    assert (read.family, read.config, read.source) == (family, TINY[family], "impasto safetensors")
    expected = random_module(family, TINY[family]).state_dict()
    assert read.tensors.keys() == expected.keys()
    assert all(torch.equal(read.tensors[name], expected[name]) for name in expected)


def test_a_checkpoint_is_published_in_half_precision_and_published_anew(tmp_path: Path) -> None:
    config = GANConfig(8, z_dim=4, channel_base=8)
    save_weights(tmp_path / "a.safetensors", "gan", config, random_module("gan", config).state_dict())
    read = read_checkpoint(tmp_path / "a.safetensors")
    stages: list[str] = []
    options = {"licence": "CC0", "defaults": {"psi": 0.5}, "report": stages.append}
    path = publish_checkpoint(read, "halves", tmp_path, weights_dtype=torch.float16, **options)
    assert stages == ["weights", "decoder graph", "decoder parity with torch"]
    weights = load_file(path / "weights.safetensors")
    assert {tensor.dtype for name, tensor in weights.items() if "running" not in name} == {torch.float16}
    assert weights["blocks.b4.norm.running_var"].dtype == torch.float32
    # But for the layers that normalisation is folded into, the graph keeps them so too.
    stored = {tensor.data_type for tensor in onnx.load(path / "decoder.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in stored

    again = export_again(open_bundle(path), tmp_path)
    first, second = open_bundle(path).manifest, open_bundle(again).manifest
    assert (second.version, second.licence, second.defaults) == ("2", "CC0", {"psi": 0.5})
    assert second.files["weights.safetensors"] == first.files["weights.safetensors"]


def test_a_name_that_is_taken_is_refused_before_any_work(family_models: Path) -> None:
    with pytest.raises(BundleError, match="there is a bundle already"):
        publish_family("gan", TINY["gan"], {}, "gan", family_models)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 32}, "tensors are missing: 'blocks.b16.conv.weight'"),
        ({"attention": 0}, "tensors are unknown to GAN: 'attention.gain'"),
        ({"z_dim": 9}, r"blocks.b4.conv.weight: found the shape \[8, 16, 4, 4\]; allowed is \[9, 16, 4, 4\]"),
        ({"resolution": 2**30}, "resolution: found 1073741824; allowed is a power of two from 8 to 1024"),
        ({"z_dim": "8"}, "z_dim: found '8'; allowed is an integer"),
        ({"brush": 1}, "found the hyperparameter 'brush'; allowed are attention, c_dim"),
    ],
)
def test_what_the_header_of_a_file_says_is_checked(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    module = random_module("gan", TINY["gan"])
    config = _Stated(dataclasses.asdict(TINY["gan"]) | changes)
    save_weights(tmp_path / "a.safetensors", "gan", config.as_dataclass(), module.state_dict())
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.safetensors")


@dataclasses.dataclass
class _Stated:
    values: Mapping[str, object]

    def as_dataclass(self) -> object:
        """A dataclass instance of these values, which no config checks."""
        return dataclasses.make_dataclass("Stated", self.values)(**self.values)


@dataclasses.dataclass(frozen=True)
class DotsConfig:
    """Pictures of one colour."""

    z_dim: int = 3


class Dots(nn.Module):
    """z [N, 3] → pictures [N, 3, 8, 8] of that colour."""

    def __init__(self, config: DotsConfig):
        super().__init__()
        self.gain = nn.Parameter(torch.full((config.z_dim,), 0.5))

    def forward(self, z: Tensor) -> Tensor:
        return (z * self.gain)[:, :, None, None].expand(-1, -1, 8, 8)


def dots(error: float = 0.0) -> Family:
    """A family whose graph is off by `error`."""

    def graphs(module: Dots) -> dict[str, Graph]:
        def reference(z: Tensor) -> Tensor:
            return module(z) + error

        return {"decoder": Graph(module, lambda rows: {"z": draw_latents(rows, 3)}, reference)}

    interface = Interface(8, 8, (SEED, latent(3), PSI), output_pictures(8, 8))
    return Family(config=DotsConfig, build=Dots, graphs=graphs, interface=lambda config: interface)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch):
    """What a new family is: a file with its FAMILY, and a line in the registry."""

    def add(family: Family) -> None:
        module = types.ModuleType("impasto.generators.dots")
        module.FAMILY = family  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "impasto.generators.dots", module)
        monkeypatch.setitem(FAMILIES, "dots", "latent")  # type: ignore[arg-type]

    return add


def test_a_new_family_is_a_file_and_a_line(register, tmp_path: Path) -> None:
    register(dots())
    for name in ("dots", "again"):
        save_weights(tmp_path / f"{name}.safetensors", "dots", DotsConfig(), Dots(DotsConfig()).state_dict())
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "dots.safetensors").read_bytes()
    with safe_open(tmp_path / "dots.safetensors", "pt") as file:
        assert file.metadata() == {"family": "dots", "config": '{"z_dim": 3}'}
    path = publish_checkpoint(read_checkpoint(tmp_path / "dots.safetensors"), "mine", tmp_path / "models")
    for backend in ("onnxruntime", "torch"):
        with impasto.load(path, backend=backend, threads=1) as model:
            (picture,) = model.generate(seeds=7, format="float32")
        colour = 0.5 * np.random.RandomState(7).randn(3).astype(np.float32)
        np.testing.assert_allclose(picture.image_float, np.broadcast_to(colour[:, None, None], (3, 8, 8)), rtol=1e-6)


def test_a_graph_that_differs_from_torch_is_not_published(register, tmp_path: Path) -> None:
    register(dots(error=0.01))
    message = r"decoder.image_float at batch 1: found a difference of 0.01 from torch; allowed is 0.0001"
    with pytest.raises(ExportError, match=message):
        publish_family("dots", DotsConfig(), Dots(DotsConfig()).state_dict(), "wrong", tmp_path)
    assert list(tmp_path.iterdir()) == []
