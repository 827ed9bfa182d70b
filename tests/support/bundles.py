"""Small bundles to serve."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from impasto.export.publish import publish_stylegan2
from tests.support.generators import TINY, random_generator


def write_tiny_bundle(models: Path, name: str = "tiny", version: str = "1", **changes: Any) -> Path:
    """A StyleGAN2 of 8×8 pictures and three classes, whose pictures differ by seed, class, psi and noise.

    `changes` are to its configuration.
    """
    config = dataclasses.replace(TINY, **{"c_dim": 3, **changes})
    return publish_stylegan2(config, random_generator(config).state_dict(), name, models, version=version)
