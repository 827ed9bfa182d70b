"""The generator of label maps, against the formulas of Park et al. 2019."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from impasto.generators.families import family_of
from impasto.generators.spade import SPADE, Block, LabelPainter, Modulation, SPADEConfig
from tests.support.image_to_image import PALETTE, TINY_SPADE, random_model


def one_hot(rows: int = 2, height: int = 16, width: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class numbers [N, 1, H, W] and the same one-hot [N, 5, H, W]."""
    labels = torch.randint(5, (rows, 1, height, width), generator=torch.Generator().manual_seed(seed))
    return labels, functional.one_hot(labels[:, 0], 5).permute(0, 3, 1, 2).float()


def test_modulation_is_the_papers_equation() -> None:
    torch.manual_seed(0)
    layer = Modulation(6, TINY_SPADE).eval()
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 2)
    x, (_, labels) = torch.randn(2, 6, 16, 24), one_hot()
    hidden = functional.relu(functional.conv2d(labels, layer.shared.weight, layer.shared.bias, padding=1))
    gain = 1.0 + functional.conv2d(hidden, layer.gain.weight, layer.gain.bias, padding=1)
    bias = functional.conv2d(hidden, layer.bias.weight, layer.bias.bias, padding=1)
    mean, variance = (tensor[:, None, None] for tensor in (layer.running_mean, layer.running_var))
    torch.testing.assert_close(layer(x, labels), gain * (x - mean) / (variance + 1e-5).sqrt() + bias)


def test_while_it_is_trained_the_batch_is_what_is_normalised_by() -> None:
    torch.manual_seed(0)
    layer = Modulation(6, TINY_SPADE).train()
    for convolution in (layer.gain, layer.bias):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    made = layer(3.0 + 2.0 * torch.randn(4, 6, 16, 24), one_hot(4)[1])
    torch.testing.assert_close(made.mean(dim=(0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(made.var(dim=(0, 2, 3)), torch.ones(6), atol=1e-2, rtol=0.0)
    torch.testing.assert_close(layer.running_mean, torch.full((6,), 0.3), atol=0.05, rtol=0.0)


def test_a_block_of_the_same_width_adds_to_what_it_gets() -> None:
    torch.manual_seed(0)
    x, (_, labels) = torch.randn(2, 6, 16, 24), one_hot()
    same, narrower = Block(6, 6, TINY_SPADE).eval(), Block(6, 4, TINY_SPADE).eval()
    for convolution in (same.conv1, narrower.conv1):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    assert torch.equal(same(x, labels), x)
    assert narrower.norm_skip is not None
    skipped = torch.einsum("oi,nihw->nohw", narrower.skip.weight[:, :, 0, 0], narrower.norm_skip(x, labels))
    torch.testing.assert_close(narrower(x, labels), skipped)


def test_every_class_and_number_of_the_latent_shows() -> None:
    generator: SPADE = random_model("spade", TINY_SPADE)
    labels, encoded = one_hot(1)
    z = torch.zeros(1, 3)
    picture = generator(encoded, z)
    assert picture.shape == (1, 3, 16, 24)
    assert picture.abs().max() <= 1.0
    assert picture.std() > 0.05
    painter = LabelPainter(generator)
    torch.testing.assert_close(painter(labels, z), picture)
    for label in range(5):
        assert (painter(torch.full_like(labels, label), z) - picture).abs().max() > 0.05
    for place in range(3):
        assert (generator(encoded, z + torch.eye(3)[place]) - picture).abs().mean() > 1e-3


def test_what_a_pixel_sees_ends_within_its_reach() -> None:
    generator: SPADE = random_model("spade", TINY_SPADE)
    size = 2 * (TINY_SPADE.reach // 4 + 2) * 4
    (_, one), (_, other) = one_hot(1, 4, size, 1), one_hot(1, 4, size, 2)
    z, half = torch.zeros(1, 3), size // 2
    mixed = torch.cat([one[..., :half], other[..., half:]], dim=3)
    differs = (generator(mixed, z) - generator(one, z)).abs().amax(dim=(0, 1, 2)) > 1e-6
    assert differs[half]
    assert not differs[: half - TINY_SPADE.reach].any()


def test_without_a_latent_it_takes_none() -> None:
    config = dataclasses.replace(TINY_SPADE, z_dim=0)
    generator = random_model("spade", config)
    assert family_of("spade").graphs(generator)["painter"].draw(2).keys() == {"labels"}
    assert generator(one_hot()[1]).shape == (2, 3, 16, 24)
    names = [spec.name for spec in family_of("spade").interface(config).inputs]
    assert names == ["image"]
    assert [spec.name for spec in family_of("spade").interface(TINY_SPADE).inputs] == ["image", "seed", "z"]


def test_the_palette_is_part_of_the_weights_and_grey_at_first() -> None:
    assert random_model("spade", TINY_SPADE).state_dict()["palette"].tolist() == [list(map(float, c)) for c in PALETTE]
    assert SPADE(TINY_SPADE).palette[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "classes: found 0; allowed is an integer from 1 to 256"),
        ({"classes": 257}, "classes: found 257; allowed is an integer from 1 to 256"),
        ({"ups": 8}, "ups: found 8; allowed is an integer from 1 to 7"),
        ({"hidden": 0}, "hidden: found 0; allowed is"),
        ({"z_dim": -1}, "z_dim: found -1; allowed is"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_by_name(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPADEConfig(**changes)
