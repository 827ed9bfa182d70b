from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from impasto.kernels import guidance_rescale, philox, sampler_step
from impasto.kernels.guidance_rescale import guidance_statistics
from impasto.kernels.sampler_row import COLUMNS, PLACE_COLUMNS, Place, Row, place_table, table
from impasto.kernels.sampler_step import Slots
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, Resources, compile_offline

SHAPE = (4, 15, 19)
"""A latent of 1140 elements: two programs, the second one nearly empty."""


def _vp(noised: float) -> tuple[float, float]:
    """α and σ of a variance-preserving step where α² is 1 − `noised`."""
    return math.sqrt(1 - noised), math.sqrt(noised)


def ddim(noised: float, after: float, eta: float = 0.0, **row: float) -> Row:
    """Song et al. 2021 on a model that predicts epsilon."""
    (alpha, sigma), (alpha2, sigma2) = _vp(noised), _vp(after)
    spread = eta * sigma2 / sigma * math.sqrt(1 - (alpha / alpha2) ** 2)
    kept = math.sqrt(sigma2**2 - spread**2)
    x0 = {"convert_state": 1 / alpha, "convert_output": -sigma / alpha}
    return Row(**x0, state=kept / sigma, current=alpha2 - kept * alpha / sigma, noise=spread, **row)


def clipped_ddim(noised: float, after: float, **row: float) -> Row:
    """DDIM with `clip_sample`: the predicted image is clamped, the epsilon beside it is the model's own."""
    (alpha, sigma), (alpha2, sigma2) = _vp(noised), _vp(after)
    x0 = {"convert_state": 1 / alpha, "convert_output": -sigma / alpha}
    return Row(**x0, clamp=1.0, output=sigma2, current=alpha2, **row)


def euler(s: float, after: float, **row: float) -> Row:
    """Variance-exploding, on a model that predicts v."""
    v = {"convert_state": 1 / (s**2 + 1), "convert_output": -s / math.sqrt(s**2 + 1)}
    return Row(**v, state=after / s, current=1 - after / s, input=1 / math.sqrt(after**2 + 1), **row)


def euler_ancestral(s: float, after: float, **row: float) -> Row:
    up = math.sqrt(after**2 * (s**2 - after**2) / s**2)
    down = math.sqrt(after**2 - up**2)
    k = 1 / math.sqrt(after**2 + 1)
    return Row(convert_state=1.0, convert_output=-s, state=down / s, current=1 - down / s, noise=up, input=k, **row)


def dpmpp_2m(noised: tuple[float, float, float], head: int = 1, **row: float) -> Row:
    """Second order, from the `noised` of the previous call, this one and the next."""
    (alpha, sigma), (alpha2, sigma2) = _vp(noised[1]), _vp(noised[2])
    before, now, after = (math.log(a / s) for a, s in map(_vp, noised))
    ratio = (now - before) / (after - now)
    whole = -alpha2 * math.expm1(now - after)
    x0 = {"convert_state": 1 / alpha, "convert_output": -sigma / alpha}
    weights = {"current": whole * (1 + 0.5 / ratio), "past1": -0.5 * whole / ratio}
    return Row(**x0, state=sigma2 / sigma, **weights, head=head, **row)


def heun(s: float, after: float) -> tuple[Row, Row]:
    """Both calls, on a model that predicts epsilon: the derivative itself, since x = x₀ + s·ε."""
    first = Row(state=1.0, current=after - s, save_state=1.0)
    return first, Row(current=(after - s) / 2, past1=(after - s) / 2, saved=1.0, head=1, push=0.0)


def flow_euler(s: float, after: float, **row: float) -> Row:
    return Row(state=1.0, current=after - s, **row)


EVERYTHING = Row(
    **{name: 0.1 + 0.07 * index for index, name in enumerate(COLUMNS[5:18])},
    guidance=2.5,
    convert_state=0.8,
    convert_output=-0.6,
    clamp=0.7,
    head=2.0,
    input=0.5,
)

