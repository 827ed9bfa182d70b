"""The report: one HTML page that needs no network and runs no script."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import impasto
from impasto.report import figures, plot, rooflines
from impasto.report.compare import HEADLINES
from impasto.report.figures import Panel
from impasto.report.inputs import Inputs, ReportError
from impasto.report.rooflines import Column
from impasto.report.series import Family, families
from impasto.report.sources import sources
from impasto.report.tables import Table, all_figures, headline, kernel_times


@dataclass(frozen=True)
class Section:
    """All about one family of workloads, or about kernels. Tables but the one called `opened` are folded."""

    title: str
    panels: tuple[Panel, ...]
    tables: tuple[Table, ...]
    opened: str


def render(inputs: Inputs) -> str:
    """The page. ReportError where the files hold nothing to show."""
    found, columns = families(inputs.results), _columns(inputs)
    package = importlib.resources.files("impasto.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((package / "page.html").read_text(encoding="utf-8")).render(
        style=Markup((package / "page.css").read_text(encoding="utf-8")),
        version=impasto.__version__,
        sources=sources(inputs, found, columns),
        headlines=[headline(family, workload) for family in found for workload in figures.headlines(family)],
        metrics=HEADLINES,
        markers=plot.MARKERS,
        sections=sections(inputs),
        svg=Markup,
    )


def sections(inputs: Inputs) -> list[Section]:
    """What the files hold, in order: families of workloads, then kernels. ReportError where that is nothing."""
    columns = _columns(inputs)
    found = [_section(family, f"f{place}") for place, family in enumerate(families(inputs.results))]
    if any(column.file.routed for column in columns):
        found.append(_kernel_section(columns))
    if not found:
        raise ReportError("runs: found none in these files; allowed are files that hold at least one")
    return found


def _columns(inputs: Inputs) -> list[Column]:
    return rooflines.columns(inputs.kernels, [result.machine.title for _, result in inputs.results])


def _section(family: Family, name: str) -> Section:
    shown = figures.telling(family)
    panels = [
        *figures.rate_panels(family, f"{name}-rate"),
        figures.search_panel(family, shown, f"{name}-search"),
        figures.throughput_panel(family, shown, f"{name}-batch", "batch"),
        figures.throughput_panel(family, shown, f"{name}-concurrency", "concurrency"),
        figures.distribution_panel(family, shown, f"{name}-distribution"),
        figures.stages_panel(family, shown, f"{name}-stages"),
        figures.batches_panel(family, shown, f"{name}-batches"),
    ]
    tables = tuple(all_figures(family, workload) for workload in family.workloads)
    return Section(family.title, tuple(panel for panel in panels if panel), tables, shown.title)


def _kernel_section(columns: Sequence[Column]) -> Section:
    panels = (rooflines.roofline_panel(columns, "roofline"), rooflines.floor_panel(columns, "floor"))
    table = kernel_times(columns)
    return Section("Kernels", tuple(panel for panel in panels if panel), (table,), table.title)
