"""Which kind a file is, and our own safetensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import Checkpoint, read_checkpoint
from tests.support.generators import TINY, random_generator

CONFIG = dataclasses.replace(TINY, c_dim=2, conv_clamp=256.0, num_fp16_res=1, channel_base=33, channel_max=4)


def ours(changes: dict[str, torch.Tensor] | None = None, **metadata: str) -> bytes:
    tensors = random_generator(CONFIG).state_dict() | (changes or {})
    header = {"family": "stylegan2", "config": json.dumps(dataclasses.asdict(CONFIG))} | metadata
    return save(tensors, header)


def read(path: Path, content: bytes) -> Checkpoint:
    path.write_bytes(content)
    return read_checkpoint(path)


def test_our_own_safetensors_come_back(tmp_path: Path) -> None:
    checkpoint = read(tmp_path / "a", ours())
    assert checkpoint.source == "impasto safetensors"
    assert checkpoint.config == CONFIG
    for name, tensor in random_generator(CONFIG).state_dict().items():
        assert torch.equal(checkpoint.tensors[name], tensor), name


def test_half_precision_safetensors_become_float32(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in random_generator(CONFIG).state_dict().items()}
    checkpoint = read(tmp_path / "a", ours(halves))
    for name, tensor in halves.items():
        assert checkpoint.tensors[name].dtype == torch.float32
        assert torch.equal(checkpoint.tensors[name], tensor.float()), name


def _config(**changes: Any) -> str:
    return json.dumps(dataclasses.asdict(CONFIG) | changes)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"family": "dcgan"},
            "found safetensors of the family 'dcgan'; allowed is one of 'stylegan2', 'stylegan3', 'gan'",
        ),
        ({"config": "null"}, "found safetensors of the family 'stylegan2'; allowed is one of .*, with its config"),
        ({"config": "{"}, "found a damaged safetensors file"),
        ({"config": "[" * 100_000}, "found a damaged safetensors file"),
        ({"config": "{}"}, "found hyperparameters without resolution"),
        ({"config": _config(resolution=16)}, "resolution: the file says 16; its tensors are of 8"),
        ({"config": _config(resolution=12)}, "resolution: found 12; allowed is a power of two from 4 to 1024"),
        ({"config": _config(resolution="8")}, "resolution: found '8'; allowed is an integer"),
        ({"config": _config(mapping_layers=10**9)}, "mapping_layers: the file says 1000000000; its tensors are of 2"),
        ({"config": _config(c_dim=0)}, "c_dim: the file says 0; its tensors are of 2"),
        ({"config": _config(channel_max=3)}, "channel_base, channel_max: the file says 33, 3, which makes 3 channels"),
        ({"config": _config(conv_clamp=float("inf"))}, "conv_clamp: found inf; allowed is a positive number"),
        ({"config": _config(mapping_lr_multiplier=None)}, "mapping_lr_multiplier: found None"),
        ({"config": _config(style="baroque")}, "found the hyperparameter 'style'; allowed are c_dim, channel_base"),
    ],
)
def test_what_our_header_says_is_checked(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a", ours(**metadata))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthesis.b8.conv1.bias": torch.zeros(5)}, r"conv1.bias: found the shape \[5\]; allowed is \[4\]"),
        ({"synthesis.b8.conv1.bias": torch.zeros(4, dtype=torch.int8)}, "conv1.bias: found torch.int8"),
        ({"synthesis.b8.conv1.bias": torch.full((4,), torch.nan)}, "conv1.bias: found NaN or infinite numbers"),
        ({"extra": torch.zeros(4)}, "tensors are unknown to StyleGAN2: 'extra'"),
        ({str(i): torch.zeros(1) for i in range(5)}, "unknown to StyleGAN2: '0', '1', '2' and 2 more"),
    ],
)
def test_tensors_of_our_own_files_are_checked(changes: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a", ours(changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (b"\x80", "found a truncated file"),
        (b"\x80\x09N.", "found pickle protocol 9; allowed are 2 to 5"),
        (b"PK\x03\x04 and so on", "found a damaged or truncated zip file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), r"found a file that starts with b'\\x89PNG\\r\\n\\x1a\\n'; allowed are"),
        (
            b"hello, world",
            "found a file that starts with b'hello, w'; allowed are pickles, torch files and safetensors",
        ),
        (b'\x08\x00\x00\x00\x00\x00\x00\x00{"a": 1}', "found a damaged safetensors file"),
        (save({"a": torch.zeros(1)}), "found safetensors of the family None"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pkl", content)


def test_a_path_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing\.pkl: cannot read it: No such file or directory"):
        read_checkpoint(tmp_path / "missing.pkl")
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(CheckpointError, match=f"{path}: found a folder or a device; a checkpoint is a file"):
            read_checkpoint(path)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    read(tmp_path / "a", ours())
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