MIXED = [
    ddim(0.6, 0.4),
    ddim(0.6, 0.4, eta=0.7, guidance=7.5, rescale=0.7),
    clipped_ddim(0.5, 0.3, guidance=3.0),
    euler(2.0, 1.3, guidance=5.0, rescale=1.0),
    euler_ancestral(3.0, 2.0),
    dpmpp_2m((0.7, 0.5, 0.3), guidance=2.0),
    dpmpp_2m((0.7, 0.5, 0.3), head=0),
    *heun(2.0, 1.5),
    flow_euler(0.9, 0.7, guidance=4.0),
    Row(state=1.1, current=55 / 24, past1=-59 / 24, past2=37 / 24, past3=-9 / 24, head=1),
    EVERYTHING,
]
"""A row of each sampler, some guided. The last but one is PLMS's fourth order."""


@dataclasses.dataclass(frozen=True)
class Batch:
    slots: Slots
    coefficients: Tensor
    places: Tensor
    output: Tensor
    model_input: Tensor

    def copy(self, dtype: torch.dtype = torch.float32) -> Batch:
        slots = Slots(*(getattr(self.slots, name).to(dtype, copy=True) for name in ("latent", "history", "saved")))
        return dataclasses.replace(self, slots=slots, model_input=self.model_input.clone())

    def step(self, **options: Tensor) -> None:
        arguments = (self.coefficients, self.places, self.output)
        statistics = guidance_statistics(*arguments)
        sampler_step.sampler_step(self.slots, *arguments, self.model_input, statistics=statistics, **options)

    def reference(self, **options: Tensor) -> None:
        sampler_step.reference(self.slots, self.coefficients, self.places, self.output, self.model_input, **options)


def _batch(rows: list[Row], shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Batch:
    """Rows in slots in reverse order, one slot and one model row unused; rows with guidance ≠ 1 have both halves."""
    torch.manual_seed(len(rows))
    count = len(rows)
    places, used = [], 1
    for index, row in enumerate(rows):
        guided = row.guidance != 1.0
        places.append(Place(count - index, used, used + 1 if guided else -1, seed=2**63 + index, step=index))
        used += 1 + guided
    slots = Slots(*(torch.randn(count + 1, *extra, *shape) for extra in ((), (3,), ())))
    output = torch.randn(used, *shape).to(dtype)
    cells = torch.from_numpy(table(rows)), torch.from_numpy(place_table(places))
    return Batch(slots, *cells, output, torch.full_like(output, torch.nan))


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    return batch.slots.latent, batch.slots.history, batch.slots.saved, batch.model_input


def _assert_agrees(batch: Batch, **options: Tensor) -> None:
    expected = batch.copy(torch.float64)
    expected = dataclasses.replace(expected, model_input=expected.model_input.double())
    expected.reference(**options)
    batch.step(**options)
    for found, wanted in zip(_tensors(batch), _tensors(expected), strict=True):
        untouched = torch.isnan(wanted)
        assert torch.equal(torch.isnan(found), untouched)
        for pair in zip(found.masked_fill(untouched, 0), wanted.masked_fill(untouched, 0), strict=True):
            assert_close(*pair, terms=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_agrees_with_the_reference_for_samplers_mixed_in_one_batch(dtype: torch.dtype) -> None:
    _assert_agrees(_batch(MIXED, dtype=dtype))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1, 64, 65)])
@pytest.mark.parametrize("row", [MIXED[1], EVERYTHING], ids=["rescaled", "everything"])
def test_kernel_agrees_with_the_reference_at_other_sizes(row: Row, shape: tuple[int, ...]) -> None:
    _assert_agrees(_batch([row], shape))


def test_given_noise_takes_the_place_of_the_seeds() -> None:
    rows = [MIXED[4], EVERYTHING]
    _assert_agrees(_batch(rows), noise=torch.randn(2, *SHAPE))


def test_model_may_give_more_channels_than_are_used_and_take_more_rows() -> None:
    batch = _batch(MIXED[:4])
    wide = torch.randn(batch.output.shape[0], 8, *SHAPE[1:])
    more = torch.full((batch.output.shape[0] + 3, *SHAPE), torch.nan)
    _assert_agrees(dataclasses.replace(batch, output=wide[:, :4], model_input=more))


