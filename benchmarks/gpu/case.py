"""A kernel at one shape: what it gives, what it should give, and what a user would run instead."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.closeness import disagreement

Outputs = tuple[Tensor, ...]
Rows = Callable[[slice], Outputs]
"""Outputs of some rows of a batch, each [rows, ...]."""
Judge = Callable[[Tensor, Tensor], str | None]
"""What is wrong with an output found, beside the one expected; or None."""

EVERY_ROW = slice(None)


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of a kernel: `rows` to look at what it gives, `launch` to take its time, of the whole batch.

    `routed` says whether it is the form that is used at this shape.
    """

    rows: Rows
    launch: Callable[[], object]
    judge: Judge
    routed: bool = True


@dataclasses.dataclass(frozen=True)
class Case:
    """Forms of a kernel on the same arguments.

    `expected` is float64. `rivals` do the same with torch; those of one kind, the first word of their names, are
    compared by the fastest. `moved` is the bytes that must be read and written at least, `operations` multiplications
    and additions.
    """

    batch: int
    forms: Mapping[str, Form]
    expected: Rows
    rivals: Mapping[str, Callable[[], object]]
    moved: int
    operations: int = 0


@dataclasses.dataclass(frozen=True)
class Suite:
    """The cases of a kernel. `build(batch, dtype, device, *shape)` makes one, with random arguments.

    `checked` are small and odd shapes, for all `dtypes`; `timed` are those whose time counts, in the dtype of its name.
    """

    kernel: str
    build: Callable[..., Case]
    checked: tuple[tuple[int | str, ...], ...]
    timed: tuple[tuple[int | str, ...], ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)
    timed_dtype: torch.dtype = torch.float16


def pure(
    rows: Callable[[slice], Tensor],
    *,
    terms: int = 1,
    kept: float = 0.0,
    judge: Judge | None = None,
    routed: bool = True,
) -> Form:
    """A form that changes none of its arguments, judged by `disagreement` unless told how."""
    judge = judge or functools.partial(disagreement, terms=terms, kept=kept)
    return Form(lambda of: (rows(of),), lambda: rows(EVERY_ROW), judge, routed)


def within(limit: float) -> Judge:
    """Every value within `limit` of the one expected."""

    def judge(found: Tensor, expected: Tensor) -> str | None:
        error = (found.double() - expected.double()).abs().max().item()
        return None if error <= limit else f"error {error:.3g}, allowed {limit:.3g}"

    return judge


def failure(case: Case, form: Form) -> str | None:
    """What is wrong with a form, or None.

    The first and the last row must come close to float64, and be the same bits alone as in the batch.
    """
    try:
        with _poisoned_memory():
            batch = form.rows(EVERY_ROW)
        for index in sorted({0, case.batch - 1}):
            one = slice(index, index + 1)
            for found, expected in zip(batch, case.expected(one), strict=True):
                if wrong := form.judge(found[one], expected):
                    return wrong
            with _poisoned_memory():
                alone = form.rows(one)
            if not all(torch.equal(part[one], part_alone) for part, part_alone in zip(batch, alone, strict=True)):
                return f"row {index} alone has other bits than in a batch of {case.batch}"
    except Exception as error:
        # Whatever it is, a kernel that cannot be run is a kernel that failed; the others go on.
        return in_a_line(error)
    return None


def in_a_line(error: Exception) -> str:
    """An error's type and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


@contextlib.contextmanager
def _poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN, or an integer's largest value, so that what is not written is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
