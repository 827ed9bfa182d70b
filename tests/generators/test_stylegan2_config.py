"""Hyperparameters of StyleGAN2 and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config


@pytest.mark.parametrize(
    ("resolution", "num_ws", "noise_size"),
    [(4, 2, 16), (8, 4, 144), (64, 10, 10_896), (256, 14, 174_736), (512, 16, 699_024), (1024, 18, 2_796_176)],
)
def test_rows_of_ws_and_length_of_noise(resolution: int, num_ws: int, noise_size: int) -> None:
    config = StyleGAN2Config(resolution)
    assert config.num_ws == num_ws
    assert config.noise_size == noise_size
    assert len(config.noise_shapes) == num_ws - 1


def test_the_published_generator_at_1024_has_its_number_of_parameters() -> None:
    """30,370,060 with 28,268,812 of them in the synthesis network, as published for config F."""
    with torch.device("meta"):
        generator = StyleGAN2(StyleGAN2Config(1024))
    assert sum(parameter.numel() for parameter in generator.parameters()) == 30_370_060
    assert sum(parameter.numel() for parameter in generator.synthesis.parameters()) == 28_268_812


def test_channels_at_1024() -> None:
    config = StyleGAN2Config(1024, channel_base=32768)
    assert [config.channels(r) for r in config.resolutions] == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in StyleGAN2(config).state_dict().items()}
    assert shapes["synthesis.b4.const"] == (512, 4, 4)
    assert shapes["synthesis.b128.conv0.weight"] == (256, 512, 3, 3)
    assert shapes["synthesis.b128.conv0.affine.weight"] == (512, 512)
    assert shapes["synthesis.b1024.conv1.weight"] == (32, 32, 3, 3)
    assert shapes["synthesis.b1024.conv1.noise_const"] == (1024, 1024)
    assert shapes["synthesis.b1024.torgb.weight"] == (3, 32, 1, 1)
    assert shapes["synthesis.b1024.torgb.affine.weight"] == (32, 512)
    assert shapes["synthesis.b1024.conv0.noise_strength"] == ()
    assert shapes["mapping.fc7.weight"] == (512, 512)
    assert shapes["mapping.w_avg"] == (512,)
    assert "synthesis.b4.conv0.weight" not in shapes
    assert "mapping.embed.weight" not in shapes


def test_state_of_a_conditional_generator() -> None:
    with torch.device("meta"):
        state = StyleGAN2(StyleGAN2Config(8, z_dim=3, w_dim=5, c_dim=7, mapping_layers=2)).state_dict()
    assert state["mapping.embed.weight"].shape == (5, 7)
    assert state["mapping.fc0.weight"].shape == (5, 3 + 5)
    assert state["mapping.fc1.weight"].shape == (5, 5)


@pytest.mark.parametrize(
    ("num_fp16_res", "expected"),
    [(0, []), (1, [64]), (3, [16, 32, 64]), (4, [8, 16, 32, 64]), (9, [8, 16, 32, 64])],
)
def test_the_highest_resolutions_may_run_in_half(num_fp16_res: int, expected: list[int]) -> None:
    config = StyleGAN2Config(64, num_fp16_res=num_fp16_res)
    assert [r for r in config.resolutions if config.runs_in_half(r)] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 0}, "resolution: found 0; allowed is a power of two from 4 to 1024"),
        ({"resolution": -8}, "resolution: found -8"),
        ({"resolution": 2}, "resolution: found 2"),
        ({"resolution": 100}, "resolution: found 100"),
        ({"resolution": 2048}, "resolution: found 2048"),
        ({"z_dim": 0}, "z_dim: found 0; allowed is 1 or more"),
        ({"w_dim": -1}, "w_dim: found -1"),
        ({"img_channels": 0}, "img_channels: found 0"),
        ({"mapping_layers": 0}, "mapping_layers: found 0"),
        ({"channel_max": 0}, "channel_max: found 0"),
        ({"c_dim": -1}, "c_dim: found -1; allowed is 0 or more"),
        ({"channel_base": 63}, "channel_base: found 63; allowed is 64 or more"),
    ],
)
def test_impossible_hyperparameters_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StyleGAN2Config(**{"resolution": 64} | changes)
