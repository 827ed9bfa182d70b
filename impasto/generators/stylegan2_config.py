"""Hyperparameters of StyleGAN2, without torch: an engine that runs a graph needs them too."""

from __future__ import annotations

import dataclasses
import math

MAX_RESOLUTION = 1024


@dataclasses.dataclass(frozen=True)
class StyleGAN2Config:
    """Hyperparameters of a generator. `resolution` is 4·2^k up to 1024; channels at r are min(base // r, max).

    `conv_clamp` bounds activations (None: no bound); the `num_fp16_res` highest resolutions may run in fp16.
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    img_channels: int = 3
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    channel_base: int = 32768
    channel_max: int = 512
    conv_clamp: float | None = None
    num_fp16_res: int = 0

    def __post_init__(self) -> None:
        levels = math.log2(self.resolution) if self.resolution > 0 else 0.0
        if levels != int(levels) or not 4 <= self.resolution <= MAX_RESOLUTION:
            raise ValueError(
                f"resolution: found {self.resolution}; allowed is a power of two from 4 to {MAX_RESOLUTION}"
            )
        for name in ("z_dim", "w_dim", "img_channels", "mapping_layers", "channel_base", "channel_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}; allowed is 1 or more")
        if self.c_dim < 0:
            raise ValueError(f"c_dim: found {self.c_dim}; allowed is 0 or more")
        if self.channels(self.resolution) < 1:
            raise ValueError(f"channel_base: found {self.channel_base}; allowed is {self.resolution} or more")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, … up to the output resolution."""
        return tuple(2**level for level in range(2, int(math.log2(self.resolution)) + 1))

    @property
    def num_ws(self) -> int:
        """How many rows of w a picture takes: 2·log2(resolution) − 2."""
        return 2 * len(self.resolutions)

    @property
    def noise_shapes(self) -> tuple[int, ...]:
        """The side of each layer's square noise map, in the order of the flat noise row."""
        return tuple(r for r in self.resolutions for _ in range(1 if r == 4 else 2))

    @property
    def noise_size(self) -> int:
        """Values in one picture's flat noise row."""
        return sum(side * side for side in self.noise_shapes)

    def channels(self, resolution: int) -> int:
        """Feature channels at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    def runs_in_half(self, resolution: int) -> bool:
        """Whether the block of this resolution may run in 16 bits: r ≥ max(2^(log2 res + 1 − num_fp16_res), 8)."""
        if self.num_fp16_res == 0:
            return False
        lowest = math.exp2(math.log2(self.resolution) + 1 - self.num_fp16_res)
        return resolution >= max(lowest, 8.0)
