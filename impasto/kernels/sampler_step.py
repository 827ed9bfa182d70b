"""One step of every row of a diffusion batch, in one pass, each row with its own sampler.

    m  = mᵤ + guidance·(m_c − mᵤ), rescaled;  y₀ = clamp(p·x + q·m);  push y₀
    x' = ⟨(x, m, y₀, y₁, y₂, y₃, u, n), coefficients⟩;  u' = ⟨(x, y₀, y₁, y₂, u), coefficients⟩
    model input of both guidance halves = k·x'

`sampler_row.Row` says what each coefficient is. All arithmetic is in float32 on a float32 latent, whatever the model's
dtype. E is the number of elements of one latent, S of slots, N of rows in the step batch, M of rows in the model batch.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from impasto.kernels import guidance_rescale, philox
from impasto.kernels.arguments import FLOATS, ceil_div, next_power
from impasto.kernels.guidance_rescale import CHUNK, check_rows, check_tensor, check_whole, deviation, row_stride
from impasto.kernels.jit import jit, tl
from impasto.kernels.philox_normal import normals
from impasto.kernels.sampler_row import COLUMNS, HISTORY, Place, Row

BLOCK = 1024
"""Elements that one program takes."""
NUM_WARPS = 8
"""Four elements a thread: accesses of 128 bits, and a thread reads of a tensor what it writes."""


@dataclasses.dataclass(frozen=True)
class Slots:
    """What running rows keep between steps, changed in place: float32 and contiguous for the kernel."""

    latent: Tensor
    """x [S, ...]."""
    history: Tensor
    """Past outputs [S, 3, ...], a ring."""
    saved: Tensor
    """u [S, ...]."""


def reference(
    slots: Slots,
    coefficients: Tensor,
    places: Tensor,
    output: Tensor,
    model_input: Tensor,
    *,
    noise: Tensor | None = None,
) -> None:
    """What `sampler_step` does, row by row in the floating-point dtype of the slots; same arguments, no statistics."""
    for index, (cells, where) in enumerate(zip(coefficients.tolist(), places.tolist(), strict=True)):
        row, place = Row(*cells), Place(*where)
        if place.slot < 0:
            continue
        x, ring, u = slots.latent[place.slot], slots.history[place.slot], slots.saved[place.slot]
        m, guided = output[place.conditional].to(x.dtype), place.unconditional >= 0
        if guided:
            m = guidance_rescale.reference(m, output[place.unconditional].to(x.dtype), row)
        n = x if row.noise == 0.0 else _noise(x, place) if noise is None else noise[index].to(x.dtype)
        head = int(row.head)
        y1, y2, y3 = (ring[(head - k) % HISTORY] for k in (1, 2, 3))
        y0 = _sum(x, (row.convert_state, x), (row.convert_output, m)).clamp(-row.clamp, row.clamp)
        past = ((row.past1, y1), (row.past2, y2), (row.past3, y3), (row.saved, u), (row.noise, n))
        after = _sum(x, (row.state, x), (row.output, m), (row.current, y0), *past)
        kept = (row.save_state, row.save_current, row.save_past1, row.save_past2, row.save_saved)
        if any(kept):
            u.copy_(_sum(x, *zip(kept, (x, y0, y1, y2, u), strict=True)))
        if row.push:
            ring[head] = y0
        x.copy_(after)
        model_input[place.conditional] = (row.input * after).to(model_input.dtype)
        if guided:
            model_input[place.unconditional] = model_input[place.conditional]


def _noise(x: Tensor, place: Place) -> Tensor:
    values = philox.normal(place.seed & 0xFFFFFFFFFFFFFFFF, x.numel(), step=place.step)
    return torch.from_numpy(values).to(x).reshape(x.shape)


def _sum(like: Tensor, *terms: tuple[float, Tensor]) -> Tensor:
    total = torch.zeros_like(like)
    for coefficient, tensor in terms:
        if coefficient != 0.0:
            total = total + coefficient * tensor
    return total


@jit
def _reach(o: tl.tensor, elements: tl.tensor, used: tl.tensor) -> tl.tensor:
    """Mask of the elements at o of a tensor that is `used`: one whose coefficients are all zero may hold NaN."""
    return o < tl.where(used, elements, 0)


@jit
def _normals(seed: tl.tensor, step: tl.tensor, first: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Numbers first to first + BLOCK of philox.normal(seed, step=step)."""
    block = (first // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    key = seed.to(tl.uint64, bitcast=True)
    low, high = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(block, step.to(tl.uint32), block * 0, block * 0, low, high)
    return normals(w0, w1, w2, w3, BLOCK)


@jit
def _step_kernel(
    p_latent: tl.tensor,  # float32 [S, E]
    p_history: tl.tensor,  # float32 [S, 3, E]
    p_saved: tl.tensor,  # float32 [S, E]
    p_rows: tl.tensor,  # float32 [N, COLUMNS]
    p_places: tl.tensor,  # int64 [N, 5]
    p_output: tl.tensor,  # model dtype [M, E], rows output_stride apart
    p_input: tl.tensor,  # model dtype [M, E], rows input_stride apart
    p_noise: tl.tensor,  # float32 [N, E], or None: from the seed
    p_statistics: tl.tensor,  # float32 [N, 4, chunks], or None: no row rescales
    elements: tl.tensor,
    output_stride: tl.tensor,
    input_stride: tl.tensor,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    PARTIALS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(1)
    p_place = p_places + row * 5
    slot = tl.load(p_place)
    if slot < 0:
        return
    conditional = tl.load(p_place + 1)
    unconditional = tl.load(p_place + 2)
    p_row = p_rows + row * COLUMNS
    guidance = tl.load(p_row)
    rescale = tl.load(p_row + 1)
    convert_state = tl.load(p_row + 2)
    convert_output = tl.load(p_row + 3)
    clamp = tl.load(p_row + 4)
    state = tl.load(p_row + 5)
    output = tl.load(p_row + 6)
    current = tl.load(p_row + 7)
    past1 = tl.load(p_row + 8)
    past2 = tl.load(p_row + 9)
    past3 = tl.load(p_row + 10)
    saved = tl.load(p_row + 11)
    noise = tl.load(p_row + 12)
    save_state = tl.load(p_row + 13)
    save_current = tl.load(p_row + 14)
    save_past1 = tl.load(p_row + 15)
    save_past2 = tl.load(p_row + 16)
    save_saved = tl.load(p_row + 17)
    head = tl.load(p_row + 18).to(tl.int32)
    push = tl.load(p_row + 19)
    scale = tl.load(p_row + 20)

    first = tl.program_id(0) * BLOCK
    o = first + tl.arange(0, BLOCK)
    m_o = o < elements
    p_x = p_latent + slot * elements + o
    p_u = p_saved + slot * elements + o
    p_y0 = p_history + (slot * 3 + head) * elements + o
    p_y1 = p_history + (slot * 3 + (head + 2) % 3) * elements + o
    p_y2 = p_history + (slot * 3 + (head + 1) % 3) * elements + o

    m_m = _reach(o, elements, (convert_output != 0.0) | (output != 0.0))
    b_m = tl.load(p_output + conditional * output_stride + o, mask=m_m, other=0.0).to(tl.float32)
    if unconditional >= 0:
        b_u = tl.load(p_output + unconditional * output_stride + o, mask=m_m, other=0.0).to(tl.float32)
        b_m = b_u + guidance * (b_m - b_u)
        if rescale != 0.0:
            if p_statistics is None:
                b_m = b_m * float("nan")
            else:
                chunks = tl.cdiv(elements, CHUNK)
                p_c = p_statistics + row * 4 * chunks
                wanted = deviation(p_c, chunks, elements, CHUNK, PARTIALS)
                found = deviation(p_c + 2 * chunks, chunks, elements, CHUNK, PARTIALS)
                if found > 0.0:
                    b_m = b_m * (1.0 - rescale + rescale * tl.sqrt_rn(tl.div_rn(wanted, found)))

    m_x = _reach(o, elements, (convert_state != 0.0) | (state != 0.0) | (save_state != 0.0))
    m_y1 = _reach(o, elements, (past1 != 0.0) | (save_past1 != 0.0))
    m_y2 = _reach(o, elements, (past2 != 0.0) | (save_past2 != 0.0))
    m_u = _reach(o, elements, (saved != 0.0) | (save_saved != 0.0))
    b_x = tl.load(p_x, mask=m_x, other=0.0)
    b_y1 = tl.load(p_y1, mask=m_y1, other=0.0)
    b_y2 = tl.load(p_y2, mask=m_y2, other=0.0)
    b_y3 = tl.load(p_y0, mask=_reach(o, elements, past3 != 0.0), other=0.0)  # the oldest lies where y₀ goes
    b_saved = tl.load(p_u, mask=m_u, other=0.0)

    b_y0 = convert_state * b_x + convert_output * b_m
    b_y0 = tl.where(b_y0 > clamp, clamp, tl.where(b_y0 < -clamp, -clamp, b_y0))  # and NaN stays NaN
    b_next = state * b_x + output * b_m + current * b_y0 + past1 * b_y1 + past2 * b_y2 + past3 * b_y3 + saved * b_saved
    if noise != 0.0:
        if p_noise is None:
            b_next += noise * _normals(tl.load(p_place + 3), tl.load(p_place + 4), first, BLOCK)
        else:
            b_next += noise * tl.load(p_noise + row.to(tl.int64) * elements + o, mask=m_o, other=0.0)
    b_kept = save_state * b_x + save_current * b_y0 + save_past1 * b_y1 + save_past2 * b_y2 + save_saved * b_saved
    keeps = (save_state != 0.0) | (save_current != 0.0) | (save_past1 != 0.0) | (save_past2 != 0.0)

    tl.store(p_u, b_kept, mask=_reach(o, elements, keeps | (save_saved != 0.0)))
    tl.store(p_y0, b_y0, mask=_reach(o, elements, push != 0.0))
    tl.store(p_x, b_next, mask=m_o)
    b_input = (scale * b_next).to(p_input.dtype.element_ty)
    tl.store(p_input + conditional * input_stride + o, b_input, mask=m_o)
    tl.store(p_input + unconditional * input_stride + o, b_input, mask=_reach(o, elements, unconditional >= 0))


def sampler_step(
    slots: Slots,
    coefficients: Tensor,
    places: Tensor,
    output: Tensor,
    model_input: Tensor,
    *,
    noise: Tensor | None = None,
    statistics: Tensor | None = None,
) -> None:
    """Take one step of N rows: change their slots in place and write their next model inputs.

    `coefficients` float32 [N, COLUMNS] and `places` int64 [N, 5] are rows of `sampler_row.table` and `place_table`;
    `output` [M, ...] is what the model gave and `model_input` [M, ...] what it gets next, float32, float16 or bfloat16,
    where each row is contiguous (`output[:, :4]` will do) and both may be one tensor. Noise comes from each row's seed
    and step (`philox.normal`), or from `noise` float32 [N, ...]. Rows that rescale need `guidance_statistics`, and are
    NaN without.

    Which slot and which rows a place names is not checked. Raises ValueError for anything else that does not fit.
    """
    check_rows(coefficients, places, output)
    rows, slot_count, shape, device = len(places), len(slots.latent), tuple(output.shape[1:]), output.device
    check_tensor("model_input", model_input, FLOATS, (len(model_input), *shape), device)
    check_whole("latent", slots.latent, torch.float32, (slot_count, *shape), device)
    check_whole("history", slots.history, torch.float32, (slot_count, HISTORY, *shape), device)
    check_whole("saved", slots.saved, torch.float32, (slot_count, *shape), device)
    elements = math.prod(shape)
    chunks = ceil_div(elements, CHUNK)
    if noise is not None:
        check_whole("noise", noise, torch.float32, (rows, *shape), device)
    if statistics is not None:
        check_whole("statistics", statistics, torch.float32, (rows, 4, chunks), device)
    _step_kernel[(ceil_div(elements, BLOCK), len(places))](
        slots.latent,
        slots.history,
        slots.saved,
        coefficients,
        places,
        output,
        model_input,
        noise,
        statistics,
        elements,
        row_stride(output),
        row_stride(model_input),
        COLUMNS=len(COLUMNS),
        CHUNK=CHUNK,
        PARTIALS=next_power(chunks),
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,  # a row's bits must not change with what else is compiled in
    )
