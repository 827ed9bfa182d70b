"""The tables of a report: figures of series side by side, and how many times better each is than the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from impasto.bench.result import Run
from impasto.report.compare import HEADLINES, METRICS, Metric, ratio, spread
from impasto.report.figures import Key, series_key
from impasto.report.rooflines import Column
from impasto.report.series import Family, Series, Workload
from impasto.report.words import extent, number, times


@dataclass(frozen=True)
class Cell:
    """A figure: the value, its range, and how many times better it is than the first of its kind.

    `judgement` is "better" or "worse" where the ratio's whole range is, else "same"; no ratio, no judgement.
    """

    value: str
    range: str = ""
    ratio: str = ""
    ratio_range: str = ""
    judgement: str = ""


@dataclass(frozen=True)
class Row:
    """Cells of one head, with the key of a series or a unit; `instead` says why there are none."""

    head: str
    cells: tuple[Cell, ...] = ()
    key: Key | None = None
    unit: str = ""
    instead: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under the keys of series, or under what the page says."""

    title: str
    rows: tuple[Row, ...]
    heads: tuple[Key, ...] = ()
    note: str = ""

    @property
    def ranged(self) -> bool:
        """Whether any figure has a range, for which room is kept beside all."""
        return any(cell.range for row in self.rows for cell in row.cells)


def headline(family: Family, workload: Workload) -> Table:
    """What one looks at first: a row a series."""
    rows = [
        Row(one.label, _cells(run, base, HEADLINES), _key(one), instead=_refusal(run))
        for one, run, base in _beside_first(family, workload)
    ]
    return Table(f"{family.title}, {workload.title}", tuple(rows))


def all_figures(family: Family, workload: Workload) -> Table:
    """All that was measured of a workload: a row a metric, a column a series."""
    columns = _beside_first(family, workload)
    metrics = [metric for metric in METRICS if any(spread(run, metric) for _, run, _ in columns)]
    rows = [Row(m.name, tuple(_cell(run, base, m) for _, run, base in columns), unit=m.unit) for m in metrics]
    for head, of in TOLD.items():
        cells = tuple(Cell(of(run)) for _, run, _ in columns)
        rows += [Row(head, cells)] if any(cell.value for cell in cells) else []
    return Table(workload.title, tuple(rows), tuple(_key(one) for one, _, _ in columns))


def kernel_times(columns: Sequence[Column]) -> Table:
    """Times of the forms in use: a row a shape and batch, a column a card."""
    files = [column.file.routed for column in columns]
    rows = []
    for work in dict.fromkeys(work for file in files for work in file):
        kernel, shape, batch, dtype = work
        first = next(file[work].ms for file in files if work in file)
        cells = []
        for file in files:
            if (time := file.get(work)) is None:
                cells.append(Cell("–"))
                continue
            rivals = ", ".join(f"{kind} {times(ratio)}×" for kind, ratio in time.ratios.items())
            cells.append(Cell(number(time.ms), ratio=f"{times(first / time.ms)}×", ratio_range=rivals))
        rows.append(Row(f"{kernel} {shape}", tuple(cells), unit=f"batch {batch}, {dtype}"))
    heads = tuple(series_key(column.index, column.label) for column in columns)
    return Table(
        "Times",
        tuple(rows),
        heads,
        "Medians in ms of the forms in use, how many times as fast as the first card, and how many times as long"
        " torch's own ways take.",
    )


def _beside_first(family: Family, workload: Workload) -> list[tuple[Series, Run, Run | None]]:
    """The series that have a workload, with their run and, but for the first that was measured, that one's."""
    found = [(one, one.runs[workload]) for one in family.series if workload in one.runs]
    first = next((run for _, run in found if run.repeats), None)
    return [(one, run, None if run is first else first) for one, run in found]


def _cells(run: Run, base: Run | None, metrics: Iterable[Metric]) -> tuple[Cell, ...]:
    return tuple(_cell(run, base, metric) for metric in metrics) if run.repeats else ()


def _cell(run: Run, base: Run | None, metric: Metric) -> Cell:
    value, first = spread(run, metric), spread(base, metric)
    if value is None:
        return Cell("–")
    cell = Cell(number(value.median), extent(value))
    change = ratio(metric, first, value) if first and metric.judged else None
    if change is None:
        return cell
    judgement = "better" if change.low > 1 else "worse" if change.high < 1 else "same"
    return dataclasses.replace(
        cell, ratio=f"{times(change.median)}×", ratio_range=extent(change, times), judgement=judgement
    )


def _key(one: Series) -> Key:
    return series_key(one.index, one.label)


def _refusal(run: Run) -> str:
    return "" if run.repeats else run.refused or "not measured"


def _capacity(run: Run) -> str:
    if run.capacity is None:
        return ""
    return f"{number(run.capacity.rate)} requests/s"


def _gate(run: Run) -> str:
    if run.gate is None:
        return ""
    wanted = f"{run.gate.tolerance_db:.0f} wanted"
    return f"{run.gate.psnr_db:.1f} dB ({wanted if run.gate.passed else f'failed, {wanted}'})"


TOLD: dict[str, Callable[[Run], str]] = {
    "highest rate": _capacity,
    "pictures against fp32": _gate,
    "LoadGen says": lambda run: "; ".join([run.loadgen.result, *run.loadgen.reasons]) if run.loadgen else "",
    "repeats": lambda run: str(len(run.repeats)),
    "refused": lambda run: run.refused,
}
"""What a run has once, however often it was repeated."""
