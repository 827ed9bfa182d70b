from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from impasto.errors import BundleError, ExportError
from impasto.export import parity
from impasto.export.bundle import open_bundle
from impasto.export.lint import violations
from impasto.export.publish import export_again, publish_stylegan2
from impasto.generators.stylegan2_frozen import FrozenMapping, FrozenSynthesis
from tests.support.generators import TINY, random_generator

CONDITIONAL = dataclasses.replace(TINY, resolution=16, c_dim=3, conv_clamp=0.5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    stages: list[str] = []
    generator = random_generator(CONDITIONAL)
    path = publish_stylegan2(
        CONDITIONAL, generator.state_dict(), "tiny", models, weights_dtype=torch.float16, report=stages.append
    )
    assert stages == ["weights", "mapping graph", "synthesis graph", "parity with torch"]
    return path


def test_a_published_bundle_records_parity_at_batch_1_3_and_8(published: Path) -> None:
    measured = open_bundle(published).manifest.parity
    assert [entry.batch for entry in measured] == [1, 3, 8]
    assert all(0.0 < entry.max_abs_error <= 1e-4 and entry.psnr_db > 80.0 for entry in measured)


def test_published_graphs_keep_the_rules_and_say_nothing_of_the_machine(published: Path) -> None:
    for name in ("mapping.onnx", "synthesis.onnx"):
        assert violations(onnx.load(published / name)) == []
        assert b"site-packages" not in (published / name).read_bytes()


def test_weights_are_kept_in_the_precision_asked_for(published: Path) -> None:
    assert {tensor.dtype for tensor in load_file(published / "weights.safetensors").values()} == {torch.float16}


def test_graphs_are_made_from_the_weights_as_kept(published: Path, tmp_path: Path) -> None:
    again = export_again(open_bundle(published), published.parent.parent)
    assert again.name == "2"
    first, second = open_bundle(published).manifest, open_bundle(again).manifest
    assert second.files["weights.safetensors"] == first.files["weights.safetensors"]
    assert second.config == first.config


def test_a_name_that_is_taken_is_refused_before_any_work(published: Path) -> None:
    with pytest.raises(BundleError, match="there is a bundle already"):
        publish_stylegan2(CONDITIONAL, {}, "tiny", published.parent.parent)


def test_a_graph_that_differs_from_torch_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random_generator(TINY)
    forward = FrozenSynthesis.forward
    monkeypatch.setattr(FrozenSynthesis, "forward", lambda self, ws, noise: forward(self, ws, noise) * 1.01)
    with pytest.raises(ExportError, match=r"graph at batch 1: found a difference of .* from torch; allowed is 0.0001"):
        publish_stylegan2(TINY, generator.state_dict(), "wrong", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_not_numbers_are_not_published(tmp_path: Path) -> None:
    tensors = dict(random_generator(TINY).state_dict())
    tensors["synthesis.b8.torgb.bias"] = torch.full((3,), float("nan"))
    with pytest.raises(ExportError, match="found a difference of nan"):
        publish_stylegan2(TINY, tensors, "nan", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", [TINY, CONDITIONAL, dataclasses.replace(TINY, resolution=64, channel_base=256)])
def test_the_frozen_generator_equals_the_plain_one_in_float64(config: type) -> None:
    generator = random_generator(config).double()
    z = torch.randn(3, config.z_dim, dtype=torch.float64)
    psi = torch.rand(3, config.num_ws, dtype=torch.float64)
    noise = torch.randn(3, config.noise_size, dtype=torch.float64)
    c = torch.rand(3, config.c_dim, dtype=torch.float64) if config.c_dim else None
    frozen = FrozenSynthesis(generator.synthesis).double()
    found = frozen(FrozenMapping(generator.mapping).double()(z, psi, c), noise)
    torch.testing.assert_close(found, generator(z, c, psi, noise), atol=1e-6, rtol=1e-6)


def test_psnr_is_that_of_the_definition() -> None:
    expected = np.zeros((1, 3, 4, 4), np.float32)
    assert parity.psnr(expected + np.float32(0.2), expected) == pytest.approx(20.0, abs=1e-4)
    assert parity.psnr(expected, expected) == np.inf
    assert parity.measure(expected, expected).psnr_db == 200.0
