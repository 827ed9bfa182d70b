"""Which StyleGAN3 a set of named tensors is, and its state dict once every tensor is checked."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from impasto.errors import CheckpointError
from impasto.generators.foreign.sources import Sources, check_width, shape_of, take_state
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config

LAYER = re.compile(r"synthesis\.(L(\d{1,3})_(\d{1,5})_(\d{1,5}))\.weight")
MARK = "synthesis.input."
"""How the names begin that a StyleGAN3 has, and a StyleGAN2 has not."""


def is_stylegan3(sources: Sources) -> bool:
    """Whether tensors of these names are a StyleGAN3's."""
    return any(name.startswith(MARK) for name in sources)


def infer_config(sources: Sources) -> StyleGAN3Config:
    """The hyperparameters that tensors tell, under the official names; those that they do not have their defaults.

    Channels are not told, but for those of the picture. CheckpointError if the tensors are of another architecture.
    """
    names = layer_names(sources)
    if not names:
        raise CheckpointError("found no layer of a StyleGAN3 synthesis network (synthesis.L0_36_512.weight and so on)")
    mapping_layers = sum(1 for name in sources if re.fullmatch(r"mapping\.fc\d+\.weight", name))
    w_dim, _ = shape_of(sources, f"mapping.fc{max(mapping_layers - 1, 0)}.weight", 2)
    _, features = shape_of(sources, "mapping.fc0.weight", 2)
    conditional = "mapping.embed.weight" in sources
    embedded, c_dim = shape_of(sources, "mapping.embed.weight", 2) if conditional else (0, 0)
    widest, *_, kernel = shape_of(sources, f"synthesis.{names[0]}.weight", 4)
    img_channels = shape_of(sources, f"synthesis.{names[-1]}.weight", 4)[0]
    _, size, _ = names[-1].split("_")
    first_filter = sources.get(f"synthesis.{names[0]}.down_filter")
    try:
        config = StyleGAN3Config(
            resolution=int(size),
            z_dim=features - embedded,
            w_dim=w_dim,
            c_dim=c_dim,
            img_channels=img_channels,
            mapping_layers=mapping_layers,
            num_layers=len(names) - 1,
            conv_kernel=kernel,
            radial_filters=first_filter is not None and len(first_filter.shape) == 2,
        )
    except ValueError as error:
        raise CheckpointError(f"found tensors that fit no generator: {error}") from error
    check_width(config.z_dim, config.w_dim, config.c_dim, config.img_channels, widest)
    return config


def layer_names(sources: Sources) -> list[str]:
    """L0_36_512 and so on: the layers by their index."""
    found = sorted((int(match[2]), match[1]) for name in sources if (match := LAYER.fullmatch(name)))
    return [name for _, name in found]


def check_agreement(stated: StyleGAN3Config, found: StyleGAN3Config, names: list[str]) -> None:
    """Refuse hyperparameters that a file states when its tensors are of others, `found` and layers of those names."""
    for name in (
        "resolution",
        "z_dim",
        "w_dim",
        "c_dim",
        "img_channels",
        "mapping_layers",
        "num_layers",
        "conv_kernel",
        "radial_filters",
    ):
        if getattr(stated, name) != getattr(found, name):
            raise CheckpointError(
                f"{name}: the file says {getattr(stated, name)}; its tensors are of {getattr(found, name)}"
            )
    for layer, name in zip(stated.layers, names, strict=True):
        if layer.name != name:
            raise CheckpointError(
                f"channel_base, channel_max: the file says {stated.channel_base}, {stated.channel_max}, "
                f"which makes the layer {layer.name}; its tensors are of {name}"
            )


def take_tensors(config: StyleGAN3Config, sources: Sources, file_bytes: int) -> dict[str, Tensor]:
    """The state dict of StyleGAN3(config) in float32. CheckpointError names what is missing, too much or wrong."""
    with torch.device("meta"):
        network = StyleGAN3(config)
    tensors = take_state(network, sources, file_bytes)
    if not torch.equal(tensors["synthesis.input.transform"], torch.eye(3)):
        raise CheckpointError("synthesis.input.transform: found a turned canvas; allowed is the identity")
    return tensors
