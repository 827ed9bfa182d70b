"""Which StyleGAN2 a set of named tensors is, and its state dict once every tensor is checked."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from impasto.errors import CheckpointError
from impasto.generators.foreign.sources import Sources, check_width, shape_of, take_state
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import MAX_RESOLUTION, StyleGAN2Config
from impasto.kernels import upfirdn


def infer_config(sources: Sources) -> StyleGAN2Config:
    """The hyperparameters that tensors tell, under the official names; those that they do not have their defaults.

    Many values of channel_base and channel_max can make the same channels: these are the smallest. CheckpointError
    if the tensors are those of another architecture.
    """
    resolutions = _resolutions(sources)
    channels = {r: shape_of(sources, f"synthesis.b{r}.torgb.weight", 4)[1] for r in resolutions}
    layers = sum(1 for name in sources if re.fullmatch(r"mapping\.fc\d+\.weight", name))
    w_dim, _ = shape_of(sources, f"mapping.fc{max(layers - 1, 0)}.weight", 2)
    _, features = shape_of(sources, "mapping.fc0.weight", 2)
    conditional = "mapping.embed.weight" in sources
    embedded, c_dim = shape_of(sources, "mapping.embed.weight", 2) if conditional else (0, 0)
    try:
        config = StyleGAN2Config(
            resolution=max(resolutions),
            z_dim=features - embedded,
            w_dim=w_dim,
            c_dim=c_dim,
            img_channels=shape_of(sources, "synthesis.b4.torgb.weight", 4)[0],
            mapping_layers=layers,
            channel_base=max(r * count for r, count in channels.items()),
            channel_max=max(channels.values()),
        )
    except ValueError as error:
        raise CheckpointError(f"found tensors that fit no generator: {error}") from error
    check_width(config.z_dim, config.w_dim, config.c_dim, config.img_channels, config.channel_max)
    for r, count in channels.items():
        if count != config.channels(r):
            raise CheckpointError(
                f"synthesis.b{r}.torgb.weight: found {count} channels at {r}×{r}; "
                f"allowed is min(channel_base // r, channel_max), {config.channels(r)} by the other blocks"
            )
    return config


def check_agreement(stated: StyleGAN2Config, found: StyleGAN2Config) -> None:
    """Refuse hyperparameters that a file states when its tensors, by `infer_config`, are of others."""
    for name in ("resolution", "z_dim", "w_dim", "c_dim", "img_channels", "mapping_layers"):
        if getattr(stated, name) != getattr(found, name):
            raise CheckpointError(
                f"{name}: the file says {getattr(stated, name)}; its tensors are of {getattr(found, name)}"
            )
    for r in found.resolutions:
        if stated.channels(r) != found.channels(r):
            raise CheckpointError(
                f"channel_base, channel_max: the file says {stated.channel_base}, {stated.channel_max}, which makes "
                f"{stated.channels(r)} channels at {r}×{r}; its tensors are of {found.channels(r)}"
            )


def take_tensors(config: StyleGAN2Config, sources: Sources, file_bytes: int) -> dict[str, Tensor]:
    """The state dict of StyleGAN2(config) in float32. CheckpointError names what is missing, too much or wrong."""
    with torch.device("meta"):
        network = StyleGAN2(config)
    tensors = take_state(network, sources, file_bytes)
    for name, tensor in tensors.items():
        if name.endswith(".resample_filter"):
            check_filter(name, tensor)
    return tensors


def resample_filter() -> Tensor:
    """The filter [1, 3, 3, 1] on both axes, with sum 1."""
    taps = upfirdn.binomial_filter()
    return torch.outer(taps, taps)


def check_filter(name: str, taps: Tensor, gain: float = 1.0) -> None:
    """Refuse any resampling filter but `resample_filter` times `gain`."""
    if taps.shape != (4, 4) or not torch.allclose(taps.float(), resample_filter() * gain, atol=1e-5):
        raise CheckpointError(f"{name}: found another resampling filter; allowed is [1, 3, 3, 1]")


def _resolutions(sources: Sources) -> list[int]:
    """4, 8, … as far as there are blocks; refuses what is no StyleGAN2 with skip connections by its name."""
    if any(name.endswith(".skip.weight") for name in sources):
        raise CheckpointError("architecture: found 'resnet' (there is a skip.weight); allowed is 'skip'")
    levels = [2**level for level in range(2, int(math.log2(MAX_RESOLUTION)) + 2)]
    blocks = [r for r in levels if f"synthesis.b{r}.conv1.weight" in sources]
    pictures = [r for r in levels if f"synthesis.b{r}.torgb.weight" in sources]
    if len(blocks) > 1 and pictures == blocks[-1:]:
        raise CheckpointError("architecture: found 'orig' (only the last block has torgb); allowed is 'skip'")
    if not blocks:
        raise CheckpointError("found no block of a synthesis network (synthesis.b4.conv1.weight and so on)")
    return [r for r in levels if r <= blocks[-1]]
