"""One call of one diffusion sampler as a row of numbers: what every coefficient of `sampler_step` means.

    m  = mᵤ + guidance·(m_c − mᵤ), then times (1 − rescale + rescale·std(m_c)/std(m))
    y₀ = clamp(convert_state·x + convert_output·m)
    x' = state·x + output·m + current·y₀ + past1·y₁ + past2·y₂ + past3·y₃ + saved·u + noise·n
    u' = save_state·x + save_current·y₀ + save_past1·y₁ + save_past2·y₂ + save_saved·u
    model input = input·x'

x is the latent, m the model's output (mᵤ without the condition, m_c with it), y₀ to y₃ this call's converted output and
those that were pushed before it, u a tensor kept from an earlier call, n standard normal noise. A sampler is a list of
such rows, one a model call, computed in float64 and rounded to float32 once. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

HISTORY = 3
"""Past outputs that are kept: y₁, y₂ and y₃."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The coefficients of one model call, without units. What has only zero coefficients is not read."""

    guidance: float = 1.0
    """Guidance scale; counts only for a row that has an unconditional half."""
    rescale: float = 0.0
    """How far, 0 to 1, the guided output is brought back to the conditional one's standard deviation (Lin et al. 2023,
    "Common Diffusion Noise Schedules and Sample Steps Are Flawed", eq. 15-16)."""
    convert_state: float = 0.0
    """p of y₀ = p·x + q·m: from the model's prediction type to what the sampler combines."""
    convert_output: float = 1.0
    """q of y₀ = p·x + q·m."""
    clamp: float = math.inf
    """y₀ is limited to ±clamp; infinity for no limit. `output·m` uses the model's output as it is."""
    state: float = 0.0
    output: float = 0.0
    current: float = 0.0
    past1: float = 0.0
    past2: float = 0.0
    past3: float = 0.0
    saved: float = 0.0
    noise: float = 0.0
    """Of this call's noise. That of the call before is a combination of x, y₁ and u, which is how the two calls of
    DPM++ SDE share one Brownian path."""
    save_state: float = 0.0
    """With the next four: the tensor u that is kept from here on. Where all five are zero, u stays what it was."""
    save_current: float = 0.0
    save_past1: float = 0.0
    save_past2: float = 0.0
    save_saved: float = 0.0
    head: float = 0.0
    """Outputs pushed before this call, modulo 3: where y₀ goes in the ring, and y_k is k places before it."""
    push: float = 1.0
    """1 where y₀ is kept in the ring, 0 where it is not."""
    input: float = 1.0
    """What the model wants its next input multiplied by (1/√(s² + 1) for a variance-exploding state, else 1)."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one row of a step batch lives. No two rows of a batch may have the same slot."""

    slot: int
    """Its slot in `Slots`; -1 for an empty row, of which nothing is read or written."""
    conditional: int = 0
    """Its row in the model's output and in the model's next input."""
    unconditional: int = -1
    """The row of its unconditional half in both; -1 without guidance."""
    seed: int = 0
    """The request's seed, 0 to 2⁶⁴ − 1: key of its noise."""
    step: int = 0
    """Second word of the noise's counter, 0 to 2³² − 1: n = philox.normal(seed, E, step=step)."""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
PLACE_COLUMNS = tuple(field.name for field in dataclasses.fields(Place))


def table(rows: Iterable[Row]) -> NDArray[np.float32]:
    """Rows as float32 [N, len(COLUMNS)], a column a field, in the fields' order."""
    return np.array([dataclasses.astuple(row) for row in rows], np.float64).reshape(-1, len(COLUMNS)).astype(np.float32)


def place_table(places: Iterable[Place]) -> NDArray[np.int64]:
    """Places as int64 [N, len(PLACE_COLUMNS)]; a seed from 2⁶³ up is there as the negative number of the same bits."""
    cells = [[value - 2**64 if value >= 2**63 else value for value in dataclasses.astuple(place)] for place in places]
    return np.array(cells, np.int64).reshape(-1, len(PLACE_COLUMNS))
