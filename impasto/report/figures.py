"""The figures of loads: each from the series that measured what it shows, or none."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from impasto.bench.histogram import Histogram
from impasto.bench.result import STAGES, Capacity, Run
from impasto.report import plot
from impasto.report.compare import HEADLINES, Metric, spread
from impasto.report.series import Family, Series, Workload
from impasto.report.words import number, said, tick

THROUGHPUT, P50, P99 = HEADLINES
PERCENTILES = (0, 50, 90, 99, 99.9, 99.99, 99.999)
SHARE_TO_NAME = 0.12
"""Of a bar, from which on a part has room for its figure."""

CLIENT = STAGES[0]
"""The stage that needs no word of the server."""
FEWEST_PLACES = 4
"""Of batch sizes on an axis, so that no bar is as wide as the figure."""
ALONE = 9.0
"""Size of the marker of a point that no line leads to."""
LABEL_LENGTH = 54
"""Of a series' name inside a figure."""


@dataclass(frozen=True)
class Key:
    """A line of a legend: a colour of the page's palette by name, and a marker by Matplotlib's letter."""

    color: str
    label: str
    marker: str = "s"


@dataclass(frozen=True)
class Panel:
    """A figure with what is said about it in the page's own text."""

    title: str
    svg: str
    keys: tuple[Key, ...]
    note: str = ""


def rate_panels(family: Family, name: str) -> list[Panel]:
    """Latency at each offered rate, p50 and p99, where a series was measured at two rates or more."""
    lines = _lines(family, lambda workload: workload.load.rate)
    note = "Median of the repeats; the band holds all of them." if _repeated(lines) else ""
    return [
        Panel(
            f"{metric.name} latency against rate",
            plot.drawn(partial(_draw_rates, lines=lines, metric=metric), f"{name}-{place}", 270),
            _keys(lines),
            note,
        )
        for place, metric in enumerate((P50, P99))
        if any(len(points) > 1 for _, points in lines)
    ]


def throughput_panel(family: Family, shown: Workload, name: str, by: str) -> Panel | None:
    """Images/s by "batch" or "concurrency", where a series was measured at two or more; the other as in `shown`."""
    other = "concurrency" if by == "batch" else "batch"
    lines = _lines(
        family, lambda of: of.pace[by] if of.load.rate is None and of.pace[other] == shown.pace[other] else None
    )
    if not any(len(points) > 1 for _, points in lines):
        return None
    note = "Median of the repeats; the bars hold all of them." if _repeated(lines) else ""
    svg = plot.drawn(lambda canvas: _draw_throughput(canvas, lines, by), name, 270)
    return Panel(f"Throughput by {by}", svg, _keys(lines), note)


def search_panel(family: Family, workload: Workload, name: str) -> Panel | None:
    """The latency at each rate that was tried on the way to the highest one."""
    searches = [(one, run.capacity) for one in family.series if (run := one.runs.get(workload)) and run.capacity]
    if not any(len(_told(found)) > 1 for _, found in searches):
        return None
    percentile = f"p{searches[0][1].percentile:g}"
    svg = plot.drawn(lambda canvas: _draw_search(canvas, searches, percentile), name, 270)
    note = "The rates that were tried in search of the highest one; the line is the limit."
    return Panel(f"{percentile} latency against rate", svg, _keys(searches), note)


def distribution_panel(family: Family, workload: Workload, name: str) -> Panel | None:
    """All latencies of a workload by percentile, on the axis that shows the tail (as HdrHistogram's plots do)."""
    runs = [(one, run.latency) for one, run in _measured(family, workload) if run.latency.count > 1]
    if not runs:
        return None
    svg = plot.drawn(lambda canvas: _draw_distribution(canvas, runs), name, 270)
    return Panel("Latency distribution", svg, _keys(runs), f"All requests: {workload.title}.")


