from __future__ import annotations

import numpy as np
import pytest

from impasto.engine.label_map import Palette
from impasto.errors import InvalidRequest

COLOURS = np.float32([[255, 0, 0], [0, 0, 1], [0, 0, 0], [255, 0, 0]])


def pixels(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array([colours], np.uint8)


def test_a_colour_is_its_class_the_first_of_two_alike() -> None:
    labels = Palette(COLOURS).labels(pixels((255, 0, 0), (0, 0, 1), (0, 0, 0)))
    assert labels.shape == (1, 3, 1)
    assert labels.ravel().tolist() == [0, 1, 2]


def test_grey_throughout_is_class_numbers_unless_it_is_in_the_palette_throughout() -> None:
    palette = Palette(COLOURS)
    assert palette.labels(pixels((0, 0, 0), (3, 3, 3), (1, 1, 1))).ravel().tolist() == [0, 3, 1]
    assert palette.labels(pixels((0, 0, 0), (0, 0, 0))).ravel().tolist() == [2, 2]


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (pixels((255, 0, 0), (1, 2, 3)), r"\(1, 2, 3\) at row 0, column 1"),
        (pixels((0, 0, 0), (4, 4, 4)), r"\(4, 4, 4\) at row 0, column 1"),
        (pixels((1, 1, 1), (255, 0, 0)), r"\(1, 1, 1\) at row 0, column 0"),
    ],
)
def test_a_colour_of_no_class_is_refused_by_its_place(picture: np.ndarray, colour: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^image: found 'the colour {colour}'; allowed is the colours of the 4"):
        Palette(COLOURS).labels(picture)
