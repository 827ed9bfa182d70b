from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from impasto.export.onnx import export_graph
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_frozen import Convolution, FrozenSynthesis, UpConvolution
from impasto.generators.stylegan2_graph import (
    MinimalConvolution,
    PhasedUpConvolution,
    graph_synthesis,
    minimal_filtering,
)
from tests.support.generators import random_generator

CONFIG = StyleGAN2Config(64, z_dim=8, w_dim=8, mapping_layers=1, channel_base=4096, channel_max=80, conv_clamp=2.0)
THIN = dataclasses.replace(CONFIG, channel_base=1024, channel_max=64)


def weight(outputs: int, inputs: int) -> Tensor:
    random = torch.Generator().manual_seed(outputs)
    return torch.randn(outputs, inputs, 3, 3, dtype=torch.float64, generator=random).div((9 * inputs) ** 0.5)


def features(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def convolutions(synthesis: nn.Module) -> dict[str, type]:
    return {name: type(layer.convolution) for name, layer in synthesis.named_children() if "conv" in name}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (16, 16), (16, 7)])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 3), (5, 2), (16, 16)])
def test_four_phases_are_the_transposed_convolution_and_its_filter(
    outputs: int, inputs: int, height: int, width: int
) -> None:
    x, w = features(3, inputs, height, width), weight(outputs, inputs)
    found = PhasedUpConvolution(w)(x)
    assert found.shape == (3, outputs, 2 * height, 2 * width)
    torch.testing.assert_close(found, UpConvolution(w)(x), atol=1e-13, rtol=0.0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 5), (64, 1)])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 3), (5, 2), (16, 16)])
def test_minimal_filtering_is_the_convolution(outputs: int, inputs: int, height: int, width: int) -> None:
    x, w = features(3, inputs, height, width), weight(outputs, inputs)
    torch.testing.assert_close(MinimalConvolution(w)(x), Convolution(w)(x), atol=1e-13, rtol=0.0)


def test_six_products_make_four_rows() -> None:
    b, g, a = minimal_filtering()
    x, w = features(6), features(3)
    expected = torch.stack([(w * x[row : row + 3]).sum() for row in range(4)])
    torch.testing.assert_close(a @ ((g @ w) * (b @ x)), expected, atol=1e-14, rtol=0.0)
    assert (a.shape, g.shape, b.shape) == ((4, 6), (6, 3), (6, 6))


def test_minimal_filtering_in_float32_errs_little_more_than_a_convolution() -> None:
    x, w = features(2, 256, 16, 16), weight(64, 256)
    expected = functional.conv2d(x, w, padding=1)

    def error(convolution: nn.Module) -> float:
        return float((convolution(x.float()).double() - expected).square().mean().sqrt() / expected.std())

    direct = error(Convolution(w.float()))
    assert direct < error(MinimalConvolution(w.float())) < 4.0 * direct < 4e-6


def test_wide_layers_are_rewritten_from_16_pixels_on() -> None:
    synthesis = random_generator(CONFIG).synthesis
    found, plain = convolutions(graph_synthesis(synthesis)), convolutions(FrozenSynthesis(synthesis))
    assert plain.keys() == found.keys()
    assert {name for name, kind in found.items() if kind is MinimalConvolution} == {
        "b16_conv1",
        "b32_conv1",
        "b64_conv1",
    }
    assert {name for name, kind in found.items() if kind is PhasedUpConvolution} == {"b32_conv0", "b64_conv0"}
    assert all(kind is plain[name] for name, kind in found.items() if name.startswith(("b4_", "b8_", "b16_conv0")))


def test_thin_layers_are_not_filtered_minimally() -> None:
    found = convolutions(graph_synthesis(random_generator(THIN).synthesis))
    assert [name for name, kind in found.items() if kind is MinimalConvolution] == ["b16_conv1"]


@pytest.mark.parametrize("config", [CONFIG, THIN])
def test_the_pictures_are_those_of_the_plain_generator_in_float64(config: StyleGAN2Config) -> None:
    generator = random_generator(config).double()
    ws = features(3, config.num_ws, config.w_dim)
    noise = features(3, config.noise_size)
    found = graph_synthesis(generator.synthesis).double()(ws, noise)
    torch.testing.assert_close(found, generator.synthesis(ws, noise), atol=1e-10, rtol=0.0)


def test_a_row_of_the_graph_has_the_same_bytes_alone_and_in_every_slot_and_number_of_threads(tmp_path: Path) -> None:
    generator = random_generator(CONFIG)
    ws = features(3, CONFIG.num_ws, CONFIG.w_dim).float()
    noise = features(3, CONFIG.noise_size).float()
    path = tmp_path / "synthesis.onnx"
    export_graph(graph_synthesis(generator.synthesis), [ws, noise], ["ws", "noise"], ["image_float"], path)
    pictures = []
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for rows in ([0], [1], [2], [0, 1, 2], [2, 1, 0]):
            (batch,) = session.run(None, {"ws": ws[rows].numpy(), "noise": noise[rows].numpy()})
            pictures.append({row: batch[slot] for slot, row in enumerate(rows)})
    for found in pictures:
        for row, picture in found.items():
            assert np.array_equal(picture, pictures[row][row])
    expected = generator.double().synthesis(ws.double(), noise.double()).numpy()
    assert np.abs(np.stack([pictures[row][row] for row in range(3)]) - expected).max() < 2e-5
