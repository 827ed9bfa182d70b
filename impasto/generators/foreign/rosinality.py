"""The StyleGAN2 files of rosinality/stylegan2-pytorch: {g_ema, latent_avg, …}, its tensor names and ours.

Its convolutions multiply their weights by 1/√(I·k²) more than ours do; demodulation cancels that in every layer but
toRGB, where ours have it in the styles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impasto.errors import CheckpointError
from impasto.generators.foreign.plain_values import shown
from impasto.generators.foreign.stylegan2_tensors import check_filter, infer_config, resample_filter
from impasto.generators.foreign.torch_archive import StoredTensor
from impasto.generators.stylegan2 import Mapping as MappingNetwork
from impasto.generators.stylegan2_config import StyleGAN2Config

MEAN_DRAWS = 10_000  # in thousands, so that wide networks need little memory

CONVOLUTION = {
    "conv.weight": ("weight", (0,)),
    "conv.modulation.weight": ("affine.weight", ()),
    "conv.modulation.bias": ("affine.bias", ()),
    "noise.weight": ("noise_strength", (0,)),
    "activate.bias": ("bias", ()),
}
TO_RGB = {
    "conv.weight": ("weight", (0,)),
    "conv.modulation.weight": ("affine.weight", ()),
    "conv.modulation.bias": ("affine.bias", ()),
    "bias": ("bias", (0, 2, 3)),
}


def choose_state(value: object) -> tuple[dict[Any, Any], StoredTensor | None]:
    """`g_ema` and `latent_avg` (None if the file has none) of what a torch file holds."""
    keys = (", ".join(shown(key) for key in list(value)[:8]) or "nothing") if isinstance(value, dict) else shown(value)
    if not isinstance(value, dict) or not isinstance(state := value.get("g_ema"), dict):
        fault = (
            "only a discriminator" if isinstance(value, dict) and "d" in value and "g" not in value else "no generator"
        )
        raise CheckpointError(f"found {fault} in a torch file ({keys}); a rosinality file has it in g_ema")
    latent_avg = value.get("latent_avg")
    if latent_avg is not None and not isinstance(latent_avg, StoredTensor):
        raise CheckpointError(f"latent_avg: found {shown(latent_avg)}; allowed is a tensor")
    return state, latent_avg


def rosinality_sources(state: Mapping[Any, Any], latent_avg: StoredTensor | None) -> dict[str, StoredTensor | Tensor]:
    """The tensors of `g_ema` under our names, with mapping.w_avg (zeros for now without `latent_avg`).

    CheckpointError names a key that `g_ema` cannot have.
    """
    sources: dict[str, StoredTensor | Tensor] = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, StoredTensor):
            raise CheckpointError(f"g_ema: found {shown(tensor)} under {shown(key)}; allowed are named tensors")
        if key.endswith((".blur.kernel", ".upsample.kernel")):
            if tensor.shape != (4, 4) or tensor.dtype != torch.float32:
                raise CheckpointError(f"{key}: found {tensor.dtype} {list(tensor.shape)}; allowed is float32 [4, 4]")
            check_filter(key, tensor.read(), gain=4.0)
            continue
        name, ones = our_name(key)
        sources[name] = tensor.squeeze(ones)
    layers = [name.removesuffix(".noise_const") for name in sources if name.endswith(".noise_const")]
    for module in {*layers, *(layer.rsplit(".", 1)[0] for layer in layers)}:
        sources[f"{module}.resample_filter"] = resample_filter()
    if latent_avg is not None:
        sources["mapping.w_avg"] = latent_avg.squeeze(range(len(latent_avg.shape) - 1))
    else:
        sources["mapping.w_avg"] = torch.zeros(infer_config(sources).w_dim)
    return sources


def our_name(key: str) -> tuple[str, tuple[int, ...]]:
    """Our name of a tensor of `g_ema`, and its dimensions of length one that ours does not have."""
    if key == "input.input":
        return "synthesis.b4.const", (0,)
    if match := re.fullmatch(r"style\.(\d\d?)\.(weight|bias)", key):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}", ()
    if match := re.fullmatch(r"noises\.noise_(\d\d?)", key):
        return f"synthesis.{_layer(int(match[1]))}.noise_const", (0, 1)
    if (match := re.fullmatch(r"(?:conv1|convs\.(\d\d?))\.(.+)", key)) and match[2] in CONVOLUTION:
        name, ones = CONVOLUTION[match[2]]
        return f"synthesis.{_layer(0 if match[1] is None else int(match[1]) + 1)}.{name}", ones
    if (match := re.fullmatch(r"(?:to_rgb1|to_rgbs\.(\d\d?))\.(.+)", key)) and match[2] in TO_RGB:
        name, ones = TO_RGB[match[2]]
        return f"synthesis.b{4 if match[1] is None else 8 * 2 ** int(match[1])}.torgb.{name}", ones
    raise CheckpointError(f"g_ema: found the tensor {shown(key)}, which no StyleGAN2 generator of rosinality has")


def estimate_mean(config: StyleGAN2Config, tensors: Mapping[str, Tensor]) -> Tensor:
    """w_avg [w_dim] as the mean of 10 000 w, of z from one fixed seed: for files without `latent_avg`."""
    network = MappingNetwork(config)
    prefix = "mapping."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    random = np.random.RandomState(0)
    total = torch.zeros(config.w_dim, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(MEAN_DRAWS // 1000):
            z = torch.from_numpy(random.randn(1000, config.z_dim)).float()
            total += network(z).double().sum(dim=0)
    return (total / MEAN_DRAWS).float()


def _layer(index: int) -> str:
    """The convolution of that number: b4.conv1, then conv0 and conv1 of each block."""
    return "b4.conv1" if index == 0 else f"b{8 * 2 ** ((index - 1) // 2)}.conv{(index - 1) % 2}"
