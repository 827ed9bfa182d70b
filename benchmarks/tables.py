"""Write the measured tables into the README, from the JSON files of the benchmarks: python -m benchmarks.tables"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

README = Path(__file__).parent.parent / "README.md"
MARK = re.compile(r"(<!-- table: (\w+) -->\n)(?:\|.*\n)*")


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
