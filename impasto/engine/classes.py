"""The class of a picture, of a conditional model: an index or a vector."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from impasto.engine.picture import Floats, PictureRequest
from impasto.errors import InvalidRequest


@dataclasses.dataclass(frozen=True)
class Classes:
    """`count` classes; 0: the model is not conditional."""

    count: int

    def check(self, request: PictureRequest) -> None:
        """InvalidRequest unless the request has at most one class, which is the model's."""
        if not self.count:
            for name, found in (("label", request.label), ("class_vector", request.c)):
                if found is not None:
                    raise InvalidRequest(name, found, "nothing; this model is not conditional")
        if request.label is not None and request.c is not None:
            raise InvalidRequest("label", "label and c", "one of the two")
        if request.label is not None and not 0 <= request.label < self.count:
            raise InvalidRequest("label", request.label, f"an integer from 0 to {self.count - 1}")
        check_values("class_vector", request.c, (self.count,))

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        """The class as a picture's metadata has it; nothing of a model that is not conditional."""
        if not self.count:
            return {}
        return {"class": request.c.tolist() if request.c is not None else request.label or 0}

    def row(self, request: PictureRequest) -> Floats:
        """The class vector [count]; the first class where the request has none."""
        if request.c is not None:
            return request.c
        row = np.zeros(self.count, np.float32)
        row[request.label or 0] = 1.0
        return row


def check_values(field: str, values: Floats | None, shape: tuple[int, ...]) -> None:
    """InvalidRequest unless the values have that shape and are finite; None is left alone."""
    if values is None:
        return
    if values.shape != shape:
        found = " × ".join(str(side) for side in values.shape)
        allowed = " × ".join(str(side) for side in shape)
        raise InvalidRequest(field, f"{found} values", f"{allowed} values")
    if not np.isfinite(values).all():
        raise InvalidRequest(field, "NaN or infinity", "finite numbers")