def test_next_model_input_may_overwrite_the_output() -> None:
    apart = _batch(MIXED)
    together = apart.copy()
    together = dataclasses.replace(together, output=apart.output.clone())
    together = dataclasses.replace(together, model_input=together.output)
    apart.step()
    together.step()
    written = ~torch.isnan(apart.model_input)
    assert torch.equal(together.model_input[written], apart.model_input[written])
    assert torch.equal(together.slots.latent, apart.slots.latent)


def test_row_is_the_same_alone_and_in_a_full_batch() -> None:
    full = _batch(MIXED, dtype=torch.float16)
    before = full.copy()
    full.step()
    for index, row in enumerate(MIXED):
        alone = dataclasses.replace(
            before.copy(),
            coefficients=full.coefficients[index : index + 1].clone(),
            places=full.places[index, None].clone(),
        )
        alone.step()
        slot, conditional, unconditional = alone.places[0, :3].tolist()
        for found, wanted in zip(_tensors(alone)[:3], _tensors(full)[:3], strict=True):
            assert torch.equal(found[slot], wanted[slot]), row
        assert torch.equal(alone.model_input[conditional], full.model_input[conditional])
        if unconditional >= 0:
            assert torch.equal(alone.model_input[unconditional], full.model_input[unconditional])


def test_row_is_the_same_in_another_slot_and_another_place_of_the_model_batch() -> None:
    batch = _batch([EVERYTHING, MIXED[1]])
    moved = batch.copy()
    order = torch.tensor([1, 2, 0])
    rows = torch.tensor([4, 2, 0, 1, 3])
    slots = Slots(*(tensor[order].clone() for tensor in _tensors(moved)[:3]))
    places = moved.places.clone()
    places[:, 0] = torch.argsort(order)[places[:, 0]]
    places[:, 1:3] = torch.argsort(rows)[places[:, 1:3]]
    moved = dataclasses.replace(moved, slots=slots, places=places, output=batch.output[rows].clone())
    batch.step()
    moved.step()
    for found, wanted in zip(_tensors(moved)[:3], _tensors(batch)[:3], strict=True):
        assert torch.equal(found, wanted[order])


def test_empty_row_and_unused_slots_are_left_as_they_are() -> None:
    batch = _batch([ddim(0.6, 0.4, eta=1.0, guidance=3.0, rescale=0.5)])
    batch.places[0, 0] = -1
    before = batch.copy()
    batch.step()
    for found, wanted in zip(_tensors(batch), _tensors(before), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def test_tensors_with_zero_coefficients_may_hold_nan() -> None:
    batch = _batch([Row(noise=14.6, convert_output=0.0, push=0.0, guidance=2.0), flow_euler(1.0, 0.8)])
    batch.slots.history.fill_(torch.nan)
    batch.slots.saved.fill_(torch.nan)
    slots, rows = batch.places[:, 0].tolist(), batch.places[:, 1].tolist()
    batch.slots.latent[slots[0]] = torch.nan
    batch.output[rows[0] : rows[1]] = torch.nan
    batch.step()
    assert torch.isfinite(batch.slots.latent).all()
    assert torch.isfinite(batch.model_input[1:]).all()


def test_starting_latent_is_the_noise_of_the_seed() -> None:
    batch = _batch([Row(noise=1.0, convert_output=0.0, push=0.0)])
    place = Place(1, 1, seed=2**64 - 3, step=2**32 - 1)
    batch.places.copy_(torch.from_numpy(place_table([place])))
    batch.step()
    expected = philox.normal(2**64 - 3, math.prod(SHAPE), step=2**32 - 1).reshape(SHAPE)
    np.testing.assert_allclose(batch.slots.latent[1].numpy(), expected, atol=1e-6, rtol=0)


def test_row_that_rescales_without_statistics_is_nan_and_its_batch_mates_are_not() -> None:
    batch = _batch([MIXED[1], MIXED[2]])
    sampler_step.sampler_step(batch.slots, batch.coefficients, batch.places, batch.output, batch.model_input)
    assert torch.isnan(batch.slots.latent[2]).all()
    assert torch.isfinite(batch.slots.latent[1]).all()


def test_rescaled_output_has_the_conditional_deviation() -> None:
    torch.manual_seed(1)
    conditional, unconditional = torch.randn(2, 4, 9, 9, dtype=torch.float64) + 0.5
    full = guidance_rescale.reference(conditional, unconditional, Row(guidance=7.5, rescale=1.0))
    plain = guidance_rescale.reference(conditional, unconditional, Row(guidance=7.5))
    assert full.std().item() == pytest.approx(conditional.std().item(), rel=1e-12)
    half = guidance_rescale.reference(conditional, unconditional, Row(guidance=7.5, rescale=0.5))
    torch.testing.assert_close(half, (full + plain) / 2)


def _run(rows: list[Row], x: Tensor, outputs: list[Tensor]) -> Tensor:
    """Rows of one request, one after the other, in the reference."""
    slots = Slots(
        x[None].clone(), torch.full((1, 3, *x.shape), torch.nan).double(), torch.full_like(x, torch.nan)[None]
    )
    for step, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        coefficients = torch.tensor([dataclasses.astuple(row)], dtype=torch.float64)
        places = torch.from_numpy(place_table([Place(0, step=step)]))
        sampler_step.reference(slots, coefficients, places, output[None], torch.empty_like(output)[None])
    return slots.latent[0]


def test_model_that_knows_the_image_takes_every_sampler_straight_to_the_next_state() -> None:
    torch.manual_seed(2)
    image, noise = torch.randn(2, 3, 4, dtype=torch.float64).unbind()

    def vp(noised: float) -> Tensor:
        alpha, sigma = _vp(noised)
        return alpha * image + sigma * noise

    def v(s: float) -> Tensor:
        return (noise - s * image) / math.sqrt(s**2 + 1)

    first = dataclasses.replace(ddim(0.7, 0.5), head=0)
    cases = {
        "ddim": (vp(0.4), _run([ddim(0.6, 0.4)], vp(0.6), [noise])),
        "dpm++ 2m": (vp(0.3), _run([first, dpmpp_2m((0.7, 0.5, 0.3))], vp(0.7), [noise] * 2)),
        "euler": (image + 1.3 * noise, _run([euler(2.0, 1.3)], image + 2 * noise, [v(2.0)])),
        "heun": (image + 1.5 * noise, _run([*heun(2.0, 1.5)], image + 2 * noise, [noise] * 2)),
        "flow": (0.3 * image + 0.7 * noise, _run([flow_euler(0.9, 0.7)], 0.1 * image + 0.9 * noise, [noise - image])),
    }
    for name, (expected, found) in cases.items():
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12, msg=name)


def test_two_calls_of_dpmpp_sde_share_one_brownian_path() -> None:
    s, after = 3.0, 2.0
    middle = math.sqrt(s * after)
    first = dataclasses.replace(euler_ancestral(s, middle), save_state=1.0)
    whole = euler_ancestral(s, after)
    shared = whole.noise * math.sqrt((s - middle) / (s - after)) / first.noise
    second = Row(
        convert_state=1.0,
        convert_output=-middle,
        state=shared,
        current=whole.current,
        past1=-shared * first.current,
        saved=whole.state - shared * first.state,
        noise=whole.noise * math.sqrt((middle - after) / (s - after)),
        head=1,
    )
    torch.manual_seed(3)
    x, *outputs = torch.randn(3, 2, 3, dtype=torch.float64).unbind()
    n1, n2 = (torch.from_numpy(philox.normal(0, 6, step=step).reshape(2, 3)).double() for step in range(2))
    path = (math.sqrt(s - middle) * n1 + math.sqrt(middle - after) * n2) / math.sqrt(s - after)
    between = first.state * x + first.current * (x - s * outputs[0]) + first.noise * n1
    expected = whole.state * x + whole.current * (between - middle * outputs[1]) + whole.noise * path
    torch.testing.assert_close(_run([first, second], x, outputs), expected, atol=1e-12, rtol=1e-12)


def test_ring_gives_the_three_outputs_before_in_order() -> None:
    outputs = [torch.full((2,), 10.0**index, dtype=torch.float64) for index in range(6)]
    rows = [Row(head=index % 3) for index in range(5)] + [Row(current=1.0, past1=2.0, past2=3.0, past3=4.0, head=2)]
    assert _run(rows, torch.zeros(2, dtype=torch.float64), outputs).tolist() == [123400.0] * 2


