"""A VQ-VAE (van den Oord, Vinyals & Kavukcuoglu 2017): pictures as a map of codes, each an entry of a codebook.

It reconstructs, decodes codes, and goes between two pictures by their latents before quantisation. It has no prior over
codes and so makes no picture from a seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from impasto.generators.autoencoder import Decoder, Encoder, as_map, check_shape, random_pictures
from impasto.generators.autoencoder import z_dim as size_of_latent
from impasto.generators.family import Family, Graph
from impasto.generators.grey import as_rgb, from_rgb
from impasto.generators.interface import Interface, Spec, input_pictures, latent, output_pictures
from impasto.generators.limits import MAX_WIDTH, check_range


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """Hyperparameters: `codes` is the number of entries of the codebook; for the others see `AutoencoderConfig`."""

    resolution: int = 64
    img_channels: int = 3
    latent_channels: int = 16
    latent_side: int = 16
    channel_base: int = 32
    channel_max: int = 256
    blocks: int = 1
    codes: int = 512

    def __post_init__(self) -> None:
        check_shape(self)
        check_range("codes", self.codes, 2, MAX_WIDTH)

    @property
    def z_dim(self) -> int:
        """Numbers in a latent."""
        return size_of_latent(self)


class VQ(nn.Module):
    """Encoder, codebook and decoder. Pictures [N, img_channels, R, R] on [-1, 1], latents [N, C, h, w]."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, config.latent_channels)
        self.decoder = Decoder(config)
        self.codebook = nn.Parameter(torch.randn(config.codes, config.latent_channels))

    def encode(self, pictures: Tensor) -> Tensor:
        """The latents of pictures, before quantisation."""
        latents: Tensor = self.encoder(pictures)
        return latents

    def codes(self, latents: Tensor) -> Tensor:
        """The nearest entry of the codebook at each place: its index, int64 [N, h, w]."""
        # |z − e|² without |z|², which is the same for all entries.
        products = torch.einsum("nchw,kc->nkhw", latents, self.codebook)
        return (self.codebook.square().sum(dim=1)[:, None, None] - 2.0 * products).argmin(dim=1)

    def embed(self, codes: Tensor) -> Tensor:
        """The latents of codes [N, h, w]."""
        return nn.functional.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures of quantised latents."""
        pictures: Tensor = self.decoder(latents)
        return pictures

    def forward(self, latents: Tensor) -> Tensor:
        """The pictures of latents before quantisation."""
        return self.decode(self.embed(self.codes(latents)))


class PictureDecoder(nn.Module):
    """z [N, z_dim], before quantisation → pictures [N, 3, R, R]."""

    def __init__(self, vq: VQ):
        super().__init__()
        self.vq = vq

    def forward(self, z: Tensor) -> Tensor:
        return as_rgb(self.vq(as_map(z, self.vq.config)))


class PictureEncoder(nn.Module):
    """Pictures [N, 3, R, R] → z [N, z_dim], before quantisation."""

    def __init__(self, vq: VQ):
        super().__init__()
        self.vq = vq

    def forward(self, image_float: Tensor) -> Tensor:
        return self.vq.encode(from_rgb(image_float, self.vq.config.img_channels)).flatten(1)


class CodeEmbedding(nn.Module):
    """Codes [N, h, w] → z [N, z_dim], entries of the codebook."""

    def __init__(self, vq: VQ):
        super().__init__()
        self.vq = vq

    def forward(self, codes: Tensor) -> Tensor:
        return self.vq.embed(codes).flatten(1)


def _graphs(vq: VQ) -> Mapping[str, Graph]:
    config = vq.config
    decoder, encoder, embedding = PictureDecoder(vq), PictureEncoder(vq), CodeEmbedding(vq)

    def draw_codes(rows: int) -> dict[str, Tensor]:
        chosen = torch.Generator().manual_seed(0)
        return {"codes": torch.randint(config.codes, (rows, config.latent_side, config.latent_side), generator=chosen)}

    def draw_entries(rows: int) -> dict[str, Tensor]:
        # Latents that are entries of the codebook: between two, the last bit would decide which one is nearer.
        return {"z": embedding(**draw_codes(rows))}

    def draw_pictures(rows: int) -> dict[str, Tensor]:
        return {"image_float": random_pictures(rows, config.resolution)}

    return {
        "decoder": Graph(decoder, draw_entries, decoder),
        "encoder": Graph(encoder, draw_pictures, encoder, outputs=("z",)),
        "embedding": Graph(embedding, draw_codes, embedding, outputs=("z",)),
    }


def _interface(config: VQConfig) -> Interface:
    side, places = config.resolution, config.latent_side
    meaning = f"latent before quantisation, [{config.latent_channels}, {places}, {places}] row-major"
    codes = Spec("codes", "INT64", (-1, places, places), f"indices into the codebook, 0 to {config.codes - 1}")
    inputs = (latent(config.z_dim, meaning), codes, *input_pictures(side, side))
    return Interface(side, side, inputs, output_pictures(side, side), {"blend": 0.5})


FAMILY = Family(config=VQConfig, build=VQ, graphs=_graphs, interface=_interface)
