"""Official pickles: what is read out of them, and by which name they are refused."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import Checkpoint, read_checkpoint
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config
from tests.support.generators import TINY, random_generator
from tests.support.official_pickle import (
    Persistent,
    ada_arguments,
    channels_last,
    network,
    official_networks,
    pickled,
    stylegan3_arguments,
    touching,
)

CONFIGS = {
    "tiny": TINY,
    "conditional": dataclasses.replace(TINY, c_dim=5),
    "clamped fp16": dataclasses.replace(TINY, conv_clamp=256.0, num_fp16_res=1),
    "narrow mapping": dataclasses.replace(TINY, z_dim=6, w_dim=3, mapping_layers=1),
    "64": StyleGAN2Config(64, z_dim=16, w_dim=16, channel_base=1024, channel_max=32, mapping_layers=8),
    "4": dataclasses.replace(TINY, resolution=4),
}


def read(path: Path, content: bytes) -> Checkpoint:
    path.write_bytes(content)
    return read_checkpoint(path)


def assert_same_tensors(checkpoint: Checkpoint, generator: StyleGAN2) -> None:
    expected = generator.state_dict()
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name], tensor), name
        assert checkpoint.tensors[name].dtype == torch.float32
    StyleGAN2(checkpoint.config).load_state_dict(checkpoint.tensors, strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_and_hyperparameter_comes_back(name: str, protocol: int, tmp_path: Path) -> None:
    generator = random_generator(CONFIGS[name])
    checkpoint = read(tmp_path / "a.pkl", pickled(official_networks(generator), protocol))
    assert checkpoint.family == "stylegan2"
    assert checkpoint.config == generator.config
    assert checkpoint.source == "stylegan2-ada-pytorch pickle"
    assert checkpoint.details == {"network": "G_ema", "repository": "stylegan2-ada-pytorch"}
    assert_same_tensors(checkpoint, generator)


def test_the_source_text_of_the_file_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    exec(touching(marker))
    assert marker.exists()
    marker.unlink()
    read(tmp_path / "a.pkl", pickled(official_networks(random_generator(TINY), source=touching(marker))))
    assert not marker.exists()
    assert not {"dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence"} & sys.modules.keys()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_values_among_the_attributes_do_no_harm(protocol: int, tmp_path: Path) -> None:
    networks = official_networks(random_generator(TINY))
    networks["G_ema"].state |= {
        "array": np.arange(6).reshape(2, 3).T,
        "readonly": np.broadcast_to(np.asarray(3), [2]),
        "scalars": [np.float32(1.5), np.int64(3), np.bool_(True)],
    }
    assert read(tmp_path / "a.pkl", pickled(networks, protocol)).config == TINY


def test_hyperparameters_may_be_numpy_scalars(tmp_path: Path) -> None:
    arguments = ada_arguments(TINY)
    arguments["synthesis_kwargs"]["conv_clamp"] = np.float32(128)
    arguments["img_resolution"] = np.int64(8)
    checkpoint = read(tmp_path / "a.pkl", pickled(official_networks(random_generator(TINY), arguments=arguments)))
    assert checkpoint.config == dataclasses.replace(TINY, conv_clamp=128.0)


def test_tensors_in_channels_last_order_come_back(tmp_path: Path) -> None:
    generator = random_generator(dataclasses.replace(TINY, channel_base=64, channel_max=8))
    content = pickled(official_networks(channels_last(generator)))
    assert not generator.synthesis.b8.conv1.weight.is_contiguous()
    assert_same_tensors(read(tmp_path / "a.pkl", content), generator)


def test_half_precision_tensors_become_float32(tmp_path: Path) -> None:
    generator = random_generator(TINY)
    content = pickled(official_networks(generator.half()))
    checkpoint = read(tmp_path / "a.pkl", content)
    assert_same_tensors(checkpoint, generator.float())


def test_the_suffix_of_the_file_does_not_matter(tmp_path: Path) -> None:
    generator = random_generator(TINY)
    assert_same_tensors(read(tmp_path / "a.safetensors", pickled(official_networks(generator))), generator)


def test_without_an_average_the_generator_itself_is_taken(tmp_path: Path) -> None:
    generator = random_generator(TINY)
    networks = official_networks(generator)
    networks["G"] = networks.pop("G_ema")
    checkpoint = read(tmp_path / "a.pkl", pickled(networks))
    assert checkpoint.details["network"] == "G"
    assert_same_tensors(checkpoint, generator)


def test_positional_arguments_count_as_given(tmp_path: Path) -> None:
    generator = random_generator(TINY)
    networks = official_networks(generator)
    state = networks["G_ema"].state
    given = state["_init_kwargs"]
    state["_init_args"] = tuple(given.pop(name) for name in ("z_dim", "c_dim", "w_dim"))
    assert read(tmp_path / "a.pkl", pickled(networks)).config == TINY
    state["_init_args"] = (5, *state["_init_args"][1:])
    with pytest.raises(CheckpointError, match="z_dim: the file says 5; its tensors are of 4"):
        read(tmp_path / "a.pkl", pickled(networks))


@pytest.mark.parametrize("given", [{"conv_clamp": 256, "num_fp16_res": 4}, {}], ids=["given", "by default"])
def test_the_stylegan3_copy_clamps_and_has_fp16_blocks_unless_told_otherwise(
    given: dict[str, Any], tmp_path: Path
) -> None:
    generator = random_generator(TINY)
    arguments = stylegan3_arguments(TINY)
    del arguments["conv_clamp"], arguments["num_fp16_res"]
    checkpoint = read(tmp_path / "a.pkl", pickled(official_networks(generator, arguments=arguments | given)))
    assert checkpoint.config == dataclasses.replace(TINY, conv_clamp=256.0, num_fp16_res=4)
    assert checkpoint.details["repository"] == "stylegan3"


def test_the_stylegan3_copy_can_be_told_not_to_clamp(tmp_path: Path) -> None:
    arguments = stylegan3_arguments(TINY)
    checkpoint = read(tmp_path / "a.pkl", pickled(official_networks(random_generator(TINY), arguments=arguments)))
    assert checkpoint.config == TINY


def test_the_original_neither_clamps_nor_has_fp16_blocks_by_default(tmp_path: Path) -> None:
    arguments = ada_arguments(TINY)
    del arguments["synthesis_kwargs"]["conv_clamp"], arguments["synthesis_kwargs"]["num_fp16_res"]
    checkpoint = read(tmp_path / "a.pkl", pickled(official_networks(random_generator(TINY), arguments=arguments)))
    assert checkpoint.config.conv_clamp is None
    assert checkpoint.config.num_fp16_res == 0


def test_sizes_that_are_not_given_are_read_off_the_tensors(tmp_path: Path) -> None:
    generator = random_generator(dataclasses.replace(TINY, c_dim=3))
    checkpoint = read(tmp_path / "a.pkl", pickled(official_networks(generator, arguments={"mapping_kwargs": {}})))
    assert checkpoint.config == generator.config


def test_a_learning_rate_multiplier_of_its_own_is_kept(tmp_path: Path) -> None:
    arguments = ada_arguments(TINY)
    arguments["mapping_kwargs"]["lr_multiplier"] = 0.02
    checkpoint = read(tmp_path / "a.pkl", pickled(official_networks(random_generator(TINY), arguments=arguments)))
    assert checkpoint.config.mapping_lr_multiplier == 0.02


WRONG_ARGUMENTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"img_resolution": 16}, {}, "resolution: the file says 16; its tensors are of 8"),
    ({"c_dim": 2}, {}, "c_dim: the file says 2; its tensors are of 0"),
    ({"w_dim": 10**30}, {}, "w_dim: found 1000000000000000000000000000000"),
    ({"z_dim": "four"}, {}, "z_dim: found 'four'"),
    ({"mapping_kwargs": {"num_layers": 10**9}}, {}, "mapping_layers: the file says 1000000000"),
    ({"mapping_kwargs": {"lr_multiplier": float("nan")}}, {}, "mapping_lr_multiplier: found nan"),
    ({"mapping_kwargs": {"activation": "relu"}}, {}, "activation: found 'relu'; allowed is 'lrelu'"),
    ({"mapping_kwargs": {"depth": 2}}, {}, "mapping_kwargs: found the argument 'depth'"),
    ({"mapping_kwargs": [1]}, {}, r"mapping_kwargs: found \[1\]; allowed is a dict"),
    ({}, {"channel_base": 8}, "channel_base, channel_max: the file says 8, 4, which makes 2 channels at 4×4"),
    ({}, {"architecture": "resnet"}, "architecture: found 'resnet'; allowed is 'skip'"),
    ({}, {"architecture": "orig"}, "architecture: found 'orig'; allowed is 'skip'"),
    ({}, {"resample_filter": [1, 2, 1]}, r"resample_filter: found \[1, 2, 1\]; allowed is \[1, 3, 3, 1\]"),
    ({}, {"conv_clamp": -1}, "conv_clamp: found -1; allowed is a positive number"),
    ({}, {"num_fp16_res": 1.5}, "num_fp16_res: found 1.5"),
    ({}, {"use_noise": False}, "use_noise: found False; allowed is True"),
    ({}, {"attention": True}, "synthesis_kwargs: found the argument 'attention'"),
]


@pytest.mark.parametrize(("sizes", "synthesis", "message"), WRONG_ARGUMENTS)
def test_arguments_that_do_not_fit_are_named(
    sizes: dict[str, Any], synthesis: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arguments = ada_arguments(TINY) | sizes
    arguments["synthesis_kwargs"].update(synthesis)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pkl", pickled(official_networks(random_generator(TINY), arguments=arguments)))


def _without_arguments(networks: dict[str, Any]) -> None:
    del networks["G_ema"].state["_init_kwargs"]


def _without_generator(networks: dict[str, Any]) -> None:
    del networks["G"], networks["G_ema"]


def _with_discriminator_as_generator(networks: dict[str, Any]) -> None:
    networks["G_ema"] = networks["D"]


def _of_nothing(networks: dict[str, Any]) -> None:
    networks.clear()


def _of_another_version(networks: dict[str, Any]) -> None:
    networks["G_ema"].version = 5


def _with_text_for_a_tensor(networks: dict[str, Any]) -> None:
    networks["G_ema"].state["_modules"]["mapping"].state["_buffers"]["w_avg"] = "a tensor"


def _with_text_for_a_module(networks: dict[str, Any]) -> None:
    networks["G_ema"].state["_modules"]["mapping"] = "a module"


def _with_modules_in_themselves(networks: dict[str, Any]) -> None:
    module = Persistent("Layer", "", {"_modules": {}})
    for _ in range(40):
        module = Persistent("Layer", "", {"_modules": {"a": module, "b": module}})
    networks["G_ema"].state["_modules"]["mapping"] = module


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_arguments, "_init_kwargs: found no arguments"),
        (_without_generator, r"found only a discriminator \('D', 'augment_pipe', 'training_set_kwargs'\)"),
        (_with_discriminator_as_generator, "G_ema: found the class 'Discriminator'; allowed is 'Generator'"),
        (_of_nothing, r"found no generator \(the pickle has nothing\)"),
        (_of_another_version, "found a module of version 5; allowed is 6"),
        (_with_text_for_a_tensor, "found 'a tensor' where the tensor mapping.w_avg should be"),
        (_with_text_for_a_module, "found 'a module' where the module mapping should be"),
        (_with_modules_in_themselves, "found modules nested more than 8 deep"),
    ],
)
def test_another_structure_is_refused(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    networks = official_networks(random_generator(TINY))
    change(networks)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pkl", pickled(networks))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "found 7 in the pickle; a checkpoint is a dict with G_ema"),
        (["G_ema"], "found a list in the pickle"),
        (Persistent("Generator", "", {}), "found a single 'Generator'"),
    ],
)
def test_a_pickle_of_something_else_is_refused(value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pkl", pickled(value))


def _edit_tensor(name: str, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[StyleGAN2], None]:
    def change(generator: StyleGAN2) -> None:
        module_name, _, leaf = name.rpartition(".")
        module = generator.get_submodule(module_name)
        values = module._parameters if leaf in module._parameters else module._buffers
        values[leaf] = edit(values[leaf])

    return change


WRONG_TENSORS: list[tuple[Callable[[StyleGAN2], None], str]] = [
    (
        _edit_tensor("synthesis.b8.conv1.weight", lambda t: t[:, :3].contiguous()),
        r"synthesis.b8.conv1.weight: found the shape \[4, 3, 3, 3\]; allowed is \[4, 4, 3, 3\]",
    ),
    (
        _edit_tensor("synthesis.b8.torgb.weight", lambda t: t[0].contiguous()),
        r"synthesis.b8.torgb.weight: found the shape \[4, 1, 1\]; allowed are 4 dimensions",
    ),
    (_edit_tensor("mapping.fc0.weight", lambda t: None), "mapping.fc0.weight: found none"),
    (_edit_tensor("synthesis.b8.conv0.bias", lambda t: None), "tensors are missing: 'synthesis.b8.conv0.bias'"),
    (_edit_tensor("synthesis.b4.conv1.bias", lambda t: t.long()), "synthesis.b4.conv1.bias: found torch.int64"),
    (_edit_tensor("mapping.w_avg", lambda t: t * float("nan")), "mapping.w_avg: found NaN or infinite"),
    (_edit_tensor("mapping.w_avg", lambda t: t.double() + 1e300), "mapping.w_avg: found NaN or infinite"),
    (_edit_tensor("mapping.w_avg", lambda t: torch.ones(1).expand(4)), "found a tensor of shape .* allowed are dense"),
    (
        _edit_tensor("synthesis.b8.conv0.resample_filter", lambda t: torch.eye(4)),
        "synthesis.b8.conv0.resample_filter: found another resampling filter; allowed is",
    ),
    (
        lambda generator: generator.synthesis.b8.register_buffer("extra", torch.zeros(1)),
        "tensors are unknown to StyleGAN2: 'synthesis.b8.extra'",
    ),
    (
        lambda generator: setattr(generator.synthesis.b8, "skip", torch.nn.Conv2d(4, 4, 1)),
        "architecture: found 'resnet'",
    ),
    (lambda generator: delattr(generator.synthesis.b4, "torgb"), "architecture: found 'orig'"),
    (
        lambda generator: setattr(generator.synthesis, "input", torch.nn.Linear(4, 4)),
        "found no layer of a StyleGAN3 synthesis network",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_named(change: Callable[[StyleGAN2], None], message: str, tmp_path: Path) -> None:
    generator = random_generator(TINY)
    change(generator)
    networks = official_networks(random_generator(TINY))
    networks["G_ema"] = network(generator, "Generator", "", ada_arguments(TINY))
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pkl", pickled(networks))
