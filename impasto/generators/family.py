"""What a family tells of itself: everything that importing, exporting and the torch backend need to know."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from impasto.generators.foreign.sources import Sources
from impasto.generators.interface import Interface

Outputs = Tensor | tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A network of a bundle. `module` takes the inputs by their names, float32 or int64 with the row first.

    `draw` gives so many rows of inputs, the same ones each time, and at every count the same first rows. `reference` is
    what the module is held to, of the same inputs: the generator as it was trained. It and the module give one tensor,
    or a tuple in the order of `outputs`. The inputs in `free_sides` [N, C, H, W] may have any height and width.
    """

    module: nn.Module
    draw: Callable[[int], Mapping[str, Tensor]]
    reference: Callable[..., Outputs]
    outputs: tuple[str, ...] = ("image_float",)
    free_sides: Collection[str] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ForeignState:
    """Another project's state dict: its tensors under our names, and `source`, what kind of file it is."""

    config: Any
    sources: Sources
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A family of generators.

    `config` is a frozen dataclass of int, float and bool, which ValueError says is out of range, sizes and numbers of
    layers not least: a file may state any. `build` makes the module of a config, whose state dict is floating-point,
    and `graphs` the networks of a bundle from that module in evaluation mode, by the graph's name. `interface` says
    what a request may hold. `foreign` recognises another project's files by the names of their tensors (None: it is
    none of them).
    """

    config: type[Any]
    build: Callable[[Any], nn.Module]
    graphs: Callable[[Any], Mapping[str, Graph]]
    interface: Callable[[Any], Interface]
    foreign: Callable[[Sources], ForeignState | None] = lambda sources: None

    def load(self, config: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The module of a config with these weights, in float32, ready for inference."""
        module = self.build(config)
        module.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
        return module.eval().requires_grad_(False)


def draw_latents(rows: int, z_dim: int) -> Tensor:
    """z [rows, z_dim] of the seeds 0, 1, …"""
    return torch.from_numpy(np.stack([np.random.RandomState(seed).randn(z_dim) for seed in range(rows)])).float()


def save_weights(path: Path, family: str, config: Any, tensors: Mapping[str, Tensor], **more: str) -> None:
    """Write the weights file that `impasto import` reads: safetensors whose header has the family and its config.

    What `more` there is to state stands beside them. The same weights make the same bytes.
    """
    stated = {"family": family, "config": json.dumps(dataclasses.asdict(config)), **more}
    data = save({key: value.contiguous() for key, value in tensors.items()}, stated)
    size = int.from_bytes(data[:8], "little")
    # The library writes what is stated in an order that changes from one time to the next.
    header = json.loads(data[8 : 8 + size]) | {"__metadata__": stated}
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
    path.write_bytes(len(ordered).to_bytes(8, "little") + ordered + data[8 + size :])
