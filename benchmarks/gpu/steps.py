"""Steps of diffusion samplers on a guided batch, beside the operations that a library runs one after another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.closeness import disagreement
from benchmarks.gpu.case import Case, Form
from impasto.kernels import guidance_rescale, sampler_step
from impasto.kernels.sampler_row import Place, Row, place_table, table
from impasto.kernels.sampler_step import Slots

# The values are those of no schedule: any cost the same.
ROWS = {
    "dpmpp_2m": Row(
        guidance=5.0, convert_state=1.25, convert_output=-0.75, state=0.8, current=0.3, past1=-0.1, head=1.0
    ),
    "euler_ancestral": Row(
        guidance=5.0, convert_state=1.0, convert_output=-2.0, state=0.5, current=0.5, noise=0.8, push=0.0, input=0.6
    ),
    "ddim_rescaled": Row(
        guidance=5.0, rescale=0.7, convert_state=1.25, convert_output=-0.75, state=0.8, current=0.3, push=0.0
    ),
    "everything": Row(
        2.5, 0.3, 0.8, -0.6, 0.7, 0.45, 0.52, 0.59, 0.66, 0.73, 0.8, 0.87, 0.94, 0.3, 0.4, 0.5, 0.6, 0.7, 2.0, 1.0, 0.5
    ),
}
FLOATS_MOVED = {"dpmpp_2m": 4, "euler_ancestral": 2, "ddim_rescaled": 2, "everything": 8}
"""Float32 tensors of a latent's size that a row reads or writes; beside them two halves of output and of input."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step reads and changes; row i is in slot i, with its halves in rows 2i and 2i + 1 of the model's."""

    slots: Slots
    coefficients: Tensor
    places: Tensor
    output: Tensor
    model_input: Tensor
    rescales: bool

    def copy(self, dtype: torch.dtype) -> Batch:
        """The same with slots in another dtype, and a model input of NaN."""
        slots = Slots(*(getattr(self.slots, field.name).to(dtype, copy=True) for field in dataclasses.fields(Slots)))
        return dataclasses.replace(self, slots=slots, model_input=torch.full_like(self.model_input, torch.nan))

    def of(self, rows: slice) -> Batch:
        """A step batch of some rows, over the same slots."""
        return dataclasses.replace(self, coefficients=self.coefficients[rows].clone(), places=self.places[rows].clone())

    def step(self) -> None:
        """One step, in place."""
        arguments = self.coefficients, self.places, self.output
        statistics = guidance_rescale.guidance_statistics(*arguments) if self.rescales else None
        sampler_step.sampler_step(self.slots, *arguments, self.model_input, statistics=statistics)

    def changed(self, rows: slice) -> tuple[Tensor, ...]:
        """What a step of some rows has changed, the first axis that of the rows."""
        inputs = self.model_input.reshape(-1, 2, *self.model_input.shape[1:])[rows]
        return self.slots.latent[rows], self.slots.history[rows], self.slots.saved[rows], inputs


def step(n: int, dtype: torch.dtype, device: torch.device, sampler: str, *shape: int) -> Case:
    """A step of N rows of one sampler, all guided."""
    torch.manual_seed(n)
    row = ROWS[sampler]
    slots = Slots(*(torch.randn(n, *extra, *shape, device=device) for extra in ((), (3,), ())))
    places = [Place(index, 2 * index, 2 * index + 1, seed=2**40 + index, step=index) for index in range(n)]
    cells = torch.from_numpy(table([row] * n)).to(device), torch.from_numpy(place_table(places)).to(device)
    output = torch.randn(2 * n, *shape, device=device).to(dtype)
    batch = Batch(slots, *cells, output, torch.empty_like(output), row.rescale != 0.0)

    def ours(of: slice) -> tuple[Tensor, ...]:
        after = batch.copy(torch.float32).of(of)
        after.step()
        return after.changed(of)

    def expected(of: slice) -> tuple[Tensor, ...]:
        after = batch.copy(torch.float64)
        exact = torch.full_like(batch.model_input, torch.nan, dtype=torch.float64)
        tables = batch.coefficients[of].cpu(), batch.places[of].cpu()
        sampler_step.reference(after.slots, *tables, batch.output, exact)
        return dataclasses.replace(after, model_input=exact).changed(of)

    form = Form(ours, batch.step, functools.partial(disagreement, terms=10))
    moved = n * output[0].numel() * (4 * FLOATS_MOVED[sampler] + 4 * output.element_size())
    rivals = {"eager": EAGER[sampler](batch)} if sampler in EAGER else {}
    return Case(n, {"": form}, expected, rivals, moved)


def _guided(batch: Batch) -> Tensor:
    """The guided output, where a model's batch has all unconditional rows and then all conditional ones."""
    unconditional, conditional = batch.output.chunk(2)
    return (unconditional + 5.0 * (conditional - unconditional)).float()


def _eager_dpmpp_2m(batch: Batch) -> Callable[[], object]:
    x, past = batch.slots.latent, batch.slots.history[:, 0].contiguous()

    def run() -> tuple[Tensor, Tensor]:
        x0 = (x - 0.6 * _guided(batch)) / 0.8
        slope = 2.0 * (x0 - past)
        after = 0.8 * x + 0.2 * x0 - 0.1 * slope
        return x0, torch.cat([after] * 2).to(batch.output.dtype)

    return run


def _eager_euler_ancestral(batch: Batch) -> Callable[[], object]:
    x = batch.slots.latent

    def run() -> Tensor:
        x0 = x - 2.0 * _guided(batch)
        after = x + (x - x0) / 2.0 * -1.0 + torch.randn_like(x) * 0.8
        return (torch.cat([after] * 2) / 1.7).to(batch.output.dtype)

    return run


def _eager_ddim_rescaled(batch: Batch) -> Callable[[], object]:
    x, axes = batch.slots.latent, tuple(range(1, batch.output.ndim))

    def run() -> Tensor:
        m, conditional = _guided(batch), batch.output.chunk(2)[1].float()
        rescaled = m * (conditional.std(dim=axes, keepdim=True) / m.std(dim=axes, keepdim=True))
        m = 0.7 * rescaled + 0.3 * m
        x0 = (x - 0.6 * m) / 0.8
        after = 0.9 * x0 + 0.4 * (x - 0.8 * x0) / 0.6
        return torch.cat([after] * 2).to(batch.output.dtype)

    return run


EAGER = {
    "dpmpp_2m": _eager_dpmpp_2m,
    "euler_ancestral": _eager_euler_ancestral,
    "ddim_rescaled": _eager_ddim_rescaled,
}
