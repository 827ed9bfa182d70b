"""What the rows of a diffusion batch keep between steps, for latents of several sizes in the same memory."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from impasto.engine.picture import Floats
from impasto.sampling.step import Slots

CACHED_VIEWS = 64


class SlotView(NamedTuple):
    """The slots as those of latents of one shape [C, h, w], and the denoiser's inputs [M, C, h, w]."""

    shape: tuple[int, ...]
    state: Slots
    inputs: Floats


class SlotMemory:
    """Room in every slot for the largest latent, allocated once; a smaller one takes the beginning of its slot's.

    So rows of any sizes are under way beside each other, and which sizes there were leaves nothing behind. The system
    gives memory to what is written only: sizes that nobody asks for cost none.
    """

    def __init__(self, slots: int, inputs: int, largest: tuple[int, ...]) -> None:
        values = math.prod(largest)
        self._state = Slots.empty(slots, (values,))
        self._inputs = np.empty((inputs, values), np.float32)
        self.view = functools.lru_cache(CACHED_VIEWS)(self._view)

    def _view(self, shape: tuple[int, ...]) -> SlotView:
        flat = [getattr(self._state, field.name) for field in dataclasses.fields(Slots)]
        return SlotView(shape, Slots(*(_seen_as(shape, tensor) for tensor in flat)), _seen_as(shape, self._inputs))


def _seen_as(shape: tuple[int, ...], flat: NDArray[Any]) -> NDArray[Any]:
    """The beginning of each last dimension in that shape: the same memory, since it only splits that dimension."""
    return flat[..., : math.prod(shape)].reshape(*flat.shape[:-1], *shape)
