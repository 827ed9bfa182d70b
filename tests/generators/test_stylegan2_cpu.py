from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from benchmarks.textbook_stylegan2 import textbook_synthesis
from impasto.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from impasto.generators.stylegan2_cpu import bfloat16_synthesis, float32_synthesis, one_thread
from tests.support.generators import random_generator

CONFIG = StyleGAN2Config(64, z_dim=8, w_dim=8, mapping_layers=1, channel_base=1024, channel_max=48)
CLAMPED = dataclasses.replace(CONFIG, conv_clamp=1.5)


def _inputs(generator: StyleGAN2) -> tuple[Tensor, Tensor]:
    return torch.randn(1, generator.config.num_ws, 8), torch.randn(1, generator.config.noise_size)


def _psnr(found: Tensor, expected: Tensor) -> float:
    return 10 * math.log10(2.0**2 / (found - expected).square().mean().item())


@pytest.mark.parametrize("config", [CONFIG, CLAMPED], ids=["free", "clamped"])
def test_both_precisions_come_close_to_the_textbook_in_float64(config: StyleGAN2Config) -> None:
    generator = random_generator(config)
    ws, noise = _inputs(generator)
    float32, bfloat16 = (make(generator.synthesis)(ws, noise) for make in (float32_synthesis, bfloat16_synthesis))
    expected = textbook_synthesis(generator.double(), ws.double(), noise.double())
    assert (float32 - expected).abs().max() < 1e-4
    assert 48 < _psnr(bfloat16.double(), expected) < 80
    assert bfloat16.dtype is torch.float32


def test_the_clamp_is_within_reach_of_the_test_above() -> None:
    generator = random_generator(CONFIG)
    ws, noise = _inputs(generator)
    free = bfloat16_synthesis(generator.synthesis)(ws, noise)
    clamped = bfloat16_synthesis(random_generator(CLAMPED).synthesis)(ws, noise)
    assert _psnr(clamped, free) < 40


def test_bytes_do_not_depend_on_the_number_of_threads() -> None:
    generator = random_generator(CONFIG)
    ws, noise = _inputs(generator)
    network = bfloat16_synthesis(generator.synthesis)
    threads = torch.get_num_threads()
    with one_thread():
        expected = network(ws, noise)
    try:
        for count in (2, 3, 4):
            torch.set_num_threads(count)
            assert torch.equal(network(ws, noise), expected)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
