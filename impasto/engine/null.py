"""The null model: a constant grey picture and no work. What is left when one is served is the server's own cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from impasto.denoising import refuse_denoising
from impasto.engine.picture import PictureRequest, Pixels, check_seed, refuse_fields, refuse_pictures
from impasto.errors import InvalidRequest
from impasto.export.bundle import Bundle, Manifest, TensorSpec, new_bundle, write_manifest

GREY = 128
_REFUSED = (
    ("z", "z"),
    ("ws", "ws"),
    ("label", "label"),
    ("c", "class_vector"),
    ("psi", "psi"),
    ("cutoff", "psi_cutoff"),
    ("noise_mode", "noise_mode"),
    ("mix", "style_mix"),
    ("rotation", "rotation"),
    ("translation", "translation"),
)
"""What only other models take: the attribute of a PictureRequest, and the field as callers know it."""


class NullEngine:
    """Gives the same uint8 picture for every seed."""

    backend = "null"
    lanes = 0

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.manifest = bundle.manifest
        self.digest = bundle.manifest.digest
        self.device = device
        self.buckets = bundle.manifest.buckets
        self._pixels = Pixels(hwc=np.full((self.manifest.height, self.manifest.width, 3), GREY, np.uint8))

    def check(self, request: PictureRequest) -> None:
        if request.seed is None:
            raise InvalidRequest("seeds", "none", "one or more; this model takes nothing else")
        check_seed("seeds", request.seed)
        refuse_fields(request, _REFUSED, "nothing; this model takes seeds alone")
        refuse_pictures(request)
        refuse_denoising(request.denoising)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "seed": request.seed,
            "parameters": {},
        }

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        return [self._pixels] * len(requests)

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass


def write_null_bundle(models: Path, name: str = "null", width: int = 64, height: int = 64) -> Path:
    """Write a bundle of the null model into a model directory; returns its folder."""
    manifest = Manifest(
        name=name,
        version="1",
        family="null",
        config={},
        width=width,
        height=height,
        inputs=(TensorSpec(name="seed", dtype="INT64", shape=(-1, 1), meaning="ignored"),),
        outputs=(TensorSpec(name="image", dtype="UINT8", shape=(-1, height, width, 3), meaning="constant grey"),),
        buckets=(1, 2, 4, 8, 16, 32),
        licence="Apache-2.0",
    )
    with new_bundle(models, name, "1") as folder:
        write_manifest(folder, manifest)
    return models / name / "1"
