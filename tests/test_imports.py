from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "onnxruntime", "onnxscript", "triton", "tensorrt", "pydantic", "safetensors"}


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running the code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import impasto; impasto.Client; impasto.AsyncClient; impasto.Tls; impasto.Picture; impasto.errors",
        "import impasto; impasto.Client('127.0.0.1:1').close()",
        "import impasto.cli",
    ],
)
def test_the_light_client_and_the_command_load_nothing_heavy(code: str) -> None:
    assert not modules_after(code) & HEAVY


def test_importing_the_package_loads_not_even_numpy() -> None:
    assert not modules_after("import impasto") & (HEAVY | {"numpy", "grpc", "PIL", "google"})


def test_the_command_loads_neither_numpy_nor_grpc_before_it_runs() -> None:
    assert not modules_after("import impasto.cli") & {"numpy", "grpc", "PIL"}


def test_making_pictures_in_process_with_onnxruntime_never_loads_torch() -> None:
    assert "torch" not in modules_after("import impasto.engine.generator, impasto.engine.stylegan2")


def test_the_package_names_its_public_parts_and_no_others() -> None:
    import impasto

    assert {"Client", "AsyncClient", "Generator", "Picture", "load", "errors"} <= set(dir(impasto))
    with pytest.raises(AttributeError, match="module 'impasto' has no attribute 'Brush'"):
        impasto.Brush  # noqa: B018
