"""What trainers do to networks: place them on a device, and average them over the pictures seen."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def placed(module: Network, device: torch.device) -> Network:
    """The module on the device, its convolution weights channels-last: the order that 16-bit kernels want."""
    module.to(device)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


@torch.no_grad()
def average(averaged: nn.Module, current: nn.Module, seen: int, batch: int, half_life: float) -> None:
    """Move `averaged` towards `current` after a batch: what was learnt `half_life` pictures ago has half the weight.

    Early on the half-life is a twentieth of what was seen: the beginning is soon forgotten. Running statistics are
    averaged as parameters are.
    """
    keep = 0.5 ** (batch / max(min(half_life, 0.05 * seen), 1e-8))
    for target, tensor in zip(averaged.state_dict().values(), current.state_dict().values(), strict=True):
        if tensor.is_floating_point():
            target.lerp_(tensor, 1.0 - keep)
        else:
            target.copy_(tensor)
