"""Figures in the report's style: SVG from Matplotlib whose colours and font are the page's.

Matplotlib draws in colours that stand for names of the page's palette, and `svg` puts CSS variables in their place:
one drawing serves a light page, a dark one and print. Text stays text. A figure is as wide as a phone's page, so that
its letters are as large as the page's on a phone and a little larger elsewhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from impasto.report.words import tick

WIDTH = 380
"""Of a figure in CSS pixels, as its letters' sizes are meant."""
SERIES_COLORS = 8
MANY = 3000
"""From the start of a logarithmic axis to its end: too much for more than one label in each decade."""
MARKERS = {
    "o": "M4.4 0A4.4 4.4 0 1 1-4.4 0 4.4 4.4 0 1 1 4.4 0z",
    "s": "M-4.2-4.2h8.4v8.4h-8.4z",
    "^": "M0-5 5 4.4H-5z",
    "D": "M0-5.4 5.4 0 0 5.4-5.4 0z",
    "v": "M0 5 5-4.4H-5z",
    "P": "M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z",
    "X": "M-4.8-2.4-2.4-4.8 0-2.4 2.4-4.8 4.8-2.4 2.4 0 4.8 2.4 2.4 4.8 0 2.4-2.4 4.8-4.8 2.4-2.4 0z",
    "p": "M0-5 4.8-1.5 2.9 4H-2.9L-4.8-1.5z",
}
"""By Matplotlib's letters, and for legends as SVG paths, 10 wide around the origin."""

INK, MUTED, GRID, PAPER = "#c00001", "#c00002", "#c00003", "#c00004"
NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
SERIES = [f"#c001{index:02x}" for index in range(1, SERIES_COLORS + 1)]
STAGES = [f"#c002{index:02x}" for index in range(1, 6)]
NAMES |= {color: f"series-{index}" for index, color in enumerate(SERIES, 1)}
NAMES |= {color: f"stage-{index}" for index, color in enumerate(STAGES, 1)}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "impasto",
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "hatch.color": PAPER,
}


@dataclass
class Canvas:
    """One pair of axes to draw on. `tip` gives an artist the words that appear under a pointer."""

    axes: Axes
    figure: Figure
    tips: dict[str, str] = field(default_factory=dict)

    def tip(self, artist: Artist, words: str) -> None:
        """Say these words where the pointer rests on the artist."""
        artist.set_gid(f"tip-{len(self.tips)}")
        self.tips[f"tip-{len(self.tips)}"] = words

    def points(self, index: int, xs: Sequence[float], ys: Sequence[float], words: Sequence[str], **style: Any) -> None:
        """Markers of a series, each with its words."""
        for x, y, text in zip(xs, ys, words, strict=True):
            style = {"marker": marker(index), "color": color(index), "markeredgecolor": PAPER, **style}
            (point,) = self.axes.plot([x], [y], linestyle="none", markeredgewidth=0.7, clip_on=False, zorder=4, **style)
            self.tip(point, text)


def color(index: int) -> str:
    """The colour of a series."""
    return SERIES[index % len(SERIES)]


def marker(index: int) -> str:
    """The marker of a series: other colours go round at another time, so that the pair stays its own for longer."""
    return list(MARKERS)[(index + index // SERIES_COLORS) % len(MARKERS)]


def drawn(draw: Callable[[Canvas], None], name: str, height: int, left: int = 46, top: int = 24) -> str:
    """The SVG of what `draw` draws on axes of a figure so high; `left` and `top` are the room for the vertical
    axis' labels and name.

    `name` makes its ids unique in a page, and the same figure has the same bytes whenever it is drawn.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        edges = {"left": left / WIDTH, "right": 1 - 14 / WIDTH, "bottom": 40 / height, "top": 1 - top / height}
        figure.subplots_adjust(**edges)
        canvas = Canvas(figure.add_subplot(), figure)
        draw(canvas)
        with io.StringIO() as text:
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
            return svg(text.getvalue(), name, canvas.tips)


def labels(axes: Axes, x: str, y: str) -> None:
    """Name both axes; the vertical one's name lies above it, where it reads without turning one's head."""
    axes.set_xlabel(x, labelpad=5)
    axes.set_title(y, loc="left", x=0, pad=8, fontsize=11)


def log_axis(axes: Axes, which: str, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    """A logarithmic axis whose labels are plain numbers; `subs` of each decade where it spans little, else 1 alone."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis, (low, high) = (axes.xaxis, axes.get_xlim()) if which == "x" else (axes.yaxis, axes.get_ylim())
    axis.set_major_locator(LogLocator(subs=subs if high < MANY * low else (1,), numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def svg(text: str, name: str, tips: dict[str, str]) -> str:
    """Matplotlib's SVG as a part of a page: its size and font from CSS, ids of its own, titles on what has a tip."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text)
    for element in list(root):
        if element.tag.endswith("metadata"):
            root.remove(element)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", f"{name}-{identity}")
        if identity in tips:
            title = ElementTree.Element("{http://www.w3.org/2000/svg}title")
            title.text = tips[identity]
            element.insert(0, title)
        for key, value in element.items():
            element.set(key, _themed(value, name))
    return ElementTree.tostring(root, encoding="unicode")


def _themed(value: str, name: str) -> str:
    """An attribute's value with the page's colours and font, and ids of this figure."""
    for drawn_color, variable in NAMES.items():
        value = value.replace(drawn_color, f"var(--{variable})")
    value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value)
    return re.sub(r"^#|(?<=url\()#", f"#{name}-", value)
