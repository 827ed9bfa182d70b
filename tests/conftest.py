"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.locking import alone_at

# Before anything imports Triton: kernels of the tests run in its interpreter, on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

with contextlib.suppress(ImportError):  # tests on a GPU go without
    from hypothesis import HealthCheck, settings

    # The same examples in every run, however slow the machine is: what fails has been changed, and not by chance.
    unhurried = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile("impasto", deadline=None, derandomize=True, suppress_health_check=unhurried)
    settings.load_profile("impasto")

TRITONCLIENT = "tritonclient[grpc]>=2.60"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test draws without a seed of its own is the same in every run, whatever ran before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def family_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with the models `gan` (of three classes), `vae` and `vq`."""
    from tests.support.families import TINY, write_tiny_family

    models = tmp_path_factory.mktemp("families")
    for family in TINY:
        write_tiny_family(models, family)
    return models


@pytest.fixture(scope="session")
def image_to_image_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with the models `residual` and `spade`."""
    from tests.support.image_to_image import TINY, write_tiny_model

    models = tmp_path_factory.mktemp("image_to_image")
    for family in TINY:
        write_tiny_model(models, family)
    return models


@pytest.fixture(scope="session")
def triton_python(pytestconfig: pytest.Config) -> Path:
    """The interpreter of an environment that has `tritonclient`, which needs protobuf before 7.

    Made once, in the folder that $IMPASTO_TRITON_VENV names or else in pytest's cache.
    """
    named = os.environ.get("IMPASTO_TRITON_VENV")
    assert pytestconfig.cache is not None
    folder = Path(named) if named else pytestconfig.cache.mkdir("tritonclient")
    python = folder / "bin" / "python"
    with alone_at(folder):
        if not python.exists() or subprocess.run([python, "-c", "import tritonclient.grpc"], check=False).returncode:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", TRITONCLIENT], check=True)
    return python
