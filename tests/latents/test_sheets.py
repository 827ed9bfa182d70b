from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from impasto.errors import InvalidRequest
from impasto.images import Picture
from impasto.latents import mixing_sheet, truncation_sheet

SIDE = 8


def make(**parameters: Any) -> list[Picture]:
    """Pictures whose red is the seed, green the mixed seed, blue 100·psi, of a single colour."""
    mix = parameters.get("style_mix") or (0, 0, 0)
    assert parameters["label"] == 1
    colours = [(seed, mix[0] + 10 * mix[2], 100 * parameters.get("psi", 0)) for seed in parameters["seeds"]]
    metadata = {"model": "m", "version": "1", "digest": "d", "seed": 1}
    return [Picture(metadata, array=np.full((SIDE, SIDE, 3), colour, np.uint8)) for colour in colours]


def colours_of(sheet: Picture) -> list[list[tuple[int, ...]]]:
    rows = sheet.array[:: SIDE + 1, :: SIDE + 1]
    return [[tuple(int(value) for value in cell) for cell in row] for row in rows]


def test_a_mixing_sheet_has_each_rows_picture_in_each_columns_style() -> None:
    sheet = mixing_sheet(make, [1, 2], [7, 8, 9], (0, 3), label=1)
    white = (255, 255, 255)
    assert colours_of(sheet) == [
        [white, (7, 0, 0), (8, 0, 0), (9, 0, 0)],
        [(1, 0, 0), (1, 37, 0), (1, 38, 0), (1, 39, 0)],
        [(2, 0, 0), (2, 37, 0), (2, 38, 0), (2, 39, 0)],
    ]
    shown = {"sheet": "mixing", "rows": [1, 2], "columns": [7, 8, 9], "layers": [0, 3]}
    assert sheet.metadata == {"model": "m", "version": "1", "digest": "d", **shown}


def test_a_truncation_sheet_has_a_row_a_seed_and_a_column_a_psi() -> None:
    sheet = truncation_sheet(make, [1, 2], [0.0, 0.5, 1.0], label=1)
    assert colours_of(sheet) == [[(seed, 0, blue) for blue in (0, 50, 100)] for seed in (1, 2)]
    assert sheet.metadata["psi"] == [0.0, 0.5, 1.0]


def test_a_truncation_sheet_without_psi_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="psi: found 'none'; allowed is one or more"):
        truncation_sheet(make, [1], [], label=1)
