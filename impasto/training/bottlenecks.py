"""What stands between encoder and decoder while an autoencoder is trained: a Gaussian posterior, or a codebook.

Each holds its network, and in its state everything that a run needs to go on. `encode` gives what the decoder gets for
pictures [N, 3, R, R], and what is added to their distance, weighted; `sample` what it gets for pictures from nowhere;
`means` the latents between which a user goes, and `reconstruct` the pictures of such latents.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from impasto.generators.vae import VAE
from impasto.generators.vq import VQ

Penalties = Mapping[str, Tensor]


class Gaussian(nn.Module):
    """The reparametrised posterior of a VAE, with `beta` times its divergence from the prior.

    The divergence KL(N(mean, variance) ‖ N(0, 1)) is in nats for each number of the picture, as the distance is: beta 1
    is the evidence lower bound where the distance is a negative log likelihood (Kingma and Welling 2014; beta: Higgins
    et al. 2017, "beta-VAE").
    """

    family = "vae"

    def __init__(self, network: VAE, beta: float) -> None:
        super().__init__()
        self.network = network
        self.beta = beta

    def encode(self, pictures: Tensor, rng: torch.Generator) -> tuple[Tensor, Penalties]:
        mean, log_variance = (tensor.float() for tensor in self.network.encode(pictures))
        noise = torch.randn(mean.shape, generator=rng).to(mean.device)
        latents = mean + noise * (0.5 * log_variance).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum()
        self._measure(latents.detach())
        return latents, {"divergence": self.beta * divergence / pictures.numel()}

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        network, config = self.network, self.network.config
        shape = (count, config.latent_channels, config.latent_side, config.latent_side)
        z = torch.randn(shape, generator=rng).to(network.latent_mean.device)
        return z * network.latent_std + network.latent_mean

    def means(self, pictures: Tensor) -> Tensor:
        mean, _ = self.network.encode(pictures)
        return mean

    def reconstruct(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents)

    @torch.no_grad()
    def _measure(self, latents: Tensor, rate: float = 0.01) -> None:
        """Keep the mean and standard deviation of each latent channel, over about the last 1/rate batches."""
        mean, std = self.network.latent_mean, self.network.latent_std
        mean.lerp_(latents.mean(dim=(0, 2, 3))[:, None, None], rate)
        variance = (latents - mean).square().mean(dim=(0, 2, 3))[:, None, None]
        std.copy_(std.square().lerp(variance, rate).sqrt())


class Codebook(nn.Module):
    """The quantisation of a VQ-VAE: codebook loss, `commitment` times commitment loss, straight-through gradient.

    van den Oord et al. 2017, "Neural discrete representation learning", eq. 3. Entries that the last steps did not use
    become latents of the batch (random restarts, Dhariwal et al. 2020, "Jukebox", §3.1).
    """

    family = "vq"
    usage: Tensor

    def __init__(self, network: VQ, commitment: float = 0.25) -> None:
        super().__init__()
        self.network = network
        self.commitment = commitment
        self.register_buffer("usage", torch.zeros(network.config.codes))

    def encode(self, pictures: Tensor, rng: torch.Generator) -> tuple[Tensor, Penalties]:
        latents = self.network.encode(pictures).float()
        self._restart(latents.detach(), rng)
        codes = self.network.codes(latents.detach())
        entries = self.network.embed(codes)
        codebook = (entries - latents.detach()).square().mean()
        commitment = (latents - entries.detach()).square().mean()
        self._count(codes)
        straight_through = latents + (entries - latents).detach()
        return straight_through, {"quantisation": codebook + self.commitment * commitment}

    def sample(self, count: int, rng: torch.Generator) -> None:
        """None: the family has no prior over codes."""

    def means(self, pictures: Tensor) -> Tensor:
        return self.network.encode(pictures)

    def reconstruct(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.network(latents)
        return pictures

    @torch.no_grad()
    def _restart(self, latents: Tensor, rng: torch.Generator, unused: float = 0.03) -> None:
        """Give entries whose share of use, in codes a step, has fallen under `unused` a random latent's place."""
        dead = self.usage < unused
        rows = latents.permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.randint(len(rows), (len(self.usage),), generator=rng).to(rows.device)
        self.network.codebook.copy_(torch.where(dead[:, None], rows[chosen], self.network.codebook))
        self.usage.masked_fill_(dead, 1.0)

    @torch.no_grad()
    def _count(self, codes: Tensor, rate: float = 0.01) -> None:
        counts = torch.bincount(codes.flatten(), minlength=len(self.usage)).to(self.usage.dtype)
        self.usage.lerp_(counts, rate)
