"""Figures of a report as one SVG file, with their titles and legends, for a README."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from impasto.report import plot
from impasto.report.figures import Panel
from impasto.report.inputs import Inputs, ReportError
from impasto.report.page import sections

MARGIN, LINE, GAP = 12, 18, 24


def figures_svg(inputs: Inputs, titles: Sequence[str]) -> str:
    """The figures of these titles side by side, of each the first that there is.

    The file is light or dark as its reader's system is. ReportError where no figure has such a title.
    """
    found = {panel.title: panel for section in reversed(sections(inputs)) for panel in reversed(section.panels)}
    if missing := [title for title in titles if title not in found]:
        raise ReportError(f"figure: found no {missing[0]}; there are: {', '.join(sorted(found))}")
    panels = [found[title] for title in titles]
    head = LINE * (1 + max(len(panel.keys) for panel in panels))
    parts = [_panel(panel, place, head) for place, panel in enumerate(panels)]
    width = len(panels) * (plot.WIDTH + GAP) - GAP + 2 * MARGIN
    height = head + max(_height(panel) for panel in panels) + 2 * MARGIN
    size = f'width="{width}" height="{height:g}" viewBox="0 0 {width} {height:g}"'
    back = f'<rect width="{width}" height="{height:g}" fill="var(--paper)"/>'
    style = f"<style>{_palette()} svg {{ font-family: sans-serif }}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{back}{"".join(parts)}</svg>\n'


def _panel(panel: Panel, place: int, head: int) -> str:
    lines = [
        f'<text x="0" y="{LINE - 4}" font-size="14" font-weight="600" fill="var(--ink)">{escape(panel.title)}</text>'
    ]
    for line, key in enumerate(panel.keys, 1):
        marker = f'<path d="{plot.MARKERS[key.marker]}" fill="var(--{key.color})"/>'
        label = f'<text x="10" y="4" font-size="12" fill="var(--ink)">{escape(key.label)}</text>'
        lines.append(f'<g transform="translate(6 {LINE * line + LINE / 2:g})">{marker}{label}</g>')
    size = f'y="{head}" width="{plot.WIDTH}" height="{_height(panel):g}"'
    left = MARGIN + place * (plot.WIDTH + GAP)
    return (
        f'<g transform="translate({left} {MARGIN})">{"".join(lines)}{panel.svg.replace("<svg", f"<svg {size}", 1)}</g>'
    )


def _height(panel: Panel) -> float:
    return float(ElementTree.fromstring(panel.svg).attrib["viewBox"].split()[3])


def _palette() -> str:
    """The part of the page's style that names colours."""
    style = (importlib.resources.files("impasto.report") / "page.css").read_text(encoding="utf-8")
    return " ".join(style.partition("* {")[0].split())
