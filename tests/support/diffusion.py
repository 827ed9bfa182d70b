"""Small diffusion bundles to run and to serve."""

from __future__ import annotations

import tempfile
from pathlib import Path

from impasto.export.publish_diffusion import publish_diffusion
from impasto.generators.diffusers_folder import read_pipeline
from tests.generators.tiny_pipelines import PIXEL_SIDE, save_tiny
from tests.support.published import published

SIDE = PIXEL_SIDE


def write_tiny_diffusion(models: Path, kind: str = "ddpm") -> Path:
    """The bundle of one of `tiny_pipelines.KINDS`, named so: what import makes of the folder that diffusers saves."""

    def publish(to: Path) -> Path:
        with tempfile.TemporaryDirectory() as folder:
            return publish_diffusion(read_pipeline(save_tiny(kind, Path(folder) / "pipeline")), kind, to)

    return published(models, kind, "1", "diffusion", publish)
