"""Tiles and splits of the convolution kernels: by the shape of one sample and the type, never by the batch."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Tile:
    """What one program computes: pixels × output channels, so many input channels a step; warps and pipeline stages."""

    pixels: int
    outputs: int
    inputs: int
    warps: int
    stages: int


def tile_of(pixels: int, in_channels: int, out_channels: int, dtype: torch.dtype, precision: str) -> Tile:
    """The tile for a sample with so many input pixels; `precision` is that of float32."""
    if dtype is torch.float32 and precision == "ieee":
        tile = Tile(32, 64, 16, 4, 2)
    elif dtype is torch.float32:
        tile = Tile(64, 64, 16, 8, 4) if pixels <= 1024 else Tile(128, 64, 32, 4, 3)
    elif pixels <= 16:
        tile = Tile(16, 64, 64, 4, 4)
    elif pixels <= 1024:
        tile = Tile(64, 64, 64, 4, 4)
    else:
        tile = Tile(128, 128, 64, 8, 3)
    outputs = power_of_two(out_channels, 16, tile.outputs)
    inputs = power_of_two(in_channels, 16, tile.inputs)
    return dataclasses.replace(tile, outputs=outputs, inputs=inputs)


def splits_of(pixels: int, programs: int, steps: int) -> int:
    """Into how many parts to split a reduction of `steps` steps, where a sample makes `programs` programs without.

    A layer of up to 16×16 leaves most of a card idle: it is split towards 128 programs, of four steps at least.
    """
    return max(1, min(128 // programs, steps // 4)) if pixels <= 256 else 1


def power_of_two(value: int, least: int, most: int) -> int:
    """The next power of two, within bounds."""
    return min(most, max(least, 1 << (value - 1).bit_length()))
