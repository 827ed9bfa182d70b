"""The residual generator of CycleGAN, its files, and its graph that shares statistics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import Checkpoint, read_checkpoint
from impasto.generators.families import family_of
from impasto.generators.residual import Residual, ResidualConfig, Translator
from tests.support.image_to_image import TINY_RESIDUAL, random_model
from tests.support.rosinality import torch_file


class PublishedBlock(nn.Module):
    """A block as the CycleGAN and pix2pix in PyTorch name it."""

    def __init__(self, width: int, dropout: bool):
        super().__init__()
        halves: list[nn.Module] = []
        for half in range(2):
            halves += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
            halves += [] if half else [nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])]
        self.conv_block = nn.Sequential(*halves)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Published(nn.Module):
    """Its generator: a sequence of layers, `model`."""

    def __init__(self, width: int, blocks: int, *, dropout: bool = False, channels: int = 3):
        super().__init__()

        def normalised(layer: nn.Module, outputs: int) -> list[nn.Module]:
            return [layer, nn.InstanceNorm2d(outputs), nn.ReLU()]

        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *normalised(nn.Conv2d(channels, width, 7), width),
            *normalised(nn.Conv2d(width, 2 * width, 3, 2, 1), 2 * width),
            *normalised(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), 4 * width),
            *(PublishedBlock(4 * width, dropout) for _ in range(blocks)),
            *normalised(nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1), 2 * width),
            *normalised(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), width),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, channels, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


def published(width: int = 4, blocks: int = 2, **options: Any) -> Published:
    torch.manual_seed(0)
    network = Published(width, blocks, **options).eval().requires_grad_(False)
    for tensor in network.parameters():
        tensor.normal_(std=0.3) if tensor.ndim == 1 else tensor.normal_(std=tensor[0].numel() ** -0.5)
    return network


def read(path: Path, state: dict[str, Tensor], *, zipped: bool = True) -> Checkpoint:
    path.write_bytes(torch_file(state, zipped=zipped))
    return read_checkpoint(path)


def as_float(pictures: int, height: int, width: int) -> Tensor:
    return torch.rand(pictures, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("width", "blocks", "dropout", "prefix", "zipped"),
    [(4, 2, False, "", True), (3, 9, False, "module.", False), (5, 1, True, "", True)],
)
def test_a_file_of_cyclegan_makes_the_same_pictures(
    width: int, blocks: int, dropout: bool, prefix: str, zipped: bool, tmp_path: Path
) -> None:
    network = published(width, blocks, dropout=dropout)
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    assert f"{prefix}model.{17 + blocks}.weight" in state
    # What older versions of torch kept beside it.
    state |= {
        f"{prefix}model.2.running_mean": torch.zeros(width),
        f"{prefix}model.2.num_batches_tracked": torch.ones(()),
    }
    checkpoint = read(tmp_path / "latest_net_G.pth", state, zipped=zipped)
    assert (checkpoint.family, checkpoint.source) == ("residual", "CycleGAN")
    assert checkpoint.config == ResidualConfig(channels=width, blocks=blocks)
    pictures = as_float(2, 24, 16)
    made = family_of("residual").load(checkpoint.config, checkpoint.tensors)(pictures)
    assert made.std() > 0.1
    torch.testing.assert_close(made, network(pictures), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.2.weight": torch.ones(4)}, "found batch normalisation; allowed is a generator with instance"),
        ({"model.1.weight": torch.zeros(4, 1, 7, 7)}, "model.1.weight: found pictures of 1 channels; allowed are 3"),
        ({"model.1.weight": torch.zeros(4, 3)}, r"model.1.weight: found the shape \[4, 3\]; allowed are 4 dimensions"),
        ({"model.4.bias": None}, "tensors are missing: 'down0.bias'"),
        ({"model.12.weight": torch.zeros(16, 8, 5, 5)}, r"up0.weight: found the shape \[16, 8, 5, 5\]; allowed is"),
        ({"model.10.conv_block.3.weight": torch.zeros(4)}, "found the tensor 'model.10.conv_block.3.weight', which no"),
        ({"model.30.weight": torch.zeros(4)}, "found the tensor 'model.30.weight', which no residual generator of 2"),
        ({"model.1.bias": torch.full((4,), torch.nan)}, "head.bias: found NaN or infinite numbers"),
    ],
)
def test_another_layout_is_refused_by_the_tensor(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = published().state_dict() | changes
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "net.pth", {name: tensor for name, tensor in state.items() if tensor is not None})


def test_a_part_with_the_statistics_of_the_whole_is_that_part_of_the_whole() -> None:
    generator: Residual = random_model("residual", TINY_RESIDUAL)
    translator, pictures = Translator(generator), as_float(1, 64, 160)
    none = torch.zeros(1, 2, sum(TINY_RESIDUAL.normalised))
    whole, statistics = translator(pictures, none, torch.ones(1, 1))
    torch.testing.assert_close(whole, generator(pictures), atol=1e-5, rtol=1e-5)
    part, measured = translator(pictures[..., 40:120], statistics, torch.zeros(1, 1))
    inner = slice(TINY_RESIDUAL.reach, 80 - TINY_RESIDUAL.reach)
    assert inner.stop - inner.start >= 30
    torch.testing.assert_close(part[..., inner], whole[..., 40:120][..., inner], atol=1e-5, rtol=1e-5)
    assert (part[..., 0] - whole[..., 40]).abs().max() > 0.01  # at its edge it is not
    assert (measured - statistics).abs().max() > 0.01


def test_statistics_are_means_and_variances_in_the_order_of_the_layers() -> None:
    generator: Residual = random_model("residual", TINY_RESIDUAL)
    pictures = as_float(2, 16, 16)
    _, statistics = Translator(generator)(pictures, torch.zeros(2, 2, 72), torch.ones(2, 1))
    first = generator.head(nn.functional.pad(pictures, (3,) * 4, mode="reflect"))
    assert TINY_RESIDUAL.normalised == (4, 8, 16, 16, 16, 8, 4)
    torch.testing.assert_close(statistics[:, 0, :4], first.mean(dim=(2, 3)))
    torch.testing.assert_close(statistics[:, 1, :4], first.var(dim=(2, 3), unbiased=False))


def test_a_generator_that_adds_keeps_tint_and_brightness() -> None:
    makes, adds = (random_model("residual", dataclasses.replace(TINY_RESIDUAL, adds=adds)) for adds in (False, True))
    pictures = as_float(1, 16, 16) * 0.5
    tinted = pictures + torch.tensor([0.2, -0.1, 0.3])[:, None, None]
    torch.testing.assert_close(makes(tinted), makes(pictures), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(adds(tinted) - adds(pictures), tinted - pictures, atol=2e-2, rtol=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 0}, "channels: found 0; allowed is an integer from 1 to 8192"),
        ({"blocks": -1}, "blocks: found -1; allowed is an integer from 0 to 64"),
        ({"blocks": 65}, "blocks: found 65; allowed is an integer from 0 to 64"),
        ({"noise": 17}, "noise: found 17; allowed is an integer from 0 to 16"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_by_name(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY_RESIDUAL, **changes)
