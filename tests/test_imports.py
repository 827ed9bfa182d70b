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


@pytest.mark.parametrize(
    "modules",
    [
        "impasto.engine.generator, impasto.engine.stylegan2",
        "impasto.engine.generator, impasto.engine.diffusion",
        "impasto.server.server, impasto.server.stepped",
    ],
)
def test_making_and_serving_pictures_with_onnxruntime_never_loads_torch(modules: str) -> None:
    assert not modules_after(f"import {modules}") & {"torch", "triton", "onnx", "diffusers", "transformers"}


def test_a_diffusion_model_makes_a_picture_without_torch() -> None:
    code = "import impasto; impasto.load('starry-ddpm').generate(seeds=1, steps=2, sampler='euler_a')"
    assert not modules_after(code) & {"torch", "triton", "onnx", "diffusers", "transformers", "tokenizers"}


def test_schedulers_are_plain_python() -> None:
    assert not modules_after("import impasto.scheduling") & (HEAVY | {"numpy", "grpc"})


def test_samplers_need_numpy_alone() -> None:
    loaded = modules_after("import impasto.sampling, impasto.sampling.step")
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"grpc", "diffusers"})


def test_the_package_names_its_public_parts_and_no_others() -> None:
    import impasto

    assert {"Client", "AsyncClient", "Generator", "Picture", "load", "errors"} <= set(dir(impasto))
    with pytest.raises(AttributeError, match="module 'impasto' has no attribute 'Brush'"):
        impasto.Brush  # noqa: B018
