"""Graphs of lower precision: near float32, never out of range, refused where they are not, and served by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from skimage.metrics import structural_similarity

import impasto
from impasto.errors import BackendUnavailable, ExportError
from impasto.export import precision, publish_precision
from impasto.export.bundle import WEIGHTS, Bundle, open_bundle
from impasto.export.parity import psnr, ssim
from impasto.export.precision import MIN_PSNR, dense_convolutions, halve, without_bfloat16
from impasto.export.publish import publish_stylegan2
from impasto.export.publish_precision import add_precision
from impasto.generators.stylegan2_config import StyleGAN2Config
from tests.support.bundles import write_tiny_bundle
from tests.support.families import write_tiny_family

SMALL = {"resolution": 32, "channel_base": 512, "channel_max": 16, "conv_clamp": 256.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def plain(models: Path) -> Bundle:
    return open_bundle(write_tiny_bundle(models, **SMALL))


@pytest.fixture(scope="module")
def lowered(plain: Bundle, models: Path) -> Bundle:
    """With a graph of every precision, each added to the version before."""
    bundle = plain
    for name in MIN_PSNR:
        bundle = open_bundle(add_precision(bundle, models, name))
    return bundle


def test_each_precision_is_a_graph_beside_the_others_with_what_was_measured(plain: Bundle, lowered: Bundle) -> None:
    assert lowered.manifest.version == "4"
    assert list(lowered.manifest.precisions) == ["fp16", "bf16", "int8"]
    assert set(lowered.manifest.files) - set(plain.manifest.files) == {f"synthesis.{name}.onnx" for name in MIN_PSNR}
    for name, found in lowered.manifest.precisions.items():
        assert found.pictures == 64
        assert MIN_PSNR[name] <= found.psnr_db <= found.mean_psnr_db < 110.0
        assert 0.8 < found.ssim < 1.0
    files = plain.manifest.files
    assert {name: lowered.manifest.files[name] for name in files} == files


def test_the_pictures_of_a_precision_are_asked_for_by_its_name(lowered: Bundle) -> None:
    pictures = {}
    for name in ("fp32", "fp16", "int8"):
        with impasto.load(lowered.path, precision=name) as generator:
            pictures[name] = np.stack([p.image_float for p in generator.generate(seeds=[1, 2, 3], format="float32")])
    assert MIN_PSNR["fp16"] < psnr(pictures["fp16"], pictures["fp32"]) < math.inf
    assert MIN_PSNR["int8"] < psnr(pictures["int8"], pictures["fp32"]) < psnr(pictures["fp16"], pictures["fp32"])


def test_a_precision_that_no_graph_has_is_refused_with_the_command_that_makes_it(plain: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match="impasto export tiny --precision int8"):
        impasto.load(plain.path, precision="int8")


def test_onnxruntime_on_a_cpu_is_refused_bf16(lowered: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match="backend torch"):
        impasto.load(lowered.path, precision="bf16", backend="onnxruntime")


def test_styles_a_thousand_times_as_large_leave_no_range(plain: Bundle, tmp_path: Path) -> None:
    tensors = load_file(plain.path / WEIGHTS)
    for name in tensors:
        if ".conv" in name and ".affine." in name:
            tensors[name] = tensors[name] * 1000.0
    config = StyleGAN2Config(**plain.manifest.config)
    large = open_bundle(publish_stylegan2(config, tensors, "large", tmp_path))
    found = open_bundle(add_precision(large, tmp_path, "fp16")).manifest.precisions["fp16"]
    assert found.psnr_db >= MIN_PSNR["fp16"]


def test_what_is_too_far_from_fp32_is_refused_and_leaves_nothing(
    plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(precision.MIN_PSNR, "fp16", 150.0)
    with pytest.raises(ExportError, match=r"^precision: fp16 has \d+\.\d dB against fp32 at seed \d+; allowed are 150"):
        add_precision(plain, tmp_path, "fp16")
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_is_refused_by_its_seed(plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(model: onnx.ModelProto, name: str, nodes: list[str]) -> onnx.ModelProto:
        for tensor in model.graph.initializer:
            if list(tensor.dims)[2:] == [3, 3]:
                values = onnx.numpy_helper.to_array(tensor) * 1e6
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return halve(model, name, nodes)

    monkeypatch.setattr(publish_precision, "halve", overflowing)
    with pytest.raises(ExportError, match="fp16 overflows at seed 0"):
        add_precision(plain, tmp_path, "fp16")


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    gan = open_bundle(write_tiny_family(tmp_path, "gan"))
    with pytest.raises(ExportError, match="'gan'"):
        add_precision(gan, tmp_path, "int8")


def test_only_dense_convolutions_from_32_on_are_lowered(lowered: Bundle) -> None:
    model = onnx.load(lowered.path / "synthesis.fp16.onnx")
    halves = {t.name: list(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    assert sorted(halves.values()) == [[16, 16, 3, 3], [16, 16, 3, 3]]
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in model.graph.output)
    eight = onnx.load(lowered.path / "synthesis.int8.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in eight.graph.node) >= len(halves)


def test_bfloat16_rounds_as_torch_does() -> None:
    weight = torch.randn(4, 3, 3, 3)
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20]>
        layer (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), "w"))
    model.graph.node[0].name = "conv"
    assert dense_convolutions(model) == ["conv"]
    half = halve(model, "bf16", ["conv"])
    onnx.checker.check_model(half, full_check=True)
    x = torch.randn(2, 3, 8, 8)
    session = publish_precision._session(without_bfloat16(half).SerializeToString())
    found = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    products = torch.nn.functional.conv2d(x.bfloat16().double(), weight.bfloat16().double(), padding=1)
    expected = products.bfloat16().float()
    assert (found == expected).float().mean() > 0.98  # a sum on the edge between two may go to either
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0)


def test_ssim_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (2, 3, 24, 20)).astype(np.float32)
    b = (a + rng.normal(0, 0.2, a.shape)).astype(np.float32)
    expected = [
        structural_similarity(
            x.astype(np.float64), y.astype(np.float64), channel_axis=0, data_range=2.0, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False,
        )
        for x, y in zip(a, b, strict=True)
    ]  # fmt: skip
    assert ssim(a, b) == pytest.approx(np.mean(expected), abs=1e-6)
    assert ssim(a, a) == 1.0
