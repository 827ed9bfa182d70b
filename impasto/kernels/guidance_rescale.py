"""Classifier-free guidance, and the rescaling that keeps it from over-exposing.

    m = mᵤ + guidance·(m_c − mᵤ)
    m ← m·(1 − rescale + rescale·std(m_c)/std(m))        std over one sample; a constant m stays as it is

Ho & Salimans 2022, "Classifier-Free Diffusion Guidance"; Lin et al. 2023, "Common Diffusion Noise Schedules and Sample
Steps Are Flawed", eq. 15-16. `sampler_step` applies both. Here are its reduction and what it shares with it: a first
kernel leaves the mean and the sum of squares of every chunk of a row, and every program of the step combines them anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impasto.kernels.arguments import FLOATS, ceil_div, check_contiguous, check_dtype, check_shape
from impasto.kernels.jit import jit, tl
from impasto.kernels.sampler_row import COLUMNS, PLACE_COLUMNS, Row

CHUNK = 4096
"""Elements that one program reduces: constant, so that the order of the sums depends on the size of a sample alone."""
NUM_WARPS = 8


def reference(conditional: Tensor, unconditional: Tensor, row: Row) -> Tensor:
    """The guided and rescaled output of one sample, any shape, in its dtype."""
    m = unconditional + row.guidance * (conditional - unconditional)
    if row.rescale == 0.0 or m.numel() == 1 or not m.std() > 0.0:
        return m
    return m * (1.0 - row.rescale + row.rescale * conditional.std() / m.std())


@jit
def _statistics_kernel(
    p_rows: tl.tensor,  # float32 [N, COLUMNS]
    p_places: tl.tensor,  # int64 [N, 5]
    p_output: tl.tensor,  # model dtype [M, E], rows output_stride apart
    p_statistics: tl.tensor,  # float32 [N, 4, chunks]: of each chunk mean(m_c), Σ(m_c − mean)², mean(m), Σ(m − mean)²
    elements: tl.tensor,
    output_stride: tl.tensor,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    chunk, row = tl.program_id(0), tl.program_id(1)
    slot = tl.load(p_places + row * 5)
    conditional = tl.load(p_places + row * 5 + 1)
    unconditional = tl.load(p_places + row * 5 + 2)
    guidance = tl.load(p_rows + row * COLUMNS)
    rescale = tl.load(p_rows + row * COLUMNS + 1)
    if (slot >= 0) & (unconditional >= 0) & (rescale != 0.0):
        o = chunk * CHUNK + tl.arange(0, CHUNK)
        m_o = o < elements
        count = tl.minimum(elements - chunk * CHUNK, CHUNK).to(tl.float32)
        b_c = tl.load(p_output + conditional * output_stride + o, mask=m_o, other=0.0).to(tl.float32)
        b_u = tl.load(p_output + unconditional * output_stride + o, mask=m_o, other=0.0).to(tl.float32)
        b_m = b_u + guidance * (b_c - b_u)
        mean_c = tl.div_rn(tl.sum(b_c, 0), count)
        mean_m = tl.div_rn(tl.sum(b_m, 0), count)
        b_c = tl.where(m_o, b_c - mean_c, 0.0)
        b_m = tl.where(m_o, b_m - mean_m, 0.0)
        chunks = tl.num_programs(0)
        p = p_statistics + row * 4 * chunks + chunk
        tl.store(p, mean_c)
        tl.store(p + chunks, tl.sum(b_c * b_c, 0))
        tl.store(p + 2 * chunks, mean_m)
        tl.store(p + 3 * chunks, tl.sum(b_m * b_m, 0))


@jit
def deviation(
    p: tl.tensor, chunks: tl.tensor, elements: tl.tensor, CHUNK: tl.constexpr, PARTIALS: tl.constexpr
) -> tl.tensor:
    """Σ(value − mean)² of a row from its chunks' means at p and sums of squares at p + chunks (Chan et al. 1979)."""
    o = tl.arange(0, PARTIALS)
    m_o = o < chunks
    count = tl.where(m_o, tl.minimum(elements - o * CHUNK, CHUNK), 0).to(tl.float32)
    means = tl.load(p + o, mask=m_o, other=0.0)
    squares = tl.load(p + chunks + o, mask=m_o, other=0.0)
    apart = means - tl.div_rn(tl.sum(count * means, 0), tl.sum(count, 0))
    return tl.sum(squares + count * apart * apart, 0)


def guidance_statistics(coefficients: Tensor, places: Tensor, output: Tensor) -> Tensor:
    """Means and sums of squares, chunk by chunk, that `sampler_step` rescales guided rows by: float32 [N, 4, chunks].

    Arguments as for `sampler_step`. A batch with no row that has both `rescale` and an unconditional half needs none.
    The chunks and the order in which they are summed depend on E alone.
    """
    check_rows(coefficients, places, output)
    elements = output[0].numel()
    chunks = ceil_div(elements, CHUNK)
    statistics = torch.empty(len(places), 4, chunks, dtype=torch.float32, device=output.device)
    _statistics_kernel[(chunks, len(places))](
        coefficients,
        places,
        output,
        statistics,
        elements,
        row_stride(output),
        COLUMNS=len(COLUMNS),
        CHUNK=CHUNK,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return statistics


def check_rows(coefficients: Tensor, places: Tensor, output: Tensor) -> None:
    """Raise ValueError unless the tables fit each other, and the model's output [M, ...] is one that kernels read."""
    if output.ndim < 2:
        raise ValueError(f"output: found {output.ndim} dimensions; allowed: [M, ...]")
    check_tensor("output", output, FLOATS, tuple(output.shape), output.device)
    rows = len(coefficients)
    check_whole("coefficients", coefficients, torch.float32, (rows, len(COLUMNS)), output.device)
    check_whole("places", places, torch.int64, (rows, len(PLACE_COLUMNS)), output.device)


def check_whole(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    """`check_tensor`, and the whole tensor is contiguous."""
    check_tensor(name, tensor, (dtype,), shape, device)
    check_contiguous(name, tensor)


def check_tensor(
    name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...], device: torch.device
) -> None:
    """Raise ValueError unless it has a dtype of these, the shape, the device, contiguous rows and an aligned start.

    On alignment depends which elements a thread takes, so the order of a sum, so its bits.
    """
    check_dtype(name, tensor, dtypes)
    check_shape(name, tensor, shape)
    if tensor.numel() == 0:
        raise ValueError(f"{name}: found no elements; allowed: at least one")
    if tensor.device != device:
        raise ValueError(f"{name}: found on {tensor.device}; allowed: {device}, where the output is")
    check_contiguous(f"{name}: row", tensor[0])
    if tensor.data_ptr() % 16:
        raise ValueError(f"{name}: found at {tensor.data_ptr():#x}; allowed: multiples of 16 bytes")


def row_stride(tensor: Tensor) -> int:
    """Elements from row to row; a lone row's stride is arbitrary, and must not choose another kernel."""
    return tensor.stride(0) if len(tensor) > 1 else tensor[0].numel()
