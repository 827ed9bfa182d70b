"""What NVML tells, of a made-up one: no machine of the tests need have a GPU."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from impasto.bench.gpu import EVERY, GpuWatch, gpus
from impasto.bench.priority import ahead_of_others, usual_command
from impasto.bench.result import Gpu


class NVMLError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One GPU that draws 300 W and counts 12 J at each look; its memory clock cannot be read."""
    joules = itertools.count(1000, 12_000)

    def clock(device: int, kind: str) -> int:
        if kind == "memory":
            raise NVMLError
        return 1500

    fake = ModuleType("pynvml")
    vars(fake).update(
        NVMLError=NVMLError,
        NVML_CLOCK_SM="sm",
        NVML_CLOCK_MEM="memory",
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "570.1",
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda device: b"Made-up GPU",
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(total=80 * 2**30, used=3 * 2**20),
        nvmlDeviceGetClockInfo=clock,
        nvmlDeviceGetPowerManagementLimit=lambda device: 700_000,
        nvmlDeviceGetPowerUsage=lambda device: 300_000,
        nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=50),
        nvmlDeviceGetTotalEnergyConsumption=lambda device: next(joules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def looked(watch: GpuWatch) -> None:
    """Return when it has looked at the GPU."""
    while watch.usage(images=1) is None:
        time.sleep(0.01)


def test_a_gpu_is_described_as_far_as_its_driver_tells(nvml: ModuleType) -> None:
    assert gpus() == (Gpu("Made-up GPU", "570.1", 80 * 1024, 1500, None, 700.0),)


def test_energy_a_picture_is_what_the_gpu_counted(nvml: ModuleType) -> None:
    with GpuWatch(0) as watch:
        looked(watch)
    usage = watch.usage(images=4)
    assert usage is not None
    assert (usage.memory_mib, usage.power_w, usage.sm_clock_mhz, usage.utilisation) == (3.0, 300.0, 1500.0, 0.5)
    assert usage.energy_j_per_image == 3.0


def test_a_gpu_that_counts_no_energy_has_its_mean_power(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(device: int) -> int:
        raise NVMLError

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    began = time.monotonic()
    with GpuWatch(0) as watch:
        looked(watch)
    most = 300.0 * (time.monotonic() - began)
    usage = watch.usage(images=1)
    assert usage is not None
    assert usage.energy_j_per_image is not None
    assert 300.0 * EVERY <= usage.energy_j_per_image <= most


def test_without_nvml_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == ()
    with GpuWatch(0) as watch:
        pass
    assert watch.usage(1) is None
    with GpuWatch(None) as none:
        pass
    assert none.usage(1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these policies")
def test_the_client_goes_first_only_while_it_measures() -> None:
    usual = os.sched_getscheduler(0)
    asked = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
    with ahead_of_others():
        told = subprocess.run(usual_command(asked), capture_output=True, text=True, check=True).stdout
    assert os.sched_getscheduler(0) == usual
    assert int(told) == os.SCHED_OTHER
    assert usual_command(["serve"]) == ["serve"]
