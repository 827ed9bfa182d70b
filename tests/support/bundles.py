"""Small bundles to serve."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from impasto.export.publish import publish_stylegan2
from impasto.export.publish_stylegan3 import publish_stylegan3
from tests.support.generators import TINY, TINY3_R, random_generator, random_stylegan3
from tests.support.published import published


def write_tiny_bundle(models: Path, name: str = "tiny", version: str = "1", **changes: Any) -> Path:
    """A StyleGAN2 of 8×8 pictures and three classes, whose pictures differ by seed, class, psi and noise.

    `changes` are to its configuration.
    """
    config = dataclasses.replace(TINY, **{"c_dim": 3, **changes})

    def publish(to: Path) -> Path:
        return publish_stylegan2(config, random_generator(config).state_dict(), name, to, version=version)

    return published(models, name, version, config, publish)


def write_tiny_stylegan3(models: Path, name: str = "tiny3", version: str = "1", **changes: Any) -> Path:
    """A StyleGAN3-R of 16×16 pictures and three classes; `changes` are to its configuration."""
    config = dataclasses.replace(TINY3_R, **{"c_dim": 3, **changes})

    def publish(to: Path) -> Path:
        return publish_stylegan3(config, random_stylegan3(config).state_dict(), name, to, version=version)

    return published(models, name, version, config, publish)
