"""Small diffusion bundles to run and to serve."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from impasto.export.publish_diffusion import publish_diffusion
from impasto.generators.diffusers_folder import read_pipeline
from tests.generators.tiny_pipelines import PIXEL_SIDE, save_tiny

SIDE = PIXEL_SIDE


def write_tiny_diffusion(models: Path, kind: str = "ddpm") -> Path:
    """The bundle of one of `tiny_pipelines.KINDS`, as import makes it from the folder that diffusers saves.

    Its name is the kind. To export one takes seconds, so that a run of the tests does it once for each.
    """
    return shutil.copytree(_published(kind), models / kind / "1")


@functools.cache
def _published(kind: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="impasto-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return publish_diffusion(read_pipeline(save_tiny(kind, folder / "pipeline")), kind, folder / "models")
