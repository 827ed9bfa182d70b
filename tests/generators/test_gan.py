"""DCGAN and its conditional form, and the files of pytorch/examples."""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import Checkpoint, read_checkpoint
from impasto.generators.gan import GAN, BatchNorm, GANConfig, SelfAttention, frozen
from tests.support.families import TINY_GAN, random_module
from tests.support.rosinality import torch_file

DCGAN = GANConfig(32, z_dim=6, channel_base=5, img_channels=3)


def published_dcgan(widths: list[int]) -> nn.Sequential:
    """The generator of pytorch/examples/dcgan of these widths, from the latent to the picture, with random weights."""
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False))
        if index < len(widths) - 2:
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(True)]
    network = nn.Sequential(*layers, nn.Tanh()).eval().requires_grad_(False)
    torch.manual_seed(0)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if tensor.ndim == 1 else tensor.normal_(std=0.2)
    return network


def saved(network: nn.Sequential, prefix: str = "main.") -> OrderedDict[str, Tensor]:
    return OrderedDict((f"{prefix}{name}", tensor) for name, tensor in network.state_dict().items())


def read(path: Path, state: dict[str, Tensor], *, zipped: bool = True) -> Checkpoint:
    path.write_bytes(torch_file(state, zipped=zipped))
    return read_checkpoint(path)


@pytest.mark.parametrize("widths", [[6, 20, 10, 5, 3], [100, 24, 24, 12, 6, 1], [4, 8, 3]])
@pytest.mark.parametrize(("prefix", "zipped"), [("main.", True), ("module.main.", False)])
def test_a_file_of_pytorch_examples_makes_the_same_pictures(
    widths: list[int], prefix: str, zipped: bool, tmp_path: Path
) -> None:
    network = published_dcgan(widths)
    checkpoint = read(tmp_path / "netG_epoch_24.pth", saved(network, prefix), zipped=zipped)
    assert (checkpoint.family, checkpoint.source) == ("gan", "pytorch-examples DCGAN")
    config = checkpoint.config
    assert (config.z_dim, config.resolution, config.img_channels) == (widths[0], 2 ** len(widths), widths[-1])
    generator = GAN(config).eval()
    generator.load_state_dict(checkpoint.tensors)
    z = torch.randn(3, widths[0])
    pictures = generator(z)
    assert pictures.std() > 0.1
    torch.testing.assert_close(pictures, network(z[:, :, None, None]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"main.1.running_var": None}, "tensors are missing: 'blocks.b4.norm.running_var'"),
        ({"main.3.bias": torch.zeros(10)}, "tensors are unknown to GAN: 'blocks.b8.conv.bias'"),
        ({"main.3.weight": torch.zeros(20, 10, 5, 5)}, r"b8.conv.weight: found the shape \[20, 10, 5, 5\]; allowed is"),
        ({"main.4.weight": None}, r"found weights of the layers \[0, 1, 3, 6, 7, 9\] of main; allowed are 0, 1, 3, 4"),
        ({"main.9.weight": torch.zeros(5, 4, 4, 4)}, "img_channels: found 4; allowed is 1 or 3"),
        (
            {"fc.weight": torch.zeros(2)},
            "found the tensor 'fc.weight', which no DCGAN generator of pytorch/examples has",
        ),
        ({"main.7.bias": torch.full((5,), torch.nan)}, "b16.norm.bias: found NaN or infinite numbers"),
    ],
)
def test_a_file_of_another_layout_is_refused_by_name(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**saved(published_dcgan([6, 20, 10, 5, 3])), **changes}
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pth", {name: tensor for name, tensor in state.items() if tensor is not None})


@pytest.mark.parametrize("config", [TINY_GAN, DCGAN])
def test_the_generator_without_normalisation_equals_the_trained_one_in_float64(config: GANConfig) -> None:
    generator: GAN = random_module("gan", config).double()
    z = torch.randn(4, config.z_dim, dtype=torch.float64)
    c = torch.rand(4, config.c_dim, dtype=torch.float64) if config.c_dim else None
    pictures = generator(z, c)
    assert pictures.shape == (4, 3, config.resolution, config.resolution)
    assert pictures.std() > 0.1
    torch.testing.assert_close(frozen(generator)(z, c), pictures, atol=1e-12, rtol=0)
    assert not any(isinstance(module, BatchNorm) for module in frozen(generator).modules())


def test_every_class_has_gains_and_biases_of_its_own() -> None:
    norm: BatchNorm = BatchNorm(5, 3).eval().requires_grad_(False)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    x = torch.randn(3, 5, 2, 2)
    for label in range(3):
        plain = nn.BatchNorm2d(5).eval().requires_grad_(False)
        plain.load_state_dict(
            {"weight": norm.weight[label], "bias": norm.bias[label]}
            | {"running_mean": norm.running_mean, "running_var": norm.running_var},
            strict=False,
        )
        torch.testing.assert_close(norm(x, torch.eye(3)[label].expand(3, 3)), plain(x))


def test_batch_statistics_are_gathered_in_training() -> None:
    ours, plain = BatchNorm(4, 0).train(), nn.BatchNorm2d(4).train()
    plain.load_state_dict(ours.state_dict(), strict=False)
    for _ in range(3):
        x = torch.randn(8, 4, 3, 3) * 2 + 1
        torch.testing.assert_close(ours(x, None), plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)


def test_attention_is_that_of_the_formula() -> None:
    layer = SelfAttention(16).requires_grad_(False)
    x = torch.randn(2, 16, 3, 5)
    assert torch.equal(layer(x), x)
    layer.gain.fill_(0.7)
    for sample, found in zip(x, layer(x), strict=True):
        places = sample.flatten(1).t()  # [15, 16]
        query, key, value = (places @ m.weight[:, :, 0, 0].t() for m in (layer.query, layer.key, layer.value))
        attention = torch.stack([torch.stack([q @ k for k in key]).softmax(0) for q in query])
        expected = places + 0.7 * (attention @ value) @ layer.output.weight[:, :, 0, 0].t()
        torch.testing.assert_close(found.flatten(1).t(), expected)


def test_the_default_is_the_dcgan_of_the_paper() -> None:
    config = GANConfig()
    assert config.resolutions == (4, 8, 16, 32, 64)
    assert [config.channels(resolution) for resolution in config.resolutions[:-1]] == [512, 256, 128, 64]
    with torch.device("meta"):
        generator = GAN(config)
    weights = 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    assert sum(parameter.numel() for parameter in generator.parameters()) == weights + 2 * (512 + 256 + 128 + 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "resolution: found 48; allowed is a power of two from 8 to 1024"),
        ({"resolution": 0}, "resolution: found 0"),
        ({"z_dim": 0}, "z_dim: found 0; allowed is an integer from 1 to 32768"),
        ({"channel_max": 2**31}, "channel_max: found 2147483648; allowed"),
        ({"c_dim": -1}, "c_dim: found -1; allowed is an integer from 0"),
        ({"img_channels": 4}, "img_channels: found 4; allowed is 1 or 3"),
        ({"attention": 16}, "attention: found 16; allowed is 0 or one of 4, 8"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_by_name(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY_GAN, **changes)
