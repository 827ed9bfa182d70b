"""Which form of a modulated layer runs: one function over a measured table, for engines, tests and benchmarks alike.

A form is a way to compute the layer, the same to within rounding:

    plain, folded, transposed                  our kernels (`modulated_conv`, `modulated_conv_up`)
    cudnn, cudnn folded, cudnn transposed      torch's convolution, then one kernel for all that follows its sums
    reference                                  plain torch, an operation after the other

`python -m benchmarks.gpu` writes the table of a card, configs/NAME.json: the fastest form of each shape over its batch
sizes, among those that came close to float64 and gave a row the same bytes alone and in a batch. Nothing is measured
while serving, and no route depends on the batch.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from impasto.kernels import modulated_conv_up
from impasto.kernels.jit import triton

CONFIGS = Path(__file__).parent / "configs"
FORMS = {False: ("plain", "cudnn"), True: ("folded", "transposed", "cudnn folded", "cudnn transposed")}
"""The forms that compete for a layer that keeps the size, and for one that doubles it."""
REFERENCE = "reference"


@dataclasses.dataclass(frozen=True)
class Shape:
    """A 3×3 layer: channels, and the sides of its input."""

    inputs: int
    outputs: int
    height: int
    width: int
    up: bool

    @property
    def key(self) -> str:
        """As tables have it: `512→256 up 64×64`."""
        return f"{self.inputs}→{self.outputs} {'up ' if self.up else ''}{self.height}×{self.width}"


Table = Mapping[str, str]
"""Forms by the key of a shape, measured in float16."""


def route(shape: Shape, dtype: torch.dtype, *, launches: bool, table: Table) -> str:
    """The form of a layer: the table's for float16, and for bfloat16, which moves and multiplies as much.

    Where there is no entry, our kernel; without Triton and a card to launch it on (`launches`), the reference.
    """
    if not launches:
        return REFERENCE
    if dtype is not torch.float32 and shape.key in table:
        return table[shape.key]
    return modulated_conv_up.form_of(shape.height, shape.width) if shape.up else "plain"


def of_library(form: str) -> bool:
    """Whether the sums of a form are those of torch's own convolution, which promises nothing about batches."""
    return form.startswith("cudnn")


def launches_on(device: torch.device) -> bool:
    """Whether kernels are launched on the device: Triton is there, and it is a CUDA device."""
    return triton is not None and device.type == "cuda"


def table_of(device: torch.device) -> Table:
    """The measured table of a CUDA device; empty where that card was never measured, and for any other device."""
    return read_table(torch.cuda.get_device_name(device)) if device.type == "cuda" else {}


def read_table(card: str) -> Table:
    """The table of the card of that name; empty if there is none. ValueError names a form that does not exist."""
    path = table_path(card)
    if not path.is_file():
        return {}
    table: dict[str, str] = json.loads(path.read_text())["routes"]
    for key, form in table.items():
        if form not in FORMS[" up " in key]:
            raise ValueError(f"{path}: {key}: found {form!r}; allowed: {', '.join(FORMS[' up ' in key])}")
    return table


def table_path(card: str) -> Path:
    """Where the table of the card of that name lies."""
    return CONFIGS / f"{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}.json"
