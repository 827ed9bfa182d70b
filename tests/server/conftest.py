"""What the server's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from impasto.engine.null import write_null_bundle
from tests.support.bundles import write_tiny_bundle
from tests.support.gate import Gate


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with the StyleGAN2 model `tiny`."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_bundle(models)
    return models


@pytest.fixture
def null_models(tmp_path: Path) -> Path:
    """A model directory, the test's own, with the null model `null`."""
    write_null_bundle(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Holds the null models of servers in this process; open at the end of the test."""
    gate = Gate(monkeypatch)
    yield gate
    gate.open()
