from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from impasto.kernels import philox, sampler_step
from impasto.kernels.sampler_row import COLUMNS, Place, Row, place_table, table
from impasto.sampling.step import Slots, step

SHAPE = (3, 5, 7)
SIZE = math.prod(SHAPE)


@dataclasses.dataclass(frozen=True)
class Batch:
    slots: Slots
    coefficients: NDArray[np.float32]
    places: NDArray[np.int64]
    output: NDArray[Any]
    model_input: NDArray[Any]
    noise: NDArray[np.float32] | None = None

    def copy(self) -> Batch:
        slots = Slots(*(value.copy() for value in (getattr(self.slots, f.name) for f in dataclasses.fields(Slots))))
        return dataclasses.replace(self, slots=slots, model_input=self.model_input.copy())

    def step(self) -> None:
        step(self.slots, self.coefficients, self.places, self.output, self.model_input, noise=self.noise)

    def reference(self) -> None:
        """The same in torch, on the same memory."""
        slots = sampler_step.Slots(*(torch.from_numpy(kept) for kept in _state(self.slots)))
        tables = torch.from_numpy(self.coefficients), torch.from_numpy(self.places)
        tensors = torch.from_numpy(self.output), torch.from_numpy(self.model_input)
        noise = None if self.noise is None else torch.from_numpy(self.noise)
        sampler_step.reference(slots, *tables, *tensors, noise=noise)

    def tensors(self) -> tuple[NDArray[Any], ...]:
        return (*_state(self.slots), self.model_input)


def _state(slots: Slots) -> tuple[NDArray[np.float32], ...]:
    return slots.latent, slots.history, slots.saved


def _batch(rows: list[Row], seed: int = 0, dtype: type = np.float32, given_noise: bool = True) -> Batch:
    """Rows in slots in reverse order, one slot and one model row unused; every other row has both halves."""
    rng = np.random.default_rng(seed)
    places, used = [], 1
    for index in range(len(rows)):
        guided = index % 2 == 1
        places.append(Place(len(rows) - index, used, used + 1 if guided else -1, seed=2**63 + index, step=index))
        used += 1 + guided
    slots = Slots.empty(len(rows) + 1, SHAPE)
    for kept in _state(slots):
        kept[...] = rng.standard_normal(kept.shape)
    slots.scratch.fill(np.nan)
    output = rng.standard_normal((used, *SHAPE)).astype(dtype)
    noise = rng.standard_normal((len(rows), *SHAPE)).astype(np.float32) if given_noise else None
    return Batch(slots, table(rows), place_table(places), output, np.full_like(output, np.nan), noise)


_coefficients = st.one_of(st.just(0.0), st.floats(-2, 2, width=32))
_rows = st.builds(
    Row,
    guidance=st.floats(0, 9, width=32),
    clamp=st.sampled_from([math.inf, 0.5]),
    head=st.sampled_from([0.0, 1.0, 2.0]),
    push=st.sampled_from([0.0, 1.0]),
    input=st.floats(0.125, 1, width=32),
    **dict.fromkeys(("convert_state", "convert_output", *COLUMNS[5:18]), _coefficients),
)
"""Any row without a rescale."""


