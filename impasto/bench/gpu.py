"""GPUs through NVML: what they are, and what they take while a load runs. Without NVML or a driver there are none."""

from __future__ import annotations

import contextlib
import importlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from impasto.bench.result import Gpu, GpuUsage

EVERY = 0.05
"""Seconds between two looks."""
MEBIBYTE = 2**20


def gpus() -> tuple[Gpu, ...]:
    """The machine's GPUs, with their clocks now."""
    with _nvml() as nvml:
        if nvml is None:
            return ()
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        return tuple(_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(i), driver) for i in range(nvml.nvmlDeviceGetCount()))


class GpuWatch:
    """Watches the GPU `index` from `with` to its end; `usage` then tells, None where there is no such GPU.

    Energy is the GPU's own counter where it has one, else the mean power times the time.
    """

    def __init__(self, index: int | None) -> None:
        self._index = index
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="impasto-bench-gpu", daemon=True)
        self._memory: list[float] = []
        self._power: list[float] = []
        self._clocks: list[float] = []
        self._busy: list[float] = []
        self._joules: float | None = None

    def usage(self, images: int) -> GpuUsage | None:
        """What was taken while so many pictures were made."""
        if not self._memory:
            return None
        return GpuUsage(
            memory_mib=max(self._memory),
            power_w=_mean(self._power),
            sm_clock_mhz=_mean(self._clocks),
            utilisation=_mean(self._busy),
            energy_j_per_image=self._joules / images if images and self._joules is not None else None,
        )

    def __enter__(self) -> Self:
        if self._index is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        if self._index is not None:
            self._thread.join()

    def _watch(self) -> None:
        with _nvml() as nvml:
            if nvml is None:
                return
            device = nvml.nvmlDeviceGetHandleByIndex(self._index)
            began, counted = time.monotonic(), _energy(nvml, device)
            while not self._end.wait(EVERY):
                self._look(nvml, device)
            if counted is not None and (now := _energy(nvml, device)) is not None:
                self._joules = now - counted
            elif self._power:
                self._joules = statistics.fmean(self._power) * (time.monotonic() - began)

    def _look(self, nvml: Any, device: Any) -> None:
        self._memory.append(nvml.nvmlDeviceGetMemoryInfo(device).used / MEBIBYTE)
        readings: tuple[tuple[list[float], Callable[[], Any]], ...] = (
            (self._power, lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1e3),
            (self._clocks, lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)),
            (self._busy, lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100),
        )
        for values, read in readings:
            with contextlib.suppress(nvml.NVMLError):
                values.append(float(read()))


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVML, ready; None where it is not installed, or there is no driver."""
    try:
        pynvml = importlib.import_module("pynvml")  # it has no types
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, device: Any, driver: str) -> Gpu:
    def read(value: Any) -> Any:
        with contextlib.suppress(nvml.NVMLError):
            return value()
        return None

    limit = read(lambda: nvml.nvmlDeviceGetPowerManagementLimit(device))
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(device)),
        driver=driver,
        memory_mib=nvml.nvmlDeviceGetMemoryInfo(device).total // MEBIBYTE,
        sm_clock_mhz=read(lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)),
        memory_clock_mhz=read(lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM)),
        power_limit_w=None if limit is None else limit / 1e3,
    )


def _energy(nvml: Any, device: Any) -> float | None:
    """Joules since the driver was loaded; None of a GPU that does not count them."""
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1e3
    except nvml.NVMLError:
        return None


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