def stages_panel(family: Family, workload: Workload, name: str) -> Panel | None:
    """Where the mean latency goes, of those whose server tells: what passes in the client alone is no share of it."""
    means = [(one, _stage_means(run)) for one, run in _measured(family, workload)]
    rows = [(one, told) for one, told in means if sum(told.values()) > told[CLIENT]]
    if not rows:
        return None
    svg = plot.drawn(lambda canvas: _draw_stages(canvas, rows), name, 46 + 46 * len(rows), left=14, top=6)
    keys = [Key(f"stage-{index}", stage) for index, stage in enumerate(STAGES, 1) if any(row[stage] for _, row in rows)]
    return Panel("Where the time goes", svg, tuple(keys), f"Mean of a request: {workload.title}.")


def batches_panel(family: Family, workload: Workload, name: str) -> Panel | None:
    """How large the batches were that the server formed."""
    rows = [(one, sizes) for one, run in _measured(family, workload) if (sizes := _batch_shares(run))]
    if not rows:
        return None
    svg = plot.drawn(lambda canvas: _draw_batches(canvas, rows), name, 270)
    return Panel("Batches that formed", svg, _keys(rows), f"Share of executions: {workload.title}.")


def telling(family: Family, series: Series | None = None) -> Workload:
    """The workload of a family, or of one series, that shows the most: that of most series, unharmed, the heaviest."""

    def worth(workload: Workload) -> tuple[int, bool, float, int, int]:
        runs = [run for _, run in _measured(family, workload)]
        unharmed = all(repeat.rejected == repeat.failed == 0 for run in runs for repeat in run.repeats)
        return len(runs), unharmed, workload.load.rate or 0, workload.batch or 0, workload.load.concurrency or 0

    return max((of for of in family.workloads if series is None or of in series.runs), key=worth)


def headlines(family: Family) -> list[Workload]:
    """The telling workload, and those that tell of the series which it does not."""
    found = [telling(family)]
    for one in family.series:
        if not any(workload in one.runs for workload in found):
            found.append(telling(family, one))
    return found


Line = tuple[Series, list[tuple[float, Run]]]


def _lines(family: Family, of: Callable[[Workload], float | None]) -> list[Line]:
    """For each series that has any, what was measured by the quantity of a workload that `of` gives."""
    lines: list[Line] = []
    for one in family.series:
        runs = {of(workload): run for workload, run in one.runs.items() if run.repeats}
        points = sorted(((x, run) for x, run in runs.items() if x), key=lambda point: point[0])
        lines += [(one, points)] if points else []
    return lines


def _measured(family: Family, workload: Workload) -> list[tuple[Series, Run]]:
    runs = ((one, one.runs.get(workload)) for one in family.series)
    return [(one, run) for one, run in runs if run and run.repeats]


def _keys(rows: Iterable[tuple[Series, object]]) -> tuple[Key, ...]:
    return tuple(series_key(one.index, one.label) for one, _ in rows)


def series_key(index: int, label: str) -> Key:
    """The line of a legend that names a series."""
    return Key(plot.NAMES[plot.color(index)], label, plot.marker(index))


def _repeated(lines: Sequence[Line]) -> bool:
    return any(len(run.repeats) > 1 for _, points in lines for _, run in points)


def _draw_rates(canvas: plot.Canvas, lines: Sequence[Line], metric: Metric) -> None:
    for one, runs in lines:
        points = [(rate, value) for rate, run in runs if (value := spread(run, metric))]
        if not points:
            continue
        color, rates = plot.color(one.index), [rate for rate, _ in points]
        canvas.axes.plot(rates, [value.median for _, value in points], color=color)
        lows, highs = [value.low for _, value in points], [value.high for _, value in points]
        canvas.axes.fill_between(rates, lows, highs, color=color, alpha=0.18, linewidth=0)
        words = [f"{one.label}\n{rate:g} requests/s: {said(value, 'ms')}" for rate, value in points]
        alone: dict[str, float] = {"markersize": ALONE} if len(points) == 1 else {}
        if alone:
            canvas.axes.vlines(rates, lows, highs, color=color, linewidth=4, alpha=0.35)
        canvas.points(one.index, rates, [value.median for _, value in points], words, **alone)
    plot.log_axis(canvas.axes, "y")
    canvas.axes.set_xlim(left=0)
    plot.labels(canvas.axes, "offered rate, requests/s", f"{metric.name}, ms")


