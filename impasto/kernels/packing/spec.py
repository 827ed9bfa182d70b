"""One kernel in one configuration, as it is compiled ahead of time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Constant = int | float | bool | str | None
FLOATS = ("fp32", "fp16", "bf16")


@dataclasses.dataclass(frozen=True)
class Spec:
    """One kernel in one configuration."""

    kernel: str
    """The operation that it belongs to."""
    name: str
    """Its own name: letters, digits and underscores."""
    use: str
    """What it is for, in a line."""
    source: str
    """Where it is in `impasto.kernels`: FILE.FUNCTION."""
    types: Mapping[str, str]
    """Of every argument that is no constant, as Triton writes them; pointers are multiples of 16."""
    constants: Mapping[str, Constant]
    """Every other argument."""
    grid: tuple[str, ...]
    """Programs along x, y and z, 1 where left out: of the arguments' names, the batch size `n`, the number of `layers`,
    +, * and `ceil_div`."""
    divisible: tuple[str, ...] = ()
    """Integers that are multiples of 16."""
    num_warps: int = 4
    num_stages: int = 3
    enable_fp_fusion: bool = True
    multiples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Integers that are multiples of more than 16, and of what."""
    most: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Integers that have an upper bound."""
    computed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Arguments that follow from others, by an expression like those of the grid: a caller does not give them."""


def types(**names: str) -> dict[str, str]:
    """Arguments' types from the names under each type; a type with a leading underscore is a pointer."""
    return {argument: type_.replace("_", "*") for type_, arguments in names.items() for argument in arguments.split()}
