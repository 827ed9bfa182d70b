"""The generator through the kernels, in Triton's interpreter, against the textbook in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from benchmarks.textbook_stylegan2 import textbook_mapping, textbook_synthesis
from impasto.generators.stylegan2 import StyleGAN2, StyleGAN2Config, truncate
from impasto.generators.stylegan2_kernels import KernelMapping, KernelSynthesis
from impasto.kernels import routing
from impasto.kernels.routing import Shape
from tests.support.generators import random_generator

CONFIG = StyleGAN2Config(16, z_dim=6, w_dim=5, mapping_layers=2, channel_base=96, channel_max=20, conv_clamp=2.0)
CPU = torch.device("cpu")
LIBRARY = {
    Shape(20, 20, 4, 4, up=False).key: "cudnn",
    Shape(20, 12, 4, 4, up=True).key: "cudnn folded",
    Shape(12, 6, 8, 8, up=True).key: "cudnn transposed",
}
"""A table in which three of the five layers are the library's."""


def _inputs(generator: StyleGAN2, n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, generator.config.num_ws, 5), torch.randn(n, generator.config.noise_size)


@pytest.mark.parametrize("table", [{}, LIBRARY], ids=["ours", "library's"])
@pytest.mark.parametrize(("dtype", "psnr"), [(torch.float32, 110.0), (torch.float16, 60.0)], ids=str)
def test_pictures_are_those_of_the_textbook(dtype: torch.dtype, psnr: float, table: dict[str, str]) -> None:
    generator = random_generator(CONFIG)
    ws, noise = _inputs(generator, 2)
    found = KernelSynthesis(generator.synthesis, dtype, CPU, table)(ws, noise)
    expected = textbook_synthesis(generator.double(), ws.double(), noise.double())
    assert found.dtype is torch.float32
    assert 10 * math.log10(2.0**2 / (found - expected).square().mean().item()) > psnr


def test_the_table_of_the_test_above_names_layers_of_the_generator() -> None:
    sides = {resolution: CONFIG.channels(resolution) for resolution in CONFIG.resolutions}
    plain = [Shape(channels, channels, side, side, up=False) for side, channels in sides.items()]
    up = [
        Shape(sides[side // 2], channels, side // 2, side // 2, up=True) for side, channels in sides.items() if side > 4
    ]
    keys = {shape.key for shape in plain + up}
    assert LIBRARY.keys() <= keys
    assert len(keys) == 5


def test_a_row_is_the_same_alone_and_in_a_batch() -> None:
    generator = random_generator(CONFIG)
    ws, noise = _inputs(generator, 3)
    synthesis = KernelSynthesis(generator.synthesis, torch.float16, CPU, {})
    together = synthesis(ws, noise)
    for row in range(3):
        assert torch.equal(synthesis(ws[row : row + 1], noise[row : row + 1])[0], together[row])


@pytest.mark.parametrize("classes", [0, 3])
def test_ws_are_those_of_the_textbook_alone_and_in_a_batch(classes: int) -> None:
    generator = random_generator(dataclasses.replace(CONFIG, c_dim=classes))
    mapping = KernelMapping(generator.mapping, CPU)
    z, psi = torch.randn(3, 6), torch.rand(3, CONFIG.num_ws)
    c = torch.eye(3) if classes else None
    found = mapping(z, psi, c)
    alone = [mapping(z[i : i + 1], psi[i : i + 1], None if c is None else c[i : i + 1]) for i in range(3)]
    assert torch.equal(found, torch.cat(alone))
    generator.double()
    w = textbook_mapping(generator, z.double(), None if c is None else c.double())
    assert (found - truncate(w, generator.mapping.w_avg, psi.double())).abs().max() < 1e-5


def test_a_generator_uses_the_route_of_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def route(shape: Shape, dtype: torch.dtype, **options: object) -> str:
        asked.append((shape.key, dtype))
        return "reference"

    monkeypatch.setattr(routing, "route", route)
    generator = random_generator(CONFIG)
    KernelSynthesis(generator.synthesis, torch.float16, CPU, {})
    assert [key for key, _ in asked] == ["20→20 4×4", "20→12 up 4×4", "12→12 8×8", "12→6 up 8×8", "6→6 16×16"]
    assert {dtype for _, dtype in asked} == {torch.float16}
