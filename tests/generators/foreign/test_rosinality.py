"""Files of rosinality/stylegan2-pytorch, in both forms of torch.save."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import Checkpoint, read_checkpoint
from impasto.generators.foreign.rosinality import our_name
from impasto.generators.stylegan2_config import StyleGAN2Config
from tests.support.generators import TINY, random_generator
from tests.support.rosinality import rosinality_state, torch_file

CONFIGS = [TINY, StyleGAN2Config(64, z_dim=8, w_dim=8, channel_base=1024, channel_max=32, mapping_layers=8)]


def read(path: Path, value: Any, *, zipped: bool = True) -> Checkpoint:
    path.write_bytes(torch_file(value, zipped=zipped))
    return read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("config", CONFIGS, ids=["tiny", "64"])
def test_every_tensor_comes_back_under_our_name(config: StyleGAN2Config, zipped: bool, tmp_path: Path) -> None:
    generator = random_generator(config)
    value = {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}
    checkpoint = read(tmp_path / "a.pt", value, zipped=zipped)
    assert checkpoint.config == config
    assert checkpoint.source == "rosinality"
    assert checkpoint.details == {"network": "g_ema", "w_avg": "latent_avg"}
    expected = generator.state_dict()
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name], tensor), name


def test_a_training_state_is_read_past_optimisers_and_arguments(tmp_path: Path) -> None:
    generator = random_generator(TINY)
    state = rosinality_state(generator)
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    value = {
        "g": state,
        "d": {"convs.0.0.weight": torch.ones(2)},
        "g_ema": state,
        "g_optim": optimiser.state_dict(),
        "args": argparse.Namespace(path="a", size=8, mixing=0.9),
        "ada_aug_p": 0.25,
    }
    assert read(tmp_path / "a.pt", value).config == TINY


def test_without_latent_avg_the_mean_of_w_is_estimated(tmp_path: Path) -> None:
    generator = random_generator(dataclasses.replace(TINY, z_dim=16, w_dim=16))
    checkpoint = read(tmp_path / "a.pt", {"g_ema": rosinality_state(generator)})
    assert checkpoint.details["w_avg"] == "the mean of 10000 draws"
    z = torch.from_numpy(np.random.RandomState(7).randn(20_000, 16)).float()
    w = generator.mapping(z)
    error = (checkpoint.tensors["mapping.w_avg"] - w.mean(dim=0)).abs()
    assert torch.all(error < 5 * w.std(dim=0) / 10_000**0.5)
    again = read(tmp_path / "a.pt", {"g_ema": rosinality_state(generator)})
    assert torch.equal(again.tensors["mapping.w_avg"], checkpoint.tensors["mapping.w_avg"])


def test_a_latent_avg_with_a_batch_dimension_is_taken(tmp_path: Path) -> None:
    generator = random_generator(TINY)
    value = {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg[None]}
    assert torch.equal(read(tmp_path / "a.pt", value).tensors["mapping.w_avg"], generator.mapping.w_avg)


def test_tensors_with_their_dimensions_in_another_order_come_back(tmp_path: Path) -> None:
    generator = random_generator(dataclasses.replace(TINY, channel_max=3))
    state = rosinality_state(generator)
    weight = state["convs.1.conv.weight"]
    state["convs.1.conv.weight"] = weight.permute(0, 4, 3, 2, 1).contiguous().permute(0, 4, 3, 2, 1)
    checkpoint = read(tmp_path / "a.pt", {"g_ema": state})
    assert torch.equal(checkpoint.tensors["synthesis.b8.conv1.weight"], generator.synthesis.b8.conv1.weight)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("style.1.weight", "mapping.fc0.weight"),
        ("style.8.bias", "mapping.fc7.bias"),
        ("input.input", "synthesis.b4.const"),
        ("conv1.conv.modulation.bias", "synthesis.b4.conv1.affine.bias"),
        ("convs.0.conv.weight", "synthesis.b8.conv0.weight"),
        ("convs.1.activate.bias", "synthesis.b8.conv1.bias"),
        ("convs.14.noise.weight", "synthesis.b1024.conv0.noise_strength"),
        ("to_rgb1.conv.weight", "synthesis.b4.torgb.weight"),
        ("to_rgbs.7.bias", "synthesis.b1024.torgb.bias"),
        ("noises.noise_0", "synthesis.b4.conv1.noise_const"),
        ("noises.noise_1", "synthesis.b8.conv0.noise_const"),
        ("noises.noise_16", "synthesis.b1024.conv1.noise_const"),
    ],
)
def test_names_translate(key: str, name: str) -> None:
    assert our_name(key)[0] == name


def _changed(changes: dict[str, Any]) -> dict[str, Any]:
    state = rosinality_state(random_generator(TINY)) | changes
    return {"g_ema": {key: value for key, value in state.items() if value is not None}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"d": {}, "d_optim": {}}, r"found only a discriminator in a torch file \('d', 'd_optim'\)"),
        ({"state_dict": {}}, r"found no generator in a torch file \('state_dict'\); a rosinality file has it in g_ema"),
        ({}, r"found no generator in a torch file \(nothing\)"),
        ([1], r"found no generator in a torch file \(\[1\]\)"),
        ({"g_ema": 3}, "found no generator in a torch file"),
        ({"g_ema": {}}, "found no block of a synthesis network"),
        (_changed({"convs.0.conv.weight": None}), "tensors are missing: 'synthesis.b8.conv0.weight'"),
        (_changed({"style.1.weight": None}), "mapping.fc0.weight: found none"),
        (_changed({"other.weight": torch.ones(1)}), "found the tensor 'other.weight', which no StyleGAN2"),
        (_changed({"convs.999999999.conv.weight": torch.ones(1)}), "found the tensor 'convs.999999999.conv.weight'"),
        (_changed({"convs.99.conv.weight": torch.ones(1)}), "tensors are unknown to StyleGAN2"),
        (_changed({"noises.noise_0": torch.ones(1, 1, 5, 5)}), r"b4.conv1.noise_const: found the shape \[5, 5\]"),
        (_changed({"input.input": torch.ones(2, 4, 4, 4)}), r"b4.const: found the shape \[2, 4, 4, 4\]"),
        (_changed({"conv1.activate.bias": torch.ones(4, dtype=torch.int32)}), "b4.conv1.bias: found torch.int32"),
        (_changed({"conv1.activate.bias": torch.full((4,), torch.inf)}), "b4.conv1.bias: found NaN or infinite"),
        (_changed({"conv1.activate.bias": "text"}), "g_ema: found 'text' under 'conv1.activate.bias'"),
        (_changed({"to_rgbs.0.upsample.kernel": torch.ones(4, 4)}), "found another resampling filter"),
        (_changed({"to_rgbs.0.upsample.kernel": torch.ones(2, 2)}), r"found torch.float32 \[2, 2\]"),
        (_changed({}) | {"latent_avg": 3}, "latent_avg: found 3; allowed is a tensor"),
        (_changed({}) | {"latent_avg": torch.ones(5)}, r"mapping.w_avg: found the shape \[5\]"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_no_generator_of_rosinality_is_named(value: Any, message: str, zipped: bool, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pt", value, zipped=zipped)
