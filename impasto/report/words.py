"""Figures as a reader sees them."""

from __future__ import annotations

from collections.abc import Callable

from impasto.bench.result import Spread


def tick(value: float) -> str:
    """A number for an axis: three digits that count, thousands apart, no exponent unless it is tiny."""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.3g}" if value == 0 or abs(value) >= 0.0001 else f"{value:.1e}"


def number(value: float) -> str:
    """A number for a table: as on an axis, and one that is not whole with all of its three digits."""
    whole = value == round(value) or abs(value) >= 99.95 or abs(value) < 0.001
    return tick(value) if whole else f"{value:#.3g}"


def times(value: float) -> str:
    """A ratio: two decimals, fewer where it is large and more where it is small."""
    return f"{value:.2f}" if 0.095 <= abs(value) < 9.995 else f"{value:.2g}" if abs(value) < 1 else f"{value:.1f}"


def extent(value: Spread, written: Callable[[float], str] = number) -> str:
    """The smallest and the largest of the repeats, or nothing where all are the same."""
    return "" if value.low == value.high else f"{written(value.low)}–{written(value.high)}"


def said(value: Spread, unit: str) -> str:
    """The median with its unit, and the repeats' range in brackets where there is one."""
    between = extent(value)
    return " ".join(part for part in (number(value.median), unit, f"({between})" if between else "") if part)
