"""First whether a kernel is right, then how fast it is."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.gpu.case import Case, Suite, failure, in_a_line
from benchmarks.gpu.clock import Clock, Floor, Ways
from benchmarks.gpu.suites import LAYERS

CHECKED_BATCH = 3
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A form of a kernel at one shape, and what is wrong with it or None."""

    kernel: str
    form: str
    shape: str
    wrong: str | None


def checks(suite: Suite, device: torch.device, dtypes: Sequence[torch.dtype]) -> Iterator[Verdict]:
    """Compare a kernel with float64 at its small and odd shapes, in those of its dtypes that are asked for."""
    for dtype, shape in itertools.product((dtype for dtype in suite.dtypes if dtype in dtypes), suite.checked):
        yield from _verdicts(suite, suite.build(CHECKED_BATCH, dtype, device, *shape), dtype, shape)


def timings(
    suite: Suite,
    device: torch.device,
    clock: Clock,
    floor: Floor,
    *,
    batches: Sequence[int],
    shapes: Sequence[tuple[int | str, ...]],
    broken: set[str],
    compiles: bool = False,
) -> Iterator[Row | Verdict]:
    """For each shape and batch, a verdict of each form and the times of those that are right there.

    Forms in `broken` get no times. `compiles` adds torch.compile of what the eager rivals do.
    """
    dtype = suite.timed_dtype
    for batch, shape in itertools.product(batches, shapes):
        case = suite.build(batch, dtype, device, *shape)
        verdicts = list(_verdicts(suite, case, dtype, shape))
        yield from verdicts
        right = [verdict.form for verdict in verdicts if verdict.wrong is None and verdict.form not in broken]
        if right:
            rivals = dict(case.rivals) | (_compiled(case.rivals) if compiles else {})
            try:
                times = clock({form: case.forms[form].launch for form in right} | rivals)
            except Exception as error:
                # A rival that cannot be run or captured, or a card that is too small: the others go on.
                yield dataclasses.replace(verdicts[0], form="", wrong=f"no times: {in_a_line(error)}")
                continue
            label = {"shape": _label(shape), "batch": batch, "dtype": _name(dtype)}
            for form in right:
                yield {"kernel": suite.kernel, "form": form} | label | _figures(case, form, times, floor)


def _verdicts(suite: Suite, case: Case, dtype: torch.dtype, shape: Sequence[object]) -> Iterator[Verdict]:
    for name, form in case.forms.items():
        label = f"{case.batch}×{_label(shape)} {_name(dtype)}"
        yield Verdict(suite.kernel, name, label, failure(case, form))


def _compiled(rivals: Ways) -> dict[str, Callable[[], object]]:
    torch.compiler.reset()
    return {
        name.replace("eager", "compiled"): torch.compile(way, mode="max-autotune-no-cudagraphs", dynamic=False)
        for name, way in rivals.items()
        if name.startswith("eager")
    }


def _figures(case: Case, form: str, times: dict[str, float], floor: Floor) -> Row:
    """Times in ms, and how many times as long the fastest rival of each kind takes."""
    ms, rivals = times[form], {name: times[name] for name in times if name not in case.forms}
    fastest: dict[str, float] = {}
    for name, time in rivals.items():
        kind = name.split()[0]
        fastest[kind] = min(time, fastest.get(kind, time))
    return {
        "routed": case.forms[form].routed,
        "ms": ms,
        "floor_ms": floor.milliseconds(case.moved, case.operations),
        "share_of_copy": case.moved / (ms / 1e3) / floor.copied,
        "share_of_product": case.operations / (ms / 1e3) / floor.multiplied,
        "rivals_ms": rivals,
        "ratios": {kind: time / ms for kind, time in fastest.items()},
    }


def replace(rows: list[Row], found: Row) -> None:
    """Put a row in the place of the one with the same label, which says whether the form is used."""
    label = ("kernel", "form", "shape", "batch", "dtype")
    for index, row in enumerate(rows):
        if all(row[key] == found[key] for key in label):
            rows[index] = found | {"routed": row["routed"]}


def layer_sums(rows: Sequence[Row]) -> list[Row]:
    """For each batch in which every layer of the generator was timed, their sum, in the form that is used."""
    wanted = {(suite.kernel, _label(shape)) for suite in LAYERS for shape in suite.timed}
    sums = []
    for batch in sorted({row["batch"] for row in rows}):
        layers = {(row["kernel"], row["shape"]): row for row in rows if row["batch"] == batch and row["routed"]}
        if wanted <= layers.keys():
            used = [layers[key] for key in wanted]
            ms = sum(row["ms"] for row in used)
            kinds = sorted(set.intersection(*(set(row["ratios"]) for row in used)))
            label = {"kernel": "all modulated layers", "form": "routed", "shape": "1024²", "batch": batch}
            floor_ms = sum(row["floor_ms"] for row in used)
            ratios = {kind: sum(row["ratios"][kind] * row["ms"] for row in used) / ms for kind in kinds}
            sums.append(label | {"dtype": "float16", "ms": ms, "floor_ms": floor_ms, "ratios": ratios})
    return sums


def _label(shape: Sequence[object]) -> str:
    return "×".join(map(str, shape))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
