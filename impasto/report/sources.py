"""What a report says of each of its files: on what, with what and by which command it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from impasto.bench.result import Gpu, Result
from impasto.report.figures import Key, series_key
from impasto.report.inputs import Inputs
from impasto.report.rooflines import Column
from impasto.report.series import Family


@dataclass(frozen=True)
class Source:
    """A file: the machine, what its maker noted, the colour of its series if it is one, and facts by name."""

    title: str
    note: str
    key: Key | None
    facts: dict[str, str]


def sources(inputs: Inputs, found: Sequence[Family], columns: Sequence[Column]) -> list[Source]:
    """All files, those of kernels last."""
    alike = all(one.index == one.place for family in found for one in family.series)
    results = [
        Source(result.machine.title, result.note, series_key(place, "") if alike else None, _facts(file, result))
        for place, (file, result) in enumerate(inputs.results)
    ]
    return results + [
        Source(column.file.gpu.name, "", series_key(column.index, ""), _kernel_facts(file, column))
        for (file, _), column in zip(inputs.kernels, columns, strict=True)
    ]


def _facts(file: str, result: Result) -> dict[str, str]:
    machine = result.machine
    packages = ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))
    facts = {
        "file": file,
        "commit": result.commit,
        "measured": result.created,
        "GPU": "; ".join(map(_gpu, machine.gpus)),
        "processor": f"{machine.processor}, {machine.cores} cores, {machine.memory_mib} MiB",
        "models": "; ".join(f"{model.name} {model.version} {model.digest[:12]}".strip() for model in result.models),
        "software": ", ".join(part for part in (machine.system, f"Python {machine.python}", packages) if part),
        "command": result.command,
    }
    return {name: value for name, value in facts.items() if value}


def _gpu(gpu: Gpu) -> str:
    told = {
        f"driver {gpu.driver}": gpu.driver,
        f"{gpu.memory_mib} MiB": gpu.memory_mib,
        f"{gpu.sm_clock_mhz} MHz": gpu.sm_clock_mhz,
        f"memory at {gpu.memory_clock_mhz} MHz": gpu.memory_clock_mhz,
        f"limit {gpu.power_limit_w or 0:g} W": gpu.power_limit_w,
    }
    return ", ".join([gpu.name, *(words for words, value in told.items() if value)])


def _kernel_facts(file: str, column: Column) -> dict[str, str]:
    floor = column.file.floor
    facts = {
        "file": f"{file}, kernels",
        "commit": column.file.commit,
        "driver": column.file.gpu.driver_version,
        "copies": f"{floor.copied / 1e12:.2f} TB/s",
        "multiplies": f"{floor.multiplied / 1e12:.0f} Tflop/s in float16",
    }
    return {name: value for name, value in facts.items() if value}
