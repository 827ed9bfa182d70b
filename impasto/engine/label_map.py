"""Pictures of label maps: what colour or grey means which class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from impasto.errors import InvalidRequest
from impasto.images.pixels import Bytes, Floats

UNKNOWN = -1


class Palette:
    """The colours of classes 0, 1, …, each 0 to 255: `colours` [classes, 3], of which the first of two alike counts."""

    def __init__(self, colours: Floats) -> None:
        self.classes = len(colours)
        # One entry a colour of 24 bits: a look-up a pixel.
        self._class_of = np.full(2**24, UNKNOWN, np.int16)
        for label in reversed(range(self.classes)):
            self._class_of[_codes(colours[label].astype(np.uint8))] = label

    def labels(self, picture: Bytes) -> Bytes:
        """The class of each pixel of a picture [H, W, 3] as [H, W, 1].

        Grey pixels may be class numbers instead, where all are. InvalidRequest names the first colour of no class.
        """
        found = self._class_of[_codes(picture)]
        unknown = found == UNKNOWN
        if unknown.any():
            grey = picture[..., 0]
            if not ((picture == grey[..., None]).all() and int(grey.max()) < self.classes):
                row, column = (int(places[0]) for places in np.nonzero(unknown))
                colour = ", ".join(map(str, picture[row, column].tolist()))
                allowed = f"the colours of the {self.classes} classes, or grey from 0 to {self.classes - 1} throughout"
                raise InvalidRequest("image", f"the colour ({colour}) at row {row}, column {column}", allowed)
            return grey[..., None]
        labels: Bytes = found[..., None].astype(np.uint8)
        return labels


def _codes(colours: Bytes) -> NDArray[np.int32]:
    """The 24 bits of each colour [..., 3]."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue
