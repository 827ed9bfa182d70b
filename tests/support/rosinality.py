"""Files as rosinality/stylegan2-pytorch saves them, made from one of our generators."""

from __future__ import annotations

import collections
import io
from typing import Any

import torch
from torch import Tensor

from impasto.generators.stylegan2 import StyleGAN2


def rosinality_state(generator: StyleGAN2) -> collections.OrderedDict[str, Tensor]:
    """The state dict of its `Generator` with the tensors of an unconditional generator of ours."""
    ours = generator.state_dict()
    binomial = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(binomial, binomial) / 16.0
    state: collections.OrderedDict[str, Tensor] = collections.OrderedDict()
    for index in range(generator.config.mapping_layers):
        for kind in ("weight", "bias"):
            state[f"style.{index + 1}.{kind}"] = ours[f"mapping.fc{index}.{kind}"]
    state["input.input"] = ours["synthesis.b4.const"][None]
    convolutions = [f"b{r}.conv{i}" for r in generator.config.resolutions for i in ((1,) if r == 4 else (0, 1))]
    for index, source in enumerate(convolutions):
        target = "conv1" if index == 0 else f"convs.{index - 1}"
        state |= _modulated(ours, f"synthesis.{source}", target)
        state[f"{target}.noise.weight"] = ours[f"synthesis.{source}.noise_strength"][None]
        state[f"{target}.activate.bias"] = ours[f"synthesis.{source}.bias"]
        if source.endswith("conv0"):
            state[f"{target}.conv.blur.kernel"] = kernel
        state[f"noises.noise_{index}"] = ours[f"synthesis.{source}.noise_const"][None, None]
    for index, r in enumerate(generator.config.resolutions):
        target = "to_rgb1" if index == 0 else f"to_rgbs.{index - 1}"
        state |= _modulated(ours, f"synthesis.b{r}.torgb", target)
        state[f"{target}.bias"] = ours[f"synthesis.b{r}.torgb.bias"].reshape(1, -1, 1, 1)
        if index > 0:
            state[f"{target}.upsample.kernel"] = kernel
    return state


def torch_file(value: Any, *, zipped: bool = True) -> bytes:
    """What torch.save writes, in the zip form or in the older one."""
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _modulated(ours: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    return {
        f"{target}.conv.weight": ours[f"{source}.weight"][None],
        f"{target}.conv.modulation.weight": ours[f"{source}.affine.weight"],
        f"{target}.conv.modulation.bias": ours[f"{source}.affine.bias"],
    }