@settings(max_examples=60)
@given(st.lists(_rows, min_size=1, max_size=5), st.integers(0, 100))
def test_step_is_that_of_torch_to_the_last_bit(rows: list[Row], seed: int) -> None:
    for dtype in (np.float32, np.float16):
        found = _batch(rows, seed, dtype)
        expected = found.copy()
        found.step()
        expected.reference()
        for mine, theirs in zip(found.tensors(), expected.tensors(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@settings(max_examples=40)
@given(st.lists(_rows, min_size=2, max_size=6), st.data())
def test_row_has_the_same_bytes_alone_and_in_any_batch(rows: list[Row], data: st.DataObject) -> None:
    rows = [dataclasses.replace(row, rescale=0.7 * (index % 3 == 0)) for index, row in enumerate(rows)]
    full = _batch(rows, given_noise=False)
    alone = full.copy()
    full.step()
    order = data.draw(st.permutations(range(len(rows))))
    for index in order:
        only = slice(index, index + 1)
        dataclasses.replace(alone, coefficients=alone.coefficients[only], places=alone.places[only]).step()
    for mine, theirs in zip(full.tensors(), alone.tensors(), strict=True):
        assert mine.tobytes() == theirs.tobytes()


def test_rescaled_guidance_is_that_of_torch_within_1e_6() -> None:
    rows = [
        Row(guidance=7.5, rescale=rescale, convert_state=0.8, convert_output=-0.6, current=1.0, output=0.3)
        for rescale in (0.0, 0.7, 1.0, 0.3)
    ]
    found = _batch(rows)
    expected = found.copy()
    found.step()
    expected.reference()
    for mine, theirs in zip(found.tensors(), expected.tensors(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6 * np.nanmax(np.abs(theirs)))


def test_output_that_is_constant_is_not_rescaled() -> None:
    row = Row(guidance=3.0, rescale=1.0, convert_output=0.0, output=1.0, push=0.0)
    batch = _batch([Row(), row])
    batch.output[2], batch.output[3] = 2.0, 1.0
    batch.step()
    np.testing.assert_array_equal(batch.slots.latent[1], 4.0)


def test_noise_is_that_of_the_seed_and_step_of_its_place() -> None:
    seeded = _batch([Row(noise=1.0), Row(noise=0.5)], given_noise=False)
    drawn = [philox.normal(2**63 + index, SIZE, step=index).reshape(SHAPE) for index in range(2)]
    given_noise = dataclasses.replace(seeded.copy(), noise=np.stack(drawn))
    seeded.step()
    given_noise.step()
    np.testing.assert_array_equal(seeded.slots.latent[2], drawn[0])
    for mine, theirs in zip(seeded.tensors(), given_noise.tensors(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_tensors_with_zero_coefficients_may_hold_nan() -> None:
    batch = _batch([Row(state=2.0, convert_output=0.0, push=0.0), Row(noise=1.0, convert_output=0.0, push=0.0)])
    expected = 2.0 * batch.slots.latent[2]
    batch.slots.history.fill(np.nan)
    batch.slots.saved.fill(np.nan)
    batch.slots.latent[1].fill(np.nan)
    batch.output.fill(np.nan)
    batch.step()
    np.testing.assert_array_equal(batch.slots.latent[2], expected)
    assert batch.noise is not None
    np.testing.assert_array_equal(batch.slots.latent[1], batch.noise[1])


def test_empty_places_other_slots_and_other_model_rows_are_left_as_they_are() -> None:
    batch = _batch([Row(state=0.5), Row(state=0.5)])
    batch.places[0, 0] = -1
    before = batch.copy()
    batch.step()
    for mine, theirs in zip(_state(batch.slots), _state(before.slots), strict=True):
        np.testing.assert_array_equal(mine[[0, 2]], theirs[[0, 2]])
    assert np.isnan(batch.model_input[:2]).all()
    assert np.isfinite(batch.model_input[2:4]).all()


def test_next_model_input_may_overwrite_the_output() -> None:
    apart = _batch([Row(state=0.3, output=0.7, guidance=4.0, input=0.5)] * 4)
    together = dataclasses.replace(apart.copy(), output=apart.output.copy())
    together = dataclasses.replace(together, model_input=together.output)
    apart.step()
    together.step()
    np.testing.assert_array_equal(together.model_input[1:], apart.model_input[1:])


def test_tables_must_have_as_many_rows() -> None:
    batch = _batch([Row(), Row()])
    with pytest.raises(ValueError, match=r"^coefficients: found 1 rows; allowed: 2, as many as places"):
        dataclasses.replace(batch, coefficients=batch.coefficients[:1]).step()