def _told(found: Capacity) -> list[tuple[float, float]]:
    """The rates that were tried and the latencies that came of them, where any did."""
    return sorted((trial.rate, trial.latency_ms) for trial in found.trials if trial.latency_ms)


def _draw_search(canvas: plot.Canvas, searches: Sequence[tuple[Series, Capacity]], percentile: str) -> None:
    canvas.axes.axhline(searches[0][1].latency_limit_ms, color=plot.MUTED, linewidth=1.2, dashes=(4, 2))
    for one, found in searches:
        points = _told(found)
        rates, latencies = [rate for rate, _ in points], [latency for _, latency in points]
        canvas.axes.plot(rates, latencies, color=plot.color(one.index))
        words = [f"{one.label}\n{rate:.4g} requests/s: {percentile} {number(latency)} ms" for rate, latency in points]
        canvas.points(one.index, rates, latencies, words)
    plot.log_axis(canvas.axes, "y")
    canvas.axes.set_xlim(left=0)
    plot.labels(canvas.axes, "offered rate, requests/s", f"{percentile}, ms")


def _draw_throughput(canvas: plot.Canvas, lines: Sequence[Line], label: str) -> None:
    for one, runs in lines:
        points = [(x, value) for x, run in runs if (value := spread(run, THROUGHPUT))]
        xs, medians = [x for x, _ in points], [value.median for _, value in points]
        canvas.axes.plot(xs, medians, color=plot.color(one.index))
        lows, highs = [value.low for _, value in points], [value.high for _, value in points]
        canvas.axes.vlines(xs, lows, highs, color=plot.color(one.index), linewidth=4, alpha=0.35)
        words = [f"{one.label}\n{label} {x:g}: {said(value, 'images/s')}" for x, value in points]
        canvas.points(one.index, xs, medians, words)
    canvas.axes.set_xscale("log", base=2)
    measured = sorted({x for _, runs in lines for x, _ in runs})
    canvas.axes.set_xticks(measured, [f"{x:g}" for x in measured])
    canvas.axes.minorticks_off()
    canvas.axes.set_ylim(bottom=0)
    canvas.axes.yaxis.set_major_formatter(lambda value, _: tick(value))
    plot.labels(canvas.axes, label, "images/s")


def _draw_distribution(canvas: plot.Canvas, runs: Sequence[tuple[Series, Histogram]]) -> None:
    largest = max(histogram.count for _, histogram in runs)
    marked = [percent for percent in PERCENTILES if largest * (1 - percent / 100) >= 1]
    for one, histogram in runs:
        # The 100th percentile has no place on this axis: the longest time stands where one of all exceeds it.
        end = 1 - 1 / histogram.count
        curve = [
            (histogram.middle(min(histogram.counts)), 0.0),
            *(point for point in histogram.curve() if point[1] < end),
        ]
        curve.append((histogram.middle(max(histogram.counts)), end))
        canvas.axes.plot([_tail(share) for _, share in curve], [time for time, _ in curve], color=plot.color(one.index))
        own = [percent for percent in marked[1:] if histogram.count * (1 - percent / 100) >= 1]
        values = [histogram.percentile(percent) for percent in own]
        words = [f"{one.label}\np{percent:g}: {number(value)} ms" for percent, value in zip(own, values, strict=True)]
        canvas.points(one.index, [_tail(percent / 100) for percent in own], values, words)
    canvas.axes.set_xticks([_tail(percent / 100) for percent in marked], [f"{percent:g}" for percent in marked])
    canvas.axes.set_xlim(left=0)
    plot.log_axis(canvas.axes, "y")
    plot.labels(canvas.axes, "percentile of requests", "latency, ms")


