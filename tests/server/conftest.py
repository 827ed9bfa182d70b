"""What the server's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bundles import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with the StyleGAN2 model `tiny`."""
    models = tmp_path_factory.mktemp("models")
    write_tiny_bundle(models)
    return models