def test_tables_have_a_column_a_field() -> None:
    assert len(COLUMNS) == 21
    assert table([Row(input=0.25)])[0, COLUMNS.index("input")] == 0.25
    assert table([]).shape == (0, 21)
    assert table([Row()]).dtype == np.float32
    assert place_table([Place(3, 1, 2, 2**64 - 1, 9)]).tolist() == [[3, 1, 2, -1, 9]]
    assert PLACE_COLUMNS == ("slot", "conditional", "unconditional", "seed", "step")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("output", lambda batch: {"output": batch.output.double()}),
        ("output", lambda batch: {"output": batch.output.transpose(1, 3)}),
        ("output", lambda batch: {"output": batch.output[0, 0, 0]}),
        ("model_input", lambda batch: {"model_input": batch.model_input[:, :3]}),
        ("model_input", lambda batch: {"model_input": batch.model_input.flatten()[1:].reshape(-1)}),
        ("coefficients", lambda batch: {"coefficients": batch.coefficients.double()}),
        ("coefficients", lambda batch: {"coefficients": batch.coefficients[:, :-1].contiguous()}),
        ("places", lambda batch: {"places": batch.places.int()}),
        ("places", lambda batch: {"places": batch.places[:1]}),
        ("places", lambda batch: {"places": batch.places.repeat(1, 2)[:, :5]}),
        ("latent", lambda batch: {"slots": dataclasses.replace(batch.slots, latent=batch.slots.latent[..., :-1])}),
        ("history", lambda batch: {"slots": dataclasses.replace(batch.slots, history=batch.slots.latent)}),
        ("saved", lambda batch: {"slots": dataclasses.replace(batch.slots, saved=batch.slots.saved.half())}),
    ],
)
def test_what_does_not_fit_is_named(field: str, change: Any) -> None:
    batch = _batch([EVERYTHING, EVERYTHING])
    with pytest.raises(ValueError, match=rf"^{field}: .*found .* allowed: "):
        dataclasses.replace(batch, **change(batch)).step()


def test_noise_and_statistics_that_do_not_fit_are_named() -> None:
    batch = _batch([EVERYTHING])
    arguments = (batch.slots, batch.coefficients, batch.places, batch.output, batch.model_input)
    with pytest.raises(ValueError, match=r"^noise: found shape"):
        sampler_step.sampler_step(*arguments, noise=torch.zeros(2, *SHAPE))
    with pytest.raises(ValueError, match=r"^statistics: found shape"):
        sampler_step.sampler_step(*arguments, statistics=torch.zeros(1, 4, 2))
    off = torch.zeros(math.prod(SHAPE) + 1)[1:].reshape(1, *SHAPE)
    with pytest.raises(ValueError, match=r"^noise: found at .* multiples of 16"):
        sampler_step.sampler_step(*arguments, noise=off)


TYPES = {"p_rows": "*fp32", "p_places": "*i64", "p_output": "*fp16", "elements": "i32", "output_stride": "i32"}
CONSTANTS = {"COLUMNS": len(COLUMNS), "CHUNK": guidance_rescale.CHUNK}


def _assert_small(resources: Resources, registers: int) -> None:
    assert resources.registers <= registers
    assert resources.spilled == 0
    assert resources.shared <= 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_without_spills_and_with_room_for_other_programs(architecture: int) -> None:
    tensors = dict.fromkeys(("p_latent", "p_history", "p_saved", "p_statistics"), "*fp32")
    step = compile_offline(
        sampler_step._step_kernel,
        TYPES | tensors | {"p_input": "*fp16", "input_stride": "i32"},
        CONSTANTS | {"BLOCK": sampler_step.BLOCK, "PARTIALS": 16, "p_noise": None},
        architecture,
        divisible=("elements", "output_stride", "input_stride"),
        num_warps=sampler_step.NUM_WARPS,
    )
    _assert_small(step, registers=64)
    statistics = compile_offline(
        guidance_rescale._statistics_kernel,
        TYPES | {"p_statistics": "*fp32"},
        CONSTANTS,
        architecture,
        divisible=("elements", "output_stride"),
        num_warps=guidance_rescale.NUM_WARPS,
    )
    _assert_small(statistics, registers=56)
