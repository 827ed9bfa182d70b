"""What the hyperparameters of a config may be: its own checks, so that a file cannot state a network without end."""

from __future__ import annotations

MAX_RESOLUTION = 1024
MAX_WIDTH = 2**15
"""Features of a layer."""


def check_range(name: str, value: int, least: int, most: int) -> None:
    """ValueError that names the hyperparameter, unless it is from `least` to `most`."""
    if not least <= value <= most:
        raise ValueError(f"{name}: found {value}; allowed is an integer from {least} to {most}")


def check_power_of_two(name: str, value: int, least: int, most: int = MAX_RESOLUTION) -> None:
    """ValueError that names the hyperparameter, unless it is a power of two from `least` to `most`."""
    if value.bit_count() != 1 or not least <= value <= most:
        raise ValueError(f"{name}: found {value}; allowed is a power of two from {least} to {most}")
