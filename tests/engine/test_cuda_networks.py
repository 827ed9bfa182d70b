"""What CUDA graphs hold, without a card: our kernels in Triton's interpreter, torch's operations on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from impasto.engine.cuda_networks import KernelNetworks, Networks, TorchNetworks
from impasto.engine.layer_noise import Noise
from impasto.generators.stylegan2 import StyleGAN2, truncate
from impasto.images.pixels import to_uint8
from tests.support.generators import TINY, random_generator

CPU = torch.device("cpu")


def _networks(generator: StyleGAN2, kind: str) -> Networks:
    if kind == "kernels":
        return KernelNetworks(generator, torch.float32, CPU, {})
    return TorchNetworks(generator, CPU)


def _on_device(feeds: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in feeds.items()}


@pytest.mark.parametrize("kind", ["kernels", "torch"])
def test_pictures_are_those_of_the_generator_in_every_noise_mode(kind: str) -> None:
    generator = random_generator(TINY)
    networks = _networks(generator, kind)
    ws = np.random.RandomState(1).randn(3, TINY.num_ws, TINY.w_dim).astype(np.float32)
    noise = Noise(("const", "random", "none"), (1, 2**32 - 1, 3), generator.synthesis.constant_noise().numpy())
    floats, bytes_, flags = networks.pictures(**_on_device(networks.feeds(ws, noise)))
    expected = generator.synthesis(torch.from_numpy(ws), torch.from_numpy(noise.rows()))
    torch.testing.assert_close(floats, expected, atol=1e-5, rtol=0)
    assert flags.tolist() == [0, 0, 0]
    for picture, pixels in zip(floats, bytes_, strict=True):
        np.testing.assert_array_equal(pixels.numpy(), to_uint8(picture.numpy()))


@pytest.mark.parametrize("kind", ["kernels", "torch"])
def test_ws_are_those_of_the_generator(kind: str) -> None:
    generator = random_generator(TINY)
    z, psi = torch.randn(2, TINY.z_dim), torch.rand(2, TINY.num_ws)
    (ws,) = _networks(generator, kind).mapping(z=z, psi=psi)
    expected = truncate(generator.mapping(z), generator.mapping.w_avg, psi)
    torch.testing.assert_close(ws, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["kernels", "torch"])
def test_a_picture_with_nan_is_flagged_and_black_there(kind: str) -> None:
    generator = random_generator(TINY)
    networks = _networks(generator, kind)
    ws = np.ones((2, TINY.num_ws, TINY.w_dim), np.float32)
    ws[1] = np.nan
    noise = Noise(("none", "none"), (0, 0), generator.synthesis.constant_noise().numpy())
    _, bytes_, flags = networks.pictures(**_on_device(networks.feeds(ws, noise)))
    assert flags.tolist() == [0, 1]
    assert bytes_[1].max() == 0
    assert bytes_[0].max() > 0
