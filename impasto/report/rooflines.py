"""The figures of kernels: how near each comes to what its card can do at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from impasto.report import plot
from impasto.report.figures import Panel, series_key
from impasto.report.kernels import Floor, KernelFile, KernelTime
from impasto.report.words import number


@dataclass(frozen=True)
class Column:
    """A file of kernels in the report: the index of its colour, and what tells it from the others."""

    index: int
    label: str
    file: KernelFile


def columns(files: Sequence[tuple[str, KernelFile]], machines: Sequence[str]) -> list[Column]:
    """The files by card; with the commit, then the file's name, where the card alone does not tell them apart.

    A card that is among `machines`, those of the other files of the report, has the colour of that.
    """
    labels = [file.gpu.name for _, file in files]
    indices = [machines.index(label) if label in machines else len(machines) + n for n, label in enumerate(labels)]
    if len(set(labels)) < len(labels):
        labels = [f"{file.gpu.name} · {file.commit[:9]}" for _, file in files]
        indices = list(range(len(files)))
    if len(set(labels)) < len(labels):
        labels = [f"{label} · {name}" for label, (name, _) in zip(labels, files, strict=True)]
    return [Column(*row) for row in zip(indices, labels, (file for _, file in files), strict=True)]


def roofline_panel(columns: Sequence[Column], name: str) -> Panel | None:
    """Operations/s by operations a byte (Williams, Waterman and Patterson 2009), of the forms in use."""
    counted = [column for column in columns if _counted(column.file)]
    if not counted:
        return None
    svg = plot.drawn(lambda canvas: _draw_roofline(canvas, counted), name, 300)
    keys = tuple(series_key(column.index, f"{column.label}: {_seen(column.file.floor)}") for column in counted)
    note = (
        "The lines are what each card was seen to copy and to multiply. Kernels whose operations are not counted have "
    )
    return Panel("Roofline", svg, keys, note + "no place here; they are in the other figure.")


def floor_panel(columns: Sequence[Column], name: str) -> Panel | None:
    """For each kernel, how much of its time no kernel could save on that card."""
    kernels = list(dict.fromkeys(row.kernel for column in columns for row in column.file.routed.values()))
    if not kernels:
        return None
    svg = plot.drawn(lambda canvas: _draw_floor(canvas, columns, kernels), name, 46 + 20 * len(kernels), 138, 6)
    keys = tuple(series_key(column.index, column.label) for column in columns)
    note = "The least time that the card's memory and arithmetic allow, over the time taken; a mark for each shape."
    return Panel("Share of what the card can do", svg, keys, note)


def _counted(file: KernelFile) -> list[KernelTime]:
    return [row for row in file.routed.values() if row.intensity(file.floor)]


def _seen(floor: Floor) -> str:
    return f"{number(floor.multiplied / 1e12)} Tflop/s, {number(floor.copied / 1e12)} TB/s"


def _draw_roofline(canvas: plot.Canvas, columns: Sequence[Column]) -> None:
    intensities = [row.intensity(column.file.floor) for column in columns for row in _counted(column.file)]
    ridges = [column.file.floor.ridge for column in columns]
    low, high = min(intensities + ridges) / 2, max(intensities + ridges) * 3
    for column in columns:
        floor, rows = column.file.floor, _counted(column.file)
        _draw_roof(canvas, floor, column.index, low, high)
        words = [
            f"{column.label}\n{row.kernel} {row.shape}, batch {row.batch}: {number(row.ms)} ms,"
            f" {100 * row.share_of_floor:.0f} % of the floor"
            for row in rows
        ]
        xs, ys = [row.intensity(floor) for row in rows], [row.rate(floor) / 1e12 for row in rows]
        canvas.points(column.index, xs, ys, words, alpha=0.85)
    canvas.axes.set_xlim(low, high)
    plot.log_axis(canvas.axes, "x", subs=(1, 3))
    plot.log_axis(canvas.axes, "y", subs=(1, 3))
    plot.labels(canvas.axes, "flop a byte", "Tflop/s, float16")


def _draw_roof(canvas: plot.Canvas, floor: Floor, index: int, low: float, high: float) -> None:
    xs = [low, floor.ridge, high]
    ys = [min(x * floor.copied, floor.multiplied) / 1e12 for x in xs]
    canvas.axes.plot(xs, ys, color=plot.color(index), linewidth=1.4, dashes=(4, 2))


def _draw_floor(canvas: plot.Canvas, columns: Sequence[Column], kernels: Sequence[str]) -> None:
    for place, column in enumerate(columns):
        rows = list(column.file.routed.values())
        offset = 0.5 * ((place + 0.5) / len(columns) - 0.5)
        words = [
            f"{column.label}\n{row.kernel} {row.shape}, batch {row.batch}: {100 * row.share_of_floor:.0f} %,"
            f" {number(row.ms)} ms"
            for row in rows
        ]
        xs = [100 * row.share_of_floor for row in rows]
        canvas.points(column.index, xs, [kernels.index(row.kernel) + offset for row in rows], words, alpha=0.75)
    canvas.axes.set_yticks(range(len(kernels)), kernels)
    canvas.axes.set_ylim(len(kernels) - 0.4, -0.6)
    canvas.axes.set_xlim(0, max(100, canvas.axes.get_xlim()[1]))
    canvas.axes.spines.left.set_visible(False)
    plot.labels(canvas.axes, "% of the floor", "")
