"""Sheets that show what a model's styles do: mixing by layers, and truncation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from impasto.errors import InvalidRequest
from impasto.images import Picture, contact_sheet
from impasto.images.sheet import PAPER

Make = Callable[..., list[Picture]]
"""`generate` of a Generator, or of a Client with a model's name; the keywords are `impasto.generation.Parameters`."""


def mixing_sheet(
    make: Make, rows: Sequence[int], columns: Sequence[int], layers: tuple[int, int], **parameters: Any
) -> Picture:
    """The seeds of `rows` down the left, those of `columns` along the top, each row's picture in each column's style.

    A cell has the styles of layers first to last, both included, from its column, and the rest from its row (Karras et
    al. 2019, "A style-based generator", figure 3). `parameters` go to every picture.
    """
    first, last = layers
    left, top = make(seeds=rows, **parameters), make(seeds=columns, **parameters)
    mixed = [make(seeds=rows, style_mix=(column, first, last), **parameters) for column in columns]
    cells = [np.full_like(left[0].array, PAPER), *(picture.array for picture in top)]
    for index, picture in enumerate(left):
        cells += [picture.array, *(column[index].array for column in mixed)]
    shown = {"rows": list(rows), "columns": list(columns), "layers": [first, last]}
    return _sheet(left[0], "mixing", cells, len(columns) + 1, shown)


def truncation_sheet(make: Make, seeds: Sequence[int], psis: Sequence[float], **parameters: Any) -> Picture:
    """A row a seed, a column a psi: from 0, the average picture, to 1, the picture itself, or as far as `psis` go."""
    if not psis:
        raise InvalidRequest("psi", "none", "one or more")
    columns = [make(seeds=seeds, psi=psi, **parameters) for psi in psis]
    cells = [picture.array for row in zip(*columns, strict=True) for picture in row]
    return _sheet(columns[0][0], "truncation", cells, len(psis), {"seeds": list(seeds), "psi": list(psis)})


def _sheet(one: Picture, kind: str, cells: Sequence[Any], columns: int, shown: dict[str, Any]) -> Picture:
    """The cells row by row, with what is `shown` in the metadata instead of a picture's own parameters."""
    metadata: dict[str, Any] = {key: one.metadata[key] for key in ("model", "version", "digest") if key in one.metadata}
    return Picture({**metadata, "sheet": kind, **shown}, array=contact_sheet(cells, columns))
