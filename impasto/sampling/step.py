"""The numpy form of one step of every row of a diffusion batch, for serving without torch.

`impasto.kernels.sampler_row` has the equation, and the meaning of rows and places. The arithmetic is float32, product
by product and sum by sum as in `impasto.kernels.sampler_step.reference`, and so are the arguments; only the deviations
of a guidance rescale are taken in float64. A row is worked on by itself: its bytes do not depend on its batch-mates.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from impasto.kernels import philox
from impasto.kernels.sampler_row import HISTORY, Place, Row

Array = NDArray[np.float32]
Rows = NDArray[Any] | Mapping[int, NDArray[Any]]
Terms = tuple[tuple[float, int], ...]
"""Coefficients, none of them zero, each with the tensor that it is of: one of the following."""
X, M, Y0, Y1, Y2, Y3, U, N = range(8)

CACHED_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class Slots:
    """What running rows keep between steps, changed in place: float32, S slots for latents of one shape."""

    latent: Array
    """x [S, ...]."""
    history: Array
    """Past outputs [S, 3, ...], a ring."""
    saved: Array
    """u [S, ...]."""
    scratch: Array
    """[4, ...], of no meaning between steps."""

    @classmethod
    def empty(cls, slots: int, shape: Sequence[int]) -> Self:
        """That many slots for latents of that shape, all zero."""
        sizes = ((slots, *shape), (slots, HISTORY, *shape), (slots, *shape), (4, *shape))
        return cls(*(np.zeros(size, np.float32) for size in sizes))


def step(
    slots: Slots,
    coefficients: Array,
    places: NDArray[np.int64],
    output: Rows,
    model_input: NDArray[Any],
    *,
    noise: Array | None = None,
) -> None:
    """Advance the rows in their slots and write the next model input.

    slots: changed in place, only where a row is. A tensor whose coefficients are all zero is not read.
    coefficients, places: `sampler_row.table` and `place_table` of N rows.
    output: what the model gave: [M, ...], or the rows that there are by their index; float16 or float32.
    model_input: the next model input [M, ...], written in the places' rows and nowhere else; may be `output`.
    noise: N normals [N, ...] in place of those of the places' seeds.

    ValueError unless both tables have as many rows.
    """
    if len(coefficients) != len(places):
        raise ValueError(f"coefficients: found {len(coefficients)} rows; allowed: {len(places)}, as many as places")
    cells = np.ascontiguousarray(coefficients, np.float32)
    for index, where in enumerate(places.tolist()):
        place = Place(*where)
        if place.slot >= 0:
            row = _prepared(cells[index].tobytes())
            _advance(slots, row, place, output, model_input, None if noise is None else noise[index])


@dataclasses.dataclass(frozen=True, slots=True)
class _RowStep:
    """A row's coefficients that are not zero."""

    row: Row
    head: int
    convert: Terms
    after: Terms
    kept: Terms
    converts: bool
    """Whether anything reads y₀."""


@functools.lru_cache(CACHED_ROWS)
def _prepared(cells: bytes) -> _RowStep:
    r = Row(*np.frombuffer(cells, np.float32).tolist())
    return _RowStep(
        row=r,
        head=int(r.head),
        convert=_terms((r.convert_state, X), (r.convert_output, M)),
        after=_terms(
            (r.state, X),
            (r.output, M),
            (r.current, Y0),
            (r.past1, Y1),
            (r.past2, Y2),
            (r.past3, Y3),
            (r.saved, U),
            (r.noise, N),
        ),
        kept=_terms((r.save_state, X), (r.save_current, Y0), (r.save_past1, Y1), (r.save_past2, Y2), (r.save_saved, U)),
        converts=any((r.push, r.current, r.save_current)),
    )


def _terms(*pairs: tuple[float, int]) -> Terms:
    return tuple(pair for pair in pairs if pair[0] != 0.0)


def _advance(
    slots: Slots,
    prepared: _RowStep,
    place: Place,
    output: Rows,
    model_input: NDArray[Any],
    noise: Array | None,
) -> None:
    row, head = prepared.row, prepared.head
    x, ring, u = slots.latent[place.slot], slots.history[place.slot], slots.saved[place.slot]
    y0, after, kept, product = slots.scratch
    m = output[place.conditional]
    if place.unconditional >= 0:
        m = _guided(m, output[place.unconditional], row)
    if row.noise != 0.0 and noise is None:
        noise = philox.normal(place.seed & 0xFFFFFFFFFFFFFFFF, x.size, step=place.step).reshape(x.shape)
    tensors = (x, m, y0, ring[head - 1], ring[head - 2], ring[head - 3], u, noise)
    if prepared.converts:
        _sum(prepared.convert, tensors, y0, product)
        if row.clamp != math.inf:
            np.clip(y0, -row.clamp, row.clamp, out=y0)
    _sum(prepared.after, tensors, after, product)
    if prepared.kept:
        _sum(prepared.kept, tensors, kept, product)
        u[...] = kept
    if row.push:
        ring[head] = y0
    x[...] = after
    np.multiply(after, row.input, out=model_input[place.conditional], casting="same_kind")
    if place.unconditional >= 0:
        model_input[place.unconditional] = model_input[place.conditional]


def _sum(terms: Terms, tensors: Sequence[Any], out: Array, product: Array) -> None:
    if not terms:
        out[...] = 0.0
        return
    coefficient, which = terms[0]
    np.multiply(tensors[which], coefficient, out=out, dtype=np.float32)
    for coefficient, which in terms[1:]:
        np.multiply(tensors[which], coefficient, out=product, dtype=np.float32)
        np.add(out, product, out=out)


def _guided(conditional: NDArray[Any], unconditional: NDArray[Any], row: Row) -> Array:
    wanted, plain = conditional.astype(np.float32, copy=False), unconditional.astype(np.float32, copy=False)
    m = wanted - plain
    m *= row.guidance
    m += plain
    if row.rescale != 0.0 and m.size > 1:
        deviation = float(m.std(ddof=1, dtype=np.float64))
        if deviation > 0.0:
            m *= 1.0 - row.rescale + row.rescale * float(wanted.std(ddof=1, dtype=np.float64)) / deviation
    return m
