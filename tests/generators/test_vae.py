"""The variational autoencoder, and the networks that it shares with others."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from impasto.generators.autoencoder import ResidualBlock, random_pictures
from impasto.generators.families import family_of
from impasto.generators.grey import LUMA
from impasto.generators.vae import VAE, PictureEncoder, VAEConfig
from tests.support.families import TINY_VAE, random_module


@pytest.mark.parametrize(
    ("config", "latent"),
    [
        (TINY_VAE, (2, 8, 8)),
        (VAEConfig(32, latent_channels=3, latent_side=4, channel_base=4, channel_max=8, blocks=2), (3, 4, 4)),
        (VAEConfig(16, latent_channels=12, latent_side=1, channel_base=4), (12, 1, 1)),
        (VAEConfig(8, img_channels=1, latent_channels=5, latent_side=2, channel_base=4), (5, 2, 2)),
    ],
)
def test_pictures_become_latents_and_latents_pictures(config: VAEConfig, latent: tuple[int, int, int]) -> None:
    vae: VAE = random_module("vae", config)
    pictures = torch.rand(2, config.img_channels, config.resolution, config.resolution)
    mean, log_variance = vae.encode(pictures)
    assert mean.shape == log_variance.shape == (2, *latent)
    assert config.z_dim == mean[0].numel()
    decoded = vae.decode(mean)
    assert decoded.shape == pictures.shape
    assert decoded.std() > 0.1
    # What is served is the same, by way of z.
    torch.testing.assert_close(vae(vae.standardised(mean)), decoded, atol=1e-5, rtol=1e-5)


def test_z_is_the_latent_in_units_of_what_pictures_have() -> None:
    vae: VAE = random_module("vae", TINY_VAE)
    latents = torch.randn(3, 2, 8, 8)
    z = vae.standardised(latents).reshape(3, 2, 8, 8)
    for channel in range(2):
        mean, std = vae.latent_mean[channel, 0, 0], vae.latent_std[channel, 0, 0]
        assert std != 1.0
        torch.testing.assert_close(z[:, channel] * std + mean, latents[:, channel])
    torch.testing.assert_close(vae(torch.zeros(1, 128)), vae.decode(vae.latent_mean.expand(1, 2, 8, 8)))


def test_a_model_of_grey_pictures_is_served_in_three_channels() -> None:
    config = dataclasses.replace(TINY_VAE, img_channels=1)
    vae: VAE = random_module("vae", config)
    pictures = random_pictures(2, 16)
    weights = torch.tensor(LUMA)[:, None, None]
    mean, _ = vae.encode((pictures * weights).sum(dim=1, keepdim=True))
    torch.testing.assert_close(PictureEncoder(vae)(pictures), vae.standardised(mean), atol=1e-5, rtol=1e-5)
    decoder = family_of("vae").graphs(vae)["decoder"]
    made = decoder.module(**decoder.draw(2))
    assert made.shape == (2, 3, 16, 16)
    assert torch.equal(made[:, 0], made[:, 2])


def test_a_residual_block_begins_as_the_identity() -> None:
    x = torch.randn(2, 12, 5, 5)
    block = ResidualBlock(12)
    assert (block(x) - x).abs().max() < 0.2  # the bias alone
    block.conv1.weight.data.normal_()
    normed = functional.silu(functional.group_norm(x, 4))
    inner = functional.silu(functional.group_norm(block.conv0(normed), 4))
    torch.testing.assert_close(block(x), x + block.conv1(inner))


def test_the_pictures_an_encoder_is_compared_on_do_not_depend_on_how_many_there_are() -> None:
    pictures = random_pictures(5, 16)
    assert pictures.shape == (5, 3, 16, 16)
    assert torch.equal(random_pictures(3, 16), pictures[:3])
    assert (pictures.min(), pictures.max()) > (-1.0, 0.7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 20}, "resolution: found 20; allowed is a power of two from 8 to 1024"),
        ({"latent_side": 16}, "latent_side: found 16; allowed is a power of two from 1 to 8"),
        ({"latent_channels": 0}, "latent_channels: found 0; allowed is an integer from 1 to 32768"),
        ({"blocks": 9}, "blocks: found 9; allowed is an integer from 1 to 8"),
        ({"img_channels": 2}, "img_channels: found 2; allowed is 1 or 3"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_by_name(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY_VAE, **changes)
