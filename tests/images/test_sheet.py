from __future__ import annotations

import numpy as np
import pytest

from impasto.errors import InvalidRequest
from impasto.images import contact_sheet


def flat(value: int, height: int = 64, width: int = 128) -> np.ndarray:  # type: ignore[type-arg]
    return np.full((height, width, 3), value, np.uint8)


def test_sheet_holds_every_picture_in_reading_order() -> None:
    sheet = contact_sheet([flat(10), flat(20), flat(30), flat(40), flat(50)])
    assert sheet.shape == (2 * 64 + 2, 3 * 128 + 2 * 2, 3)
    found = [[int(sheet[top, left, 0]) for left in (0, 130, 260)] for top in (0, 66)]
    assert found == [[10, 20, 30], [40, 50, 255]]
    assert np.array_equal(sheet[66:, 130:258], flat(50))


def test_gap_between_pictures_is_white() -> None:
    sheet = contact_sheet([flat(10)] * 4)
    assert (sheet[64:66] == 255).all()
    assert (sheet[:, 128:130] == 255).all()


def test_columns_are_as_asked() -> None:
    assert contact_sheet([flat(1)] * 4, columns=4).shape == (64, 4 * 128 + 3 * 2, 3)


def test_sheet_of_one_picture_is_that_picture() -> None:
    assert np.array_equal(contact_sheet([flat(7)], columns=5), flat(7))


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"pictures: found 'shapes .* allowed is pictures of one size"):
        contact_sheet([flat(1), flat(1, height=32)])


def test_empty_sheet_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="pictures: found 'none'"):
        contact_sheet([])
