"""What is exported of a diffusion pipeline: modules whose inputs and outputs are the graphs'.

Shapes: latent [N, C, h, w], picture [N, 3, H, W] nominally in [-1, 1], embeddings of a prompt [N, L, D].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Denoiser(nn.Module):
    """sample [N, C, h, w], timestep [N] → what the model predicts [N, C, h, w]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        predicted: Tensor = self.network(sample, timestep).sample
        return predicted


class ClassDenoiser(nn.Module):
    """The same with class_labels [N]. A learned variance, the second half of the channels, is dropped."""

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__()
        self.network = network
        self.channels = channels

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        predicted: Tensor = self.network(sample, timestep, class_labels=class_labels).sample
        return predicted[:, : self.channels]


class TextDenoiser(nn.Module):
    """The same with encoder_hidden_states [N, L, D]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        predicted: Tensor = self.network(sample, timestep, encoder_hidden_states).sample
        return predicted


class SizedTextDenoiser(nn.Module):
    """SDXL's: also text_embeds [N, P] and time_ids [N, 6], which are original size, crop and target size in pixels."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, text_embeds: Tensor, time_ids: Tensor
    ) -> Tensor:
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        predicted: Tensor = self.network(sample, timestep, encoder_hidden_states, added_cond_kwargs=added).sample
        return predicted


class PooledTextDenoiser(nn.Module):
    """Stable Diffusion 3's: also text_embeds [N, P]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, text_embeds: Tensor) -> Tensor:
        predicted: Tensor = self.network(sample, encoder_hidden_states, text_embeds, timestep).sample
        return predicted


class ClipLayers(nn.Module):
    """CLIP's text transformer over input_ids [N, L]: the states before its last layer, and those at its end normed.

    The layers are run here one by one, with the causal mask as a constant.
    """

    def __init__(self, encoder: Any, length: int) -> None:
        super().__init__()
        self.text_model = getattr(encoder, "text_model", encoder)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("mask", mask[None, None], persistent=False)
        self.end = encoder.config.eos_token_id

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        states = self.text_model.embeddings(input_ids=input_ids)
        before_last = states
        for layer in self.text_model.encoder.layers:
            before_last, states = states, layer(states, self.mask)
        return before_last, self.text_model.final_layer_norm(states)

    def pooled(self, input_ids: Tensor, normed: Tensor) -> Tensor:
        """The state at the first end of text; configs from before its id was right (2) mean the highest id."""
        ends = input_ids if self.end == 2 else (input_ids == self.end).to(torch.int64)
        place = ends.argmax(dim=1)[:, None, None].expand(-1, -1, normed.shape[2])
        return normed.gather(1, place)[:, 0]


class TextEncoder(nn.Module):
    """Stable Diffusion 1 and 2: input_ids [N, L] → the normed states [N, L, D] of the last layer."""

    def __init__(self, encoder: Any, length: int) -> None:
        super().__init__()
        self.layers = ClipLayers(encoder, length)

    def forward(self, input_ids: Tensor) -> Tensor:
        _, normed = self.layers(input_ids)
        states: Tensor = normed
        return states


class TextEncoders(nn.Module):
    """Two encoders over a prompt's ids in their vocabularies: states before the last layers side by side, and pooled.

    `pooling` says which encoders' projected pooled states make text_embeds: SDXL takes the second's, Stable
    Diffusion 3 both. The states are padded with zeros to `shape` [L, D], Stable Diffusion 3's own way to do without
    its third encoder.
    """

    def __init__(self, encoders: Sequence[Any], length: int, pooling: Sequence[int], shape: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayers(encoder, length) for encoder in encoders)
        self.projections = nn.ModuleList(encoders[index].text_projection for index in pooling)
        self.pooling = tuple(pooling)
        width = sum(encoder.config.hidden_size for encoder in encoders)
        self.padding = (0, shape[1] - width, 0, shape[0] - length)

    def forward(self, input_ids: Tensor, input_ids_2: Tensor) -> tuple[Tensor, Tensor]:
        ids = (input_ids, input_ids_2)
        states = [layers(tokens) for layers, tokens in zip(self.layers, ids, strict=True)]
        pooled = [
            projection(self.layers[index].pooled(ids[index], states[index][1]))  # type: ignore[operator]
            for index, projection in zip(self.pooling, self.projections, strict=True)
        ]
        wide = torch.cat([before_last for before_last, _ in states], dim=-1)
        return nn.functional.pad(wide, self.padding), torch.cat(pooled, dim=-1)


class LatentScale(nn.Module):
    """The affine map between the autoencoder's latent z and the one that is denoised: z = latent·scale + shift."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__()
        channels = config.latent_channels
        mean, std = (torch.tensor(config.get(name) or [usual] * channels) for name, usual in _MOMENTS)
        self.register_buffer("scale", (std / config.scaling_factor).float()[:, None, None])
        self.register_buffer("shift", (mean + (config.get("shift_factor") or 0.0)).float()[:, None, None])


_MOMENTS = (("latents_mean", 0.0), ("latents_std", 1.0))


class Decoder(nn.Module):
    """latent [N, C, h, w] → picture [N, 3, H, W]."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.latent = LatentScale(autoencoder.config)

    def forward(self, latent: Tensor) -> Tensor:
        picture: Tensor = self.autoencoder.decode(latent * self.latent.scale + self.latent.shift).sample
        return picture


class Encoder(nn.Module):
    """picture [N, 3, H, W] → mean and std [N, C, h, w] of its latent: mean + std·n with n standard normal."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.latent = LatentScale(autoencoder.config)

    def forward(self, image_float: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.autoencoder.encode(image_float).latent_dist
        return (posterior.mean - self.latent.shift) / self.latent.scale, posterior.std / self.latent.scale
