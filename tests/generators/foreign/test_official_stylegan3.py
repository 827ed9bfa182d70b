"""Official StyleGAN3 pickles and our own safetensors: what is read out of them, and by which name they are refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import Checkpoint, read_checkpoint
from impasto.generators.stylegan3 import StyleGAN3
from tests.support.generators import TINY3, TINY3_R, random_stylegan3
from tests.support.official_pickle import network, official_arguments, official_networks, pickled, touching

CONFIGS = {
    "T": TINY3,
    "R": TINY3_R,
    "conditional": dataclasses.replace(TINY3, c_dim=5, z_dim=6),
    "not clamped": dataclasses.replace(TINY3, conv_clamp=None, mapping_layers=3),
}
LAST = TINY3.layers[-1].name


def read(path: Path, content: bytes) -> Checkpoint:
    path.write_bytes(content)
    return read_checkpoint(path)


def assert_same_tensors(checkpoint: Checkpoint, generator: StyleGAN3) -> None:
    expected = generator.state_dict()
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name], tensor), name
        assert checkpoint.tensors[name].dtype == torch.float32


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_and_hyperparameter_comes_back(name: str, tmp_path: Path) -> None:
    generator = random_stylegan3(CONFIGS[name])
    networks = official_networks(generator)
    # A layer without resampling keeps its filters as None.
    networks["G_ema"].state["_modules"]["synthesis"].state["_modules"][LAST].state["_buffers"]["up_filter"] = None
    checkpoint = read(tmp_path / "a.pkl", pickled(networks))
    assert checkpoint.family == "stylegan3"
    assert checkpoint.config == generator.config
    assert checkpoint.source == "stylegan3 pickle"
    assert checkpoint.details == {"network": "G_ema"}
    assert_same_tensors(checkpoint, generator)


def test_the_source_text_of_the_file_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    read(tmp_path / "a.pkl", pickled(official_networks(random_stylegan3(TINY3), source=touching(marker))))
    assert not marker.exists()


def test_what_the_class_was_not_told_has_its_defaults(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY3, channel_base=32768, channel_max=512, num_layers=3, z_dim=4, w_dim=4)
    arguments = official_arguments(config)
    for name in ("channel_base", "channel_max", "num_layers", "conv_kernel", "use_radial_filters", "conv_clamp"):
        del arguments[name]
    content = pickled(official_networks(random_stylegan3(config), arguments=arguments))
    assert read(tmp_path / "a.pkl", content).config == config


def test_the_constants_of_the_geometry_may_be_stated(tmp_path: Path) -> None:
    stated = {
        "num_critical": 2,
        "first_cutoff": 2,
        "first_stopband": 2**2.1,
        "last_stopband_rel": 2**0.3,
        "margin_size": 10,
        "output_scale": 0.25,
        "filter_size": 6,
        "lrelu_upsampling": 2,
    }
    content = pickled(official_networks(random_stylegan3(TINY3), arguments=official_arguments(TINY3) | stated))
    assert read(tmp_path / "a.pkl", content).config == TINY3


def test_our_own_safetensors_come_back(tmp_path: Path) -> None:
    header = {"family": "stylegan3", "config": json.dumps(dataclasses.asdict(TINY3_R))}
    generator = random_stylegan3(TINY3_R)
    checkpoint = read(tmp_path / "a", save(generator.state_dict(), header))
    assert (checkpoint.family, checkpoint.source) == ("stylegan3", "impasto safetensors")
    assert checkpoint.config == TINY3_R
    assert_same_tensors(checkpoint, generator)
    header["config"] = json.dumps(dataclasses.asdict(TINY3_R) | {"radial_filters": 1})
    with pytest.raises(CheckpointError, match="radial_filters: found 1; allowed is True or False"):
        read(tmp_path / "a", save(generator.state_dict(), header))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_resolution": 32}, "resolution: the file says 32; its tensors are of 16"),
        ({"z_dim": 9}, "z_dim: the file says 9; its tensors are of 8"),
        ({"num_layers": 10**9}, "num_layers: found 1000000000; allowed is an integer from 3 to 32"),
        ({"num_layers": 5}, "num_layers: the file says 5; its tensors are of 4"),
        ({"conv_kernel": 1}, "conv_kernel: the file says 1; its tensors are of 3"),
        ({"use_radial_filters": True}, "radial_filters: the file says True; its tensors are of False"),
        ({"channel_max": 7}, "the file says 128, 7, which makes the layer L0_36_7; its tensors are of L0_36_8"),
        ({"conv_clamp": -1}, "conv_clamp: found -1; allowed is a positive number"),
        ({"margin_size": 16}, "margin_size: found 16; allowed is 10"),
        ({"first_cutoff": 4}, "first_cutoff: found 4; allowed is 2.0"),
        ({"output_scale": "1"}, "output_scale: found '1'; allowed is 0.25"),
        ({"mapping_kwargs": {"activation": "relu"}}, "activation: found 'relu'; allowed is 'lrelu'"),
        ({"attention": True}, "synthesis_kwargs: found the argument 'attention'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = official_arguments(TINY3) | changes
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pkl", pickled(official_networks(random_stylegan3(TINY3), arguments=arguments)))


def _without(generator: StyleGAN3, module: str, buffer: str) -> None:
    del generator.get_submodule(module)._buffers[buffer]


WRONG_TENSORS: list[tuple[Callable[[StyleGAN3], object], str]] = [
    (lambda g: g.synthesis.input.transform.mul_(2.0), "synthesis.input.transform: found a turned canvas"),
    (lambda g: g.synthesis.input.phases.fill_(torch.nan), "synthesis.input.phases: found NaN or infinite numbers"),
    (lambda g: _without(g, "synthesis.input", "freqs"), "tensors are missing: 'synthesis.input.freqs'"),
    (lambda g: _without(g, "synthesis.L1_36_8", "up_filter"), "tensors are missing: 'synthesis.L1_36_8.up_filter'"),
    (lambda g: g.synthesis.L1_36_8.register_buffer("noise", torch.ones(1)), "unknown to StyleGAN3: 'synthesis.L1_36_8"),
    (
        lambda g: g.synthesis.L1_36_8.register_buffer("up_filter", torch.ones(24)),
        r"synthesis.L1_36_8.up_filter: found the shape \[24\]; allowed is \[12\]",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_named(change: Callable[[StyleGAN3], object], message: str, tmp_path: Path) -> None:
    generator = random_stylegan3(TINY3)
    networks = official_networks(generator)
    change(generator)
    networks["G_ema"] = network(generator, "Generator", "", official_arguments(TINY3))
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pkl", pickled(networks))
