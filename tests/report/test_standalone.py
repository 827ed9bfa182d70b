"""Figures as files of their own, and the plots of a README that are made of them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import tables
from impasto.report.inputs import ReportError, read_inputs
from impasto.report.standalone import figures_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_figures_stand_side_by_side_with_titles_and_legends_in_light_and_dark(files: list[Path]) -> None:
    root = ElementTree.fromstring(figures_svg(read_inputs(files), ["Roofline", "Throughput by batch"]))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Roofline", "Throughput by batch", "NVIDIA L4: 100 Tflop/s, 0.250 TB/s", "Half an L4 (made up)"} <= set(
        texts
    )
    panels = root.findall(f"{SVG}g/{SVG}svg")
    assert [panel.get("width") for panel in panels] == ["380", "380"]
    assert float(root.get("width", "0")) == 2 * 380 + 24 + 2 * 12
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    assert len(re.findall(r"--series-1:", style)) == 2


def test_a_figure_that_there_is_not_is_named_with_those_there_are(files: list[Path]) -> None:
    with pytest.raises(ReportError, match="figure: found no Latency distribution; there are: Roofline, Share of"):
        figures_svg(read_inputs(files[3:]), ["Latency distribution"])


def test_a_readme_gets_the_plots_that_it_names(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", files[0].parent)
    text = "Text.\n<!-- plot: l4.json, half.json: p99 latency against rate -->\n![Latency](docs/plots/cards.svg)\n"
    ((path, svg),) = tables.plots(text).items()
    assert path == tables.README.parent / "docs/plots/cards.svg"
    assert svg == figures_svg(read_inputs([files[1], files[2]]), ["p99 latency against rate"])
