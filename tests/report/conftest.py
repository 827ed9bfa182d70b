"""The report that several modules look at: three cards, one of them made up and slower, and kernels of two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from impasto.bench.result import write_result
from impasto.report.inputs import read_inputs
from impasto.report.page import render
from tests.report import samples

MADE_UP = "Half an L4"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("results")
    write_result(samples.result("NVIDIA L40S", 140.0), folder / "l40s.json")
    write_result(samples.result("NVIDIA L4", 75.0), folder / "l4.json")
    write_result(samples.result(MADE_UP, 52.0, note="made up"), folder / "half.json")
    (folder / "k1.json").write_text(json.dumps(samples.kernels("NVIDIA L40S", 7.2e11, 2.9e14)))
    (folder / "k2.json").write_text(json.dumps(samples.kernels("NVIDIA L4", 2.5e11, 1.0e14)))
    return [folder / f"{name}.json" for name in ("l40s", "l4", "half", "k1", "k2")]


@pytest.fixture(scope="session")
def page(files: list[Path]) -> str:
    return render(read_inputs(files))
