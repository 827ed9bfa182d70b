"""Contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from impasto.errors import InvalidRequest
from impasto.images.pixels import Bytes

PAPER = 255


def contact_sheet(arrays: Sequence[Bytes], columns: int | None = None) -> Bytes:
    """Pictures of one size, row by row on white paper, a thin gap between them: uint8 [H, W, 3].

    `columns` defaults to the smallest number that makes the sheet no taller than it is wide, counted in pictures.
    """
    if not arrays:
        raise InvalidRequest("pictures", "none", "one or more")
    if columns is not None and columns < 1:
        raise InvalidRequest("columns", columns, "1 or more")
    height, width, channels = arrays[0].shape
    if len(shapes := {array.shape for array in arrays}) > 1:
        raise InvalidRequest("pictures", f"shapes {sorted(shapes)}", "pictures of one size")
    columns = min(columns or math.ceil(math.sqrt(len(arrays))), len(arrays))
    rows = math.ceil(len(arrays) / columns)
    gap = max(width // 64, 1)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), PAPER, np.uint8)
    for index, array in enumerate(arrays):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = array
    return sheet
