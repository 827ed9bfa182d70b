"""Write the measured tables and plots of the README, from the JSON files of the benchmarks: python -m benchmarks.tables

A table stands under `<!-- table: NAME -->`, the rows of results/cpu/NAME.json. A plot stands under
`<!-- plot: FILE, FILE: TITLE | TITLE -->`, figures of `impasto report` by title from files in results/; the picture in
the next line names the SVG file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

README = Path(__file__).parent.parent / "README.md"
MARK = re.compile(r"(<!-- table: (\w+) -->\n)(?:\|.*\n)*")
PLOT = re.compile(r"<!-- plot: ([^:\n]+): (.+) -->\n!\[[^\]]*\]\(([^)]+)\)")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, the keys of the first as its heads."""
    heads = list(rows[0])
    lines = [heads, ["---:"] * len(heads), *([_cell(row[head]) for head in heads] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_tables(text: str) -> str:
    """The README's text with each table as the latest results have it."""

    def table(match: re.Match[str]) -> str:
        results = json.loads((RESULTS / "cpu" / f"{match[2]}.json").read_text())
        return match[1] + markdown(results["rows"])

    return MARK.sub(table, text)


def plots(text: str) -> dict[Path, str]:
    """The SVG files that the README shows, as the latest results have them."""
    from impasto.report.inputs import read_inputs
    from impasto.report.standalone import figures_svg

    drawn = {}
    for files, titles, path in PLOT.findall(text):
        inputs = read_inputs(RESULTS / name.strip() for name in files.split(","))
        drawn[README.parent / path] = figures_svg(inputs, [title.strip() for title in titles.split("|")])
    return drawn


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else str(round(value))
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
    for path, svg in plots(README.read_text()).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg)