def _tail(share: float) -> float:
    """A percentile's place: each nine as far as the one before."""
    return -math.log10(1 - share)


def _stage_means(run: Run) -> dict[str, float]:
    """Mean ms of each stage over all repeats, those that were not told as 0."""
    parts = {stage: [repeat.stages[stage].mean for repeat in run.repeats if stage in repeat.stages] for stage in STAGES}
    return {stage: max(statistics.fmean(means), 0.0) if means else 0.0 for stage, means in parts.items()}


def _draw_stages(canvas: plot.Canvas, rows: Sequence[tuple[Series, dict[str, float]]]) -> None:
    longest = max(sum(means.values()) for _, means in rows)
    for place, (one, means) in enumerate(rows):
        start = 0.0
        for stage, tone in zip(STAGES, plot.STAGES, strict=True):
            if not (mean := means[stage]):
                continue
            (bar,) = canvas.axes.barh(
                place, mean, left=start, height=0.56, color=tone, edgecolor=plot.PAPER, linewidth=1
            )
            canvas.tip(bar, f"{one.label}\n{stage}: {number(mean)} ms")
            if mean > SHARE_TO_NAME * longest:
                middle = start + mean / 2
                canvas.axes.text(middle, place, number(mean), ha="center", va="center", color=plot.PAPER, fontsize=10)
            start += mean
        canvas.axes.annotate(
            f"{number(start)} ms", (start, place), xytext=(5, 0), textcoords="offset points", va="center"
        )
        label = one.label if len(one.label) <= LABEL_LENGTH else f"{one.label[: LABEL_LENGTH - 1]}…"
        canvas.axes.text(0, place - 0.34, label, va="bottom")
    canvas.axes.set_xlim(0, 1.2 * longest)
    canvas.axes.set_yticks([])
    canvas.axes.set_ylim(len(rows) - 0.6, -0.8)
    canvas.axes.grid(axis="y", visible=False)
    canvas.axes.spines.left.set_visible(False)
    canvas.axes.xaxis.set_major_formatter(lambda value, _: tick(value))
    plot.labels(canvas.axes, "ms", "")


def _batch_shares(run: Run) -> dict[int, float]:
    counts: dict[int, int] = {}
    for repeat in run.repeats:
        for size, count in repeat.batch_sizes.items():
            counts[size] = counts.get(size, 0) + count
    total = sum(counts.values())
    return {size: count / total for size, count in sorted(counts.items())} if total else {}


def _draw_batches(canvas: plot.Canvas, rows: Sequence[tuple[Series, dict[int, float]]]) -> None:
    sizes = sorted({size for _, shares in rows for size in shares})
    width = 0.8 / len(rows)
    for place, (one, shares) in enumerate(rows):
        xs = [sizes.index(size) + (place + 0.5) * width - 0.4 for size in shares]
        heights = [100 * share for share in shares.values()]
        bars = canvas.axes.bar(
            xs, heights, width * 0.92, color=plot.color(one.index), edgecolor=plot.PAPER, linewidth=0.5
        )
        for bar, (size, share) in zip(bars, shares.items(), strict=True):
            canvas.tip(bar, f"{one.label}\nbatches of {size}: {100 * share:.1f} %")
    step = math.ceil(len(sizes) / 16)
    canvas.axes.set_xticks(range(0, len(sizes), step), [str(size) for size in sizes[::step]])
    middle, half = (len(sizes) - 1) / 2, max(len(sizes), FEWEST_PLACES) / 2
    canvas.axes.set_xlim(middle - half, middle + half)
    canvas.axes.grid(axis="x", visible=False)
    plot.labels(canvas.axes, "pictures in a batch", "executions, %")
