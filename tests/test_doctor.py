"""What `impasto doctor` says of machines with and without TensorRT and a GPU."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
from typer.testing import CliRunner

from impasto import doctor
from impasto.cli import app
from impasto.doctor import Backend, examine
from impasto.export.plans import MIN_VERSION
from impasto.installing import install_command

GPU = ("NVIDIA H200, 143771 MiB, 580.65.06",)


def tensorrt_of(monkeypatch: pytest.MonkeyPatch, version: str | None, gpus: tuple[str, ...]) -> Backend:
    """What is said of TensorRT on a machine with that version of it, or none, and those GPUs."""
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module if version else None)  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "_gpus", lambda: gpus)
    (found,) = (backend for backend in examine().backends if backend.name == "tensorrt")
    return found


def test_without_tensorrt_it_names_the_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(doctor, "_gpus", lambda: GPU)
    monkeypatch.setattr(sys, "meta_path", [Hidden("tensorrt"), *sys.meta_path])
    (found,) = (backend for backend in examine().backends if backend.name == "tensorrt")
    assert found == Backend(
        "tensorrt",
        False,
        "not installed",
        "models run on torch or onnxruntime instead",
        install_command("gpu"),
    )


class Hidden:
    """Finds no module of that name, wherever it is installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self._name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_an_older_tensorrt_is_to_be_upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tensorrt_of(monkeypatch, "10.16.1.11", GPU)
    assert not found.available
    assert found.found == f"tensorrt 10.16.1.11, older than {MIN_VERSION}"
    assert found.follows == "models run on torch or onnxruntime instead"
    assert found.remedy == f"pip install --upgrade 'tensorrt>={MIN_VERSION}'"


def test_tensorrt_without_a_gpu_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tensorrt_of(monkeypatch, "11.4.0.106", ())
    assert not found.available
    assert found.found == "tensorrt 11.4.0.106, no GPU"
    assert found.follows == "models run on torch or onnxruntime instead"
    assert found.remedy == "impasto generate MODEL --device cpu, until `nvidia-smi` lists an NVIDIA GPU"


def test_a_torch_that_sees_no_gpu_is_to_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = tensorrt_of(monkeypatch, "11.4.0.106", GPU)
    assert not found.available
    assert found.found == "tensorrt 11.4.0.106 cannot use the GPU"
    assert found.remedy == "pip install --force-reinstall --index-url https://download.pytorch.org/whl/cu130 torch"


def test_a_good_machine_is_told_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    found = tensorrt_of(monkeypatch, "11.4.0.106", GPU)
    assert found == Backend(
        "tensorrt", True, "tensorrt 11.4.0.106", "plans are built for this GPU: impasto export MODEL --tensorrt"
    )


def test_a_tensorrt_whose_libraries_are_missing_is_to_be_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(doctor, "_gpus", lambda: GPU)
    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    (found,) = (backend for backend in examine().backends if backend.name == "tensorrt")
    assert found.found == "tensorrt fails: OSError: libnvinfer.so.11: cannot open shared object file"
    assert found.remedy == install_command("gpu", "--force-reinstall")


def test_the_command_shows_what_follows_and_the_remedy_of_each_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_gpus", lambda: ())
    shown = CliRunner().invoke(app, ["doctor"]).stdout
    assert "gpu: none" in shown
    report = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert {"onnxruntime on cpu", "onnxruntime-tensorrt on cuda", "torch on cuda", "tensorrt"} <= {
        backend["name"] for backend in report["backends"]
    }
    for backend in report["backends"]:
        assert backend["follows"] in shown
        assert backend["available"] or backend["remedy"] in shown
