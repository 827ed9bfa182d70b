"""An onnxruntime session whose inputs and outputs stay where it runs: nothing passes through the host in between."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Value: TypeAlias = onnxruntime.OrtValue
"""A tensor on a device."""


class BoundSession:
    """Runs a graph on `kind` ("cuda" or "cpu") number `index`. Calls of several threads follow one another.

    Memory for inputs from the host is kept for each shape, so that only their values move.
    """

    def __init__(self, session: onnxruntime.InferenceSession, kind: str, index: int) -> None:
        self._session = session
        self._place = (kind, index)
        self._outputs = [output.name for output in session.get_outputs()]
        self._kept: dict[tuple[str, tuple[int, ...]], Value] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, NDArray[Any] | Value]) -> dict[str, Value]:
        """All outputs on the device, by name. An output of another session there is taken as it lies."""
        with self._lock:
            binding = self._session.io_binding()
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, self._placed(name, value))
            for name in self._outputs:
                binding.bind_output(name, *self._place)
            self._session.run_with_iobinding(binding)
            return dict(zip(self._outputs, binding.get_outputs(), strict=True))

    def _placed(self, name: str, value: NDArray[Any] | Value) -> Value:
        if not isinstance(value, np.ndarray):
            return value
        values = np.ascontiguousarray(value)
        kept = self._kept.get((name, values.shape))
        if kept is None:
            # Not made from the array: on a CPU it would be the array, which the next call writes.
            kept = Value.ortvalue_from_shape_and_type(values.shape, values.dtype, *self._place)
            self._kept[name, values.shape] = kept
        kept.update_inplace(values)
        return kept
