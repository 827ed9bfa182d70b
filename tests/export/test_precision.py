"""Graphs of lower precision: near float32, never out of range, refused where they are not, and served by name."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import load_file
from skimage.metrics import structural_similarity

import impasto
from impasto.engine.registry import open_engine
from impasto.errors import BackendUnavailable, ExportError
from impasto.export import precision, publish_precision
from impasto.export.bundle import WEIGHTS, ZOO, Bundle, open_bundle
from impasto.export.graph_file import save_graph
from impasto.export.lowerable import GRAPHS
from impasto.export.parity import psnr, ssim
from impasto.export.precision import HALVES, MIN_PSNR, computed_wide, dense_convolutions, halve, products, widened
from impasto.export.publish import publish_stylegan2
from impasto.export.publish_precision import add_precision
from impasto.generators.stylegan2_config import StyleGAN2Config
from tests.support.bundles import write_tiny_bundle, write_tiny_stylegan3
from tests.support.diffusion import write_tiny_diffusion
from tests.support.image_to_image import label_map, scene

SMALL = {"resolution": 32, "channel_base": 512, "channel_max": 16, "conv_clamp": 256.0}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


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
    assert lowered.manifest.version == "5"
    assert list(lowered.manifest.precisions) == ["fp16", "bf16", "int8", "fp8"]
    assert set(lowered.manifest.files) - set(plain.manifest.files) == {f"synthesis.{name}.onnx" for name in MIN_PSNR}
    for name, found in lowered.manifest.precisions.items():
        assert (found.pictures, found.output, found.kept) == (64, "image_float", ())
        assert MIN_PSNR[name] <= found.psnr_db <= found.mean_psnr_db < 110.0
        assert 0.8 < found.ssim < 1.0
    files = plain.manifest.files
    assert {name: lowered.manifest.files[name] for name in files} == files


def test_the_pictures_of_a_precision_are_asked_for_by_its_name(lowered: Bundle) -> None:
    pictures = {}
    for name in ("fp32", "fp16", "int8", "fp8"):
        with impasto.load(lowered.path, precision=name) as generator:
            pictures[name] = np.stack([p.image_float for p in generator.generate(seeds=[1, 2, 3], format="float32")])
    assert MIN_PSNR["fp16"] < psnr(pictures["fp16"], pictures["fp32"]) < math.inf
    for name in ("int8", "fp8"):
        assert MIN_PSNR[name] < psnr(pictures[name], pictures["fp32"]) < psnr(pictures["fp16"], pictures["fp32"])


def test_a_precision_that_no_graph_has_is_refused_with_the_command_that_makes_it(plain: Bundle) -> None:
    for name in ("int8", "fp8"):
        with pytest.raises(BackendUnavailable, match=f"impasto export tiny --precision {name}"):
            impasto.load(plain.path, precision=name)


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
    for name in ("fp16", "fp8"):
        found = open_bundle(add_precision(large, tmp_path, name)).manifest.precisions[name]
        assert found.psnr_db >= MIN_PSNR[name]


def test_what_is_too_far_from_fp32_is_refused_and_leaves_nothing(
    plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fp16", "int8"):
        monkeypatch.setitem(precision.MIN_PSNR, name, 150.0)
        line = rf"^precision: {name} has \d+\.\d dB against fp32 at seed \d+; allowed are 150"
        with pytest.raises(ExportError, match=line):
            add_precision(plain, tmp_path, name)
        assert list(tmp_path.iterdir()) == []


def test_convolutions_that_take_fp8_below_its_threshold_stay_in_float32_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_bundle(write_tiny_bundle(tmp_path, **SMALL | {"resolution": 64, "c_dim": 0}))
    lowered = open_bundle(add_precision(plain, tmp_path, "fp8"))
    assert lowered.manifest.precisions["fp8"].kept == ()
    assert len(eight_bit_weights(lowered)) == 3
    wanted = lowered.manifest.precisions["fp8"].psnr_db + 0.5
    monkeypatch.setitem(precision.MIN_PSNR, "fp8", wanted)
    mixed = open_bundle(add_precision(plain, tmp_path, "fp8"))
    found = mixed.manifest.precisions["fp8"]
    assert found.psnr_db >= wanted
    (kept,) = found.kept
    assert kept in ("b32_conv1", "b64_conv0", "b64_conv1")
    assert len(eight_bit_weights(mixed)) == 2
    monkeypatch.setitem(precision.MIN_PSNR, "fp8", 150.0)
    told: list[str] = []
    with pytest.raises(ExportError, match="allowed are 150"):
        add_precision(plain, tmp_path, "fp8", told.append)
    assert [line for line in told if "stays" in line] == [f"{kept} stays in fp32"], "no more than half of them"


def eight_bit_weights(bundle: Bundle) -> list[onnx.TensorProto]:
    constants = onnx.load(bundle.path / "synthesis.fp8.onnx").graph.initializer
    return [tensor for tensor in constants if tensor.data_type == TensorProto.FLOAT8E4M3FN and len(tensor.dims) == 4]


def test_an_overflow_is_refused_by_its_seed(plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(model: onnx.ModelProto, name: str, nodes: list[str]) -> onnx.ModelProto:
        weights = {node.input[1] for node in model.graph.node if node.name in nodes}
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                values = numpy_helper.to_array(tensor) * np.float32(1e6)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return halve(model, name, nodes)

    monkeypatch.setattr(publish_precision, "halve", overflowing)
    with pytest.raises(ExportError, match="fp16 overflows at seed 0"):
        add_precision(plain, tmp_path, "fp16")


def test_only_dense_convolutions_from_32_on_are_lowered(lowered: Bundle) -> None:
    model = onnx.load(lowered.path / "synthesis.fp16.onnx")
    halves = {t.name: list(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    assert sorted(halves.values()) == [[16, 16, 3, 3], [16, 16, 3, 3]]
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in model.graph.output)
    # As one convolution, the first up-sampling layer works at half the side, and so in float32.
    assert [list(tensor.dims) for tensor in eight_bit_weights(lowered)] == [[16, 16, 3, 3]]
    eight = onnx.load(lowered.path / "synthesis.int8.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in eight.graph.node) >= 1


def graph_of(body: str, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """x [N, 3, 8, 8] to y; every node is named by its output."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        layers (float[N, 3, 8, 8] x) => (float[N, C, H, W] y) {{ {body} }}"""
    )
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def ran(model: onnx.ModelProto, **feeds: np.ndarray) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("name", HALVES)
def test_a_convolution_rounds_what_it_takes_and_gives_as_torch_does(name: str) -> None:
    dtype = DTYPES[name]
    weight = torch.randn(4, 3, 3, 3)
    model = graph_of("y = Conv <pads = [1, 1, 1, 1]> (x, w)", {"w": weight.numpy()})
    assert dense_convolutions(model) == products(model) == ["y"]
    half = halve(model, name, ["y"])
    onnx.checker.check_model(half, full_check=True)
    x = torch.randn(2, 3, 8, 8)
    found = torch.from_numpy(ran(computed_wide(half), x=x.numpy()))
    sums = torch.nn.functional.conv2d(x.to(dtype).double(), weight.to(dtype).double(), padding=1)
    expected = sums.to(dtype).float()
    assert (found == expected).float().mean() > 0.98  # a sum on the edge between two may go to either
    torch.testing.assert_close(found, expected, rtol=torch.finfo(dtype).eps, atol=0)


