"""A model on TensorRT: at once where its plans are there, else served by another backend until they are built."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from impasto.engine.picture import Engine
from impasto.engine.swap import SwappingEngine
from impasto.errors import BackendUnavailable
from impasto.export.bundle import Bundle
from impasto.export.plans import Builder, build_plans, load_plans

Open = Callable[[str, str, str], Engine]
"""Opens the bundle with a backend, in a precision, on a device."""


def open_planned(bundle: Bundle, precision: str, device: str, builder: Builder, opened: Open) -> Engine:
    """The engine of the bundle's plans. Without them, one of another backend that becomes it when they are built."""
    if load_plans(bundle, precision, builder.target) is not None:
        return opened("tensorrt", precision, device)

    def prepare(cancelled: Callable[[], bool]) -> Engine:
        build_plans(bundle, precision, builder, cancelled=cancelled)
        engine = opened("tensorrt", precision, device)
        engine.warm_up()
        return engine

    return SwappingEngine(_first_that_opens(precision, device, opened), prepare)


def _first_that_opens(precision: str, device: str, opened: Open) -> Engine:
    """The nearest to what was asked for: torch, then onnxruntime, then onnxruntime in float32 on the CPU."""
    refusals = []
    for way in _ways(precision, device):
        try:
            return opened(*way)
        except BackendUnavailable as error:
            refusals.append(str(error))
    raise BackendUnavailable("; ".join(refusals))


def _ways(precision: str, device: str) -> Iterator[tuple[str, str, str]]:
    yield "torch", precision, device
    yield "onnxruntime", precision, device
    yield "onnxruntime", "fp32", "cpu"
