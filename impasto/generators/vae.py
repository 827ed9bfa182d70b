"""A variational autoencoder of pictures (Kingma & Welling 2014): samples, reconstructs, and goes between two pictures.

What is trained is that latents z̃ = mean + exp(½·log variance)·n come from pictures and give them back. What is served
is z = (z̃ − latent_mean) / latent_std, of which the numbers of all pictures together are near the standard normal that
samples are drawn from: the trainer measures both, of each channel. A picture's z is that of its mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from impasto.generators.autoencoder import Decoder, Encoder, as_map, check_shape, random_pictures
from impasto.generators.autoencoder import z_dim as size_of_latent
from impasto.generators.family import Family, Graph, draw_latents
from impasto.generators.grey import as_rgb, from_rgb
from impasto.generators.interface import PSI, SEED, Interface, input_pictures, latent, output_pictures

LOG_VARIANCE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Hyperparameters; for their meaning see `AutoencoderConfig`."""

    resolution: int = 64
    img_channels: int = 3
    latent_channels: int = 4
    latent_side: int = 8
    channel_base: int = 32
    channel_max: int = 256
    blocks: int = 1

    def __post_init__(self) -> None:
        check_shape(self)

    @property
    def z_dim(self) -> int:
        """Numbers in a latent."""
        return size_of_latent(self)


class VAE(nn.Module):
    """Encoder and decoder. Pictures [N, img_channels, R, R] on [-1, 1], latents [N, C, h, w]."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, 2 * config.latent_channels)
        self.decoder = Decoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1, 1))

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each picture's latent, both [N, C, h, w]."""
        mean, log_variance = self.encoder(pictures).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of latents."""
        pictures: Tensor = self.decoder(latents)
        return pictures

    def standardised(self, latents: Tensor) -> Tensor:
        """z [N, z_dim] of latents."""
        return ((latents - self.latent_mean) / self.latent_std).flatten(1)

    def forward(self, z: Tensor) -> Tensor:
        """The pictures of z [N, z_dim]."""
        return self.decode(as_map(z, self.config) * self.latent_std + self.latent_mean)


class PictureDecoder(nn.Module):
    """z [N, z_dim] → pictures [N, 3, R, R]."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        return as_rgb(self.vae(z))


class PictureEncoder(nn.Module):
    """Pictures [N, 3, R, R] → z [N, z_dim] of their means."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, image_float: Tensor) -> Tensor:
        mean, _ = self.vae.encode(from_rgb(image_float, self.vae.config.img_channels))
        return self.vae.standardised(mean)


def _graphs(vae: VAE) -> Mapping[str, Graph]:
    config = vae.config
    decoder, encoder = PictureDecoder(vae), PictureEncoder(vae)

    def draw_pictures(rows: int) -> dict[str, Tensor]:
        return {"image_float": random_pictures(rows, config.resolution)}

    return {
        "decoder": Graph(decoder, lambda rows: {"z": draw_latents(rows, config.z_dim)}, decoder),
        "encoder": Graph(encoder, draw_pictures, encoder, outputs=("z",)),
    }


def _interface(config: VAEConfig) -> Interface:
    side, places = config.resolution, config.latent_side
    meaning = f"latent, standard normal, [{config.latent_channels}, {places}, {places}] row-major"
    inputs = (SEED, latent(config.z_dim, meaning), PSI, *input_pictures(side, side))
    return Interface(side, side, inputs, output_pictures(side, side), {"psi": 1.0, "blend": 0.5})


FAMILY = Family(config=VAEConfig, build=VAE, graphs=_graphs, interface=_interface)
