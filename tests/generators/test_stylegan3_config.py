"""Hyperparameters of StyleGAN3 and the geometry that follows from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config

T = StyleGAN3Config(1024)
R = StyleGAN3Config(1024, channel_base=65536, channel_max=1024, conv_kernel=1, radial_filters=True)


def test_the_layers_of_configuration_t_at_1024_have_their_published_names() -> None:
    names = (
        "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 L8_276_203 L9_532_128 "
        "L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3"
    )
    assert [layer.name for layer in T.layers] == names.split()
    assert T.num_ws == 16


def test_the_published_generator_at_1024_has_its_number_of_parameters() -> None:
    """22.3 million for configuration T (Karras et al. 2021, Figure 3)."""
    with torch.device("meta"):
        generator = StyleGAN3(T)
    assert sum(parameter.numel() for parameter in generator.parameters()) == 22_313_167


def test_cutoffs_rates_and_factors_at_1024() -> None:
    assert [signal.rate for signal in T.signals] == [16, 16, 32, 32, 64, 128, 128, 256, 256, 512, *[1024] * 5]
    assert [T.signals[index].cutoff for index in (0, 3, 6, 9)] == pytest.approx([2.0, 8.0, 32.0, 128.0])
    assert [signal.cutoff for signal in T.signals[12:]] == pytest.approx([512.0] * 3)
    assert [layer.up for layer in T.layers] == [2, 2, 4, 2, 4, 4, 2, 4, 2, 4, 4, 2, 2, 2, 1]
    assert [layer.down for layer in T.layers] == [2] * 14 + [1]


def test_configuration_r_has_radial_filters_but_in_the_two_critical_layers() -> None:
    assert [layer.radial for layer in R.layers] == [True] * 12 + [False] * 3
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in StyleGAN3(R).state_dict().items()}
    assert shapes["synthesis.L0_36_1024.down_filter"] == (12, 12)
    assert shapes["synthesis.L2_52_1024.up_filter"] == (24,)
    assert shapes["synthesis.L13_1024_64.down_filter"] == (12,)
    assert shapes["synthesis.L0_36_1024.weight"] == (1024, 1024, 1, 1)
    assert "synthesis.L14_1024_3.down_filter" not in shapes


def test_state_of_a_generator_has_the_names_of_official_files() -> None:
    with torch.device("meta"):
        state = StyleGAN3(dataclasses.replace(T, c_dim=7)).state_dict()
    layer = ("weight", "bias", "magnitude_ema", "affine.weight", "affine.bias", "up_filter", "down_filter")
    expected = {f"synthesis.{place.name}.{name}" for place in T.layers for name in layer[: 5 if place.is_torgb else 7]}
    names = ("weight", "freqs", "phases", "transform", "affine.weight", "affine.bias")
    expected |= {f"synthesis.input.{name}" for name in names}
    expected |= {f"mapping.{layer}.{name}" for layer in ("fc0", "fc1", "embed") for name in ("weight", "bias")}
    assert set(state) == expected | {"mapping.w_avg"}
    assert state["mapping.fc0.weight"].shape == (512, 1024)
    assert state["synthesis.L7_276_323.magnitude_ema"].shape == ()


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256, 512, 1024])
@pytest.mark.parametrize("kernel", [1, 3])
def test_padding_is_the_same_on_either_side_of_what_is_upsampled(resolution: int, kernel: int) -> None:
    for layer in StyleGAN3Config(resolution, conv_kernel=kernel).layers[:-1]:
        before, after = layer.padding
        # After every sample come up − 1 zeros, which are padding too.
        assert before == after + layer.up - 1
        length = (layer.source.size + kernel - 1) * layer.up + before + after - (layer.up_taps - 1)
        assert (length - layer.down_taps) // layer.down + 1 == layer.target.size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 0}, "resolution: found 0; allowed is a power of two from 16 to 1024"),
        ({"resolution": 8}, "resolution: found 8"),
        ({"resolution": 100}, "resolution: found 100"),
        ({"resolution": 2048}, "resolution: found 2048"),
        ({"z_dim": 0}, "z_dim: found 0; allowed is 1 or more"),
        ({"mapping_layers": 0}, "mapping_layers: found 0"),
        ({"c_dim": -1}, "c_dim: found -1; allowed is 0 or more"),
        ({"num_layers": 2}, "num_layers: found 2; allowed is an integer from 3 to 32"),
        ({"num_layers": 33}, "num_layers: found 33"),
        ({"conv_kernel": 5}, "conv_kernel: found 5; allowed is 1 or 3"),
        ({"channel_base": 31}, "channel_base: found 31; allowed is 64 or more"),
    ],
)
def test_impossible_hyperparameters_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StyleGAN3Config(**{"resolution": 64} | changes)
