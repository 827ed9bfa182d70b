"""What a CUDA graph holds: the networks of a StyleGAN2, with noise before them and bytes after them, on one device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from impasto.engine.layer_noise import Noise
from impasto.engine.picture import Floats
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_frozen import FrozenMapping, FrozenSynthesis
from impasto.generators.stylegan2_kernels import KernelMapping, KernelSynthesis
from impasto.kernels import to_image
from impasto.kernels.philox_normal import philox_normal
from impasto.kernels.routing import Table

MODES = ("const", "random", "none")
"""Noise modes by the number that stands for them on the device."""


class Networks(Protocol):
    """Networks whose inputs and outputs are on the device."""

    def mapping(self, **inputs: Tensor) -> tuple[Tensor]:
        """ws [N, num_ws, w_dim] for z, psi and, of a conditional generator, c."""

    def feeds(self, ws: Floats, noise: Noise) -> Mapping[str, NDArray[Any]]:
        """What `pictures` takes."""

    def pictures(self, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Floats [N, 3, H, W], their bytes uint8 [N, H, W, 3], and int32 [N]: 1 where a picture holds NaN."""


class KernelNetworks:
    """Networks of our kernels. Noise is made on the device: the host sends seeds."""

    def __init__(self, generator: StyleGAN2, dtype: torch.dtype, device: torch.device, table: Table) -> None:
        self._mapping = KernelMapping(generator.mapping, device)
        self._synthesis = KernelSynthesis(generator.synthesis, dtype, device, table)
        self._noise = DeviceNoise(generator.synthesis.constant_noise().to(device))

    def mapping(self, **inputs: Tensor) -> tuple[Tensor]:
        return (self._mapping(**inputs),)

    def feeds(self, ws: Floats, noise: Noise) -> Mapping[str, NDArray[Any]]:
        return {"ws": ws, **self._noise.feeds(noise)}

    def pictures(self, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        picture = self._synthesis(inputs["ws"], self._noise.maps(inputs["modes"], inputs["seeds"]))
        return picture, *to_image.to_image(picture)


class DeviceNoise:
    """A generator's noise, made on the device: the host sends modes and seeds. `stored` [noise_size] is there."""

    def __init__(self, stored: Tensor) -> None:
        self._stored = stored

    def feeds(self, noise: Noise) -> Mapping[str, NDArray[Any]]:
        """What `maps` takes."""
        modes = np.array([MODES.index(mode) for mode in noise.modes], np.int64)
        return {"modes": modes, "seeds": np.array(noise.seeds, np.int64)}

    def maps(self, modes: Tensor, seeds: Tensor) -> Tensor:
        """The maps [N, noise_size], drawn as `impasto.kernels.philox` defines them."""
        zeros = torch.zeros_like(seeds)
        drawn = philox_normal(seeds, zeros, zeros, len(self._stored))
        stored = self._stored * (modes == MODES.index("const"))[:, None]
        return torch.where((modes == MODES.index("random"))[:, None], drawn, stored)


class TorchNetworks:
    """Networks of torch's own operations in float32, for where there is no Triton; noise comes from the host."""

    def __init__(self, generator: StyleGAN2, device: torch.device) -> None:
        self._mapping = FrozenMapping(generator.mapping).to(device)
        self._synthesis = FrozenSynthesis(generator.synthesis).to(device)

    def mapping(self, **inputs: Tensor) -> tuple[Tensor]:
        return (self._mapping(**inputs),)

    def feeds(self, ws: Floats, noise: Noise) -> Mapping[str, NDArray[Any]]:
        return {"ws": ws, "noise": noise.rows()}

    def pictures(self, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        picture = self._synthesis(**inputs)
        return picture, *to_image.reference(picture)