def test_a_sum_that_float16_cannot_hold_shows_though_onnxruntime_adds_in_float32() -> None:
    model = graph_of("y = Conv (x, w)", {"w": np.full((4, 3, 1, 1), 3e4, np.float32)})
    half = halve(model, "fp16", ["y"])
    x = np.ones((1, 3, 8, 8), np.float32)
    assert np.isinf(ran(computed_wide(half), x=x)).all()
    np.testing.assert_array_equal(ran(computed_wide(half), x=0.5 * x), np.full((1, 4, 8, 8), np.float16(45e3)))


def test_what_carries_results_on_is_in_16_bits_and_what_sums_or_normalises_is_not() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.2, (3, 3, 3, 3)).astype(np.float32)
    model = graph_of(
        """
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (a)
        b = Conv <pads = [1, 1, 1, 1]> (r, w)
        s = Add (a, b)
        n = InstanceNormalization (s, one, zero)
        m = Mul (n, two)
        e = MatMul (m, v)
        p = Softmax (e)
        q = Add (p, x)
        y = Concat <axis = 1> (q, s)
        """,
        {
            "w": weight,
            "v": rng.normal(0, 0.4, (8, 8)).astype(np.float32),
            "one": np.ones(3, np.float32),
            "zero": np.zeros(3, np.float32),
            "two": np.float32(2.0),
        },
    )
    assert products(model) == ["a", "b", "e"]
    half = halve(model, "fp16", products(model))
    onnx.checker.check_model(half, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    carried = {node.name: types.get(node.output[0]) for node in half.graph.node if node.op_type != "Cast"}
    halves = {name for name, dtype in carried.items() if dtype == TensorProto.FLOAT16}
    assert halves == {"a", "r", "b", "s", "e"}
    casts = [node.output[0] for node in half.graph.node if node.op_type == "Cast"]
    assert sorted(casts) == ["e", "m.half", "s", "x.half"], "no result goes through float32 on its way"
    x = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    exact = ran(model, x=x)
    assert 0 < np.abs(ran(computed_wide(half), x=x) - exact).max() < 0.01 * np.abs(exact).max()


def test_what_an_index_is_chosen_from_stays_in_float32() -> None:
    constants = {"w": np.ones((5, 3, 1, 1), np.float32), "v": np.ones((3, 3, 3, 3), np.float32)}
    model = graph_of(
        """
        d = Conv (x, w)
        i = ArgMin <axis = 1, keepdims = 1> (d)
        f = Cast <to = 1> (i)
        o = Mul (f, x)
        y = Conv <pads = [1, 1, 1, 1]> (o, v)
        """,
        constants,
    )
    assert products(model) == ["y"]


def test_constants_that_a_file_keeps_in_half_the_bytes_are_float32_again() -> None:
    half = np.arange(81, dtype=np.float16).reshape(3, 3, 3, 3)
    model = graph_of("w = Cast <to = 1> (h) y = Conv <pads = [1, 1, 1, 1]> (x, w)", {"h": half})
    assert products(model) == []
    wide = widened(model)
    assert [node.op_type for node in wide.graph.node] == ["Conv"]
    assert products(wide) == ["y"]
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(ran(wide, x=x), ran(model, x=x))


@pytest.fixture(scope="module")
def of_families(models: Path, family_models: Path, image_to_image_models: Path) -> dict[str, Path]:
    """A bundle of every family but stylegan2."""
    return {
        "stylegan3": write_tiny_stylegan3(models),
        "diffusion": write_tiny_diffusion(models, "sd15"),
        **{family: family_models / family / "1" for family in ("gan", "vae", "vq")},
        **{family: image_to_image_models / family / "1" for family in ("residual", "spade")},
    }


REQUESTS: dict[str, dict[str, Any]] = {
    "stylegan3": {"seeds": 1},
    "diffusion": {"seeds": 1, "prompt": "night", "steps": 3},
    "gan": {"seeds": 1},
    "vae": {"seeds": 1},
    "vq": {"codes": np.random.default_rng(0).integers(0, 16, (8, 8))},
    "residual": {"image": scene(64, 64)},
    "spade": {"seeds": 1, "image": label_map(64, 64)},
}
"""Of one picture of each."""


@pytest.mark.parametrize("family", [family for family in GRAPHS if family != "stylegan2"])
def test_every_family_has_16_bits(family: str, of_families: dict[str, Path], tmp_path: Path) -> None:
    bundle = open_bundle(of_families[family])
    added = ["fp16"] if family == "gan" else ["fp16", "bf16"]  # for which these random weights are too far off
    for name in added:
        bundle = open_bundle(add_precision(bundle, tmp_path, name))
        found = bundle.manifest.precisions[name]
        assert MIN_PSNR[name] <= found.psnr_db <= found.mean_psnr_db < 110.0
        assert found.output == ("denoiser.output" if family == "diffusion" else "image_float")
        graph = onnx.load(bundle.path / f"{GRAPHS[family]}.{name}.onnx")
        assert {t.data_type for t in graph.graph.initializer} >= {HALVES[name]}
    pictures = {}
    for name in ("fp32", "fp16"):
        with impasto.load(bundle.path, precision=name) as generator:
            (picture,) = generator.generate(format="float32", **REQUESTS[family])
            pictures[name] = picture.image_float
    assert MIN_PSNR["fp16"] < psnr(pictures["fp16"], pictures["fp32"]) < math.inf
    engine = open_engine(bundle, precision="fp16")
    assert engine.backend == "onnxruntime-fp16"
    engine.close()
    with pytest.raises(BackendUnavailable, match="onnxruntime has no bf16 convolutions on a CPU; remedy: precision"):
        open_engine(bundle, precision="bf16")


def test_a_family_that_cannot_is_told_which_can(of_families: dict[str, Path], tmp_path: Path) -> None:
    gan, starry = open_bundle(of_families["gan"]), open_bundle(ZOO / "starry" / "1", verify=False)
    with pytest.raises(ExportError) as refused:
        add_precision(gan, tmp_path, "fp8")
    assert str(refused.value) == (
        "precision: found 'fp8' for family 'gan'; allowed is fp32, fp16, bf16: there is fp8 of stylegan2"
    )
    manifest = starry.manifest.model_copy(update={"family": "null"})
    with pytest.raises(ExportError, match=r"for family 'null'; allowed is fp32: there is fp16 of stylegan2, stylegan3"):
        add_precision(Bundle(starry.path, manifest), tmp_path, "fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_gan_that_bf16_takes_too_far_is_refused(of_families: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"precision: bf16 has 3\d\.\d dB against fp32"):
        add_precision(open_bundle(of_families["gan"]), tmp_path, "bf16")


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    of_families: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_precision, "save_graph", functools.partial(save_graph, external_above=0))
    added = open_bundle(add_precision(open_bundle(of_families["diffusion"]), tmp_path, "fp16"))
    assert "denoiser.fp16.onnx.data" in added.manifest.files
    assert added.manifest.precisions["fp16"].psnr_db > MIN_PSNR["fp16"]


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
