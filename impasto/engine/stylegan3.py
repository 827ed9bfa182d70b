"""StyleGAN3 on any backend: requests to z, ws and transform, through the two graphs, to pixels. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from impasto.denoising import refuse_denoising
from impasto.engine.backend import Backend, named, open_backend
from impasto.engine.latents import Latents
from impasto.engine.picture import Floats, PictureRequest, Pixels, refuse_pictures
from impasto.engine.warm_up import warm_up
from impasto.errors import InvalidRequest
from impasto.export.bundle import Bundle
from impasto.generators.stylegan3_config import StyleGAN3Config
from impasto.generators.stylegan3_transform import picture_transform

MAX_ROTATION = 360.0
MAX_TRANSLATION = 10.0


class StyleGAN3Engine:
    """Runs `mapping` and `synthesis` of a bundle. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, backend: str, precision: str, device: str, threads: int | None) -> None:
        self.manifest = bundle.manifest
        self.digest = bundle.manifest.digest
        self.device = device
        self.backend = named(backend, precision)
        self.buckets = bundle.manifest.buckets
        self.config = StyleGAN3Config(**bundle.manifest.config)
        self._latents = Latents(self.config, float(bundle.manifest.defaults.get("psi", 1.0)))
        self._backend: Backend = open_backend(backend, bundle, precision, device, threads)
        self.lanes = self._backend.lanes

    def check(self, request: PictureRequest) -> None:
        self._latents.check(request)
        if request.noise_mode is not None:
            raise InvalidRequest("noise_mode", request.noise_mode, "nothing; this model has no noise")
        if request.rotation is not None and not abs(request.rotation) <= MAX_ROTATION:
            raise InvalidRequest("rotation", request.rotation, f"degrees from -{MAX_ROTATION:g} to {MAX_ROTATION:g}")
        if request.translation is not None and not all(abs(part) <= MAX_TRANSLATION for part in request.translation):
            allowed = f"two numbers of picture widths from -{MAX_TRANSLATION:g} to {MAX_TRANSLATION:g}"
            raise InvalidRequest("translation", request.translation, allowed)
        refuse_pictures(request)
        refuse_denoising(request.denoising)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        parameters = self._latents.describe(request)
        # As float32 has them, which is what a message carries.
        parameters["rotation"] = _shortest(request.rotation or 0.0)
        parameters["translation"] = [_shortest(part) for part in request.translation or (0.0, 0.0)]
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "seed": request.seed,
            "parameters": parameters,
        }

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        transforms = [picture_transform(r.rotation or 0.0, r.translation or (0.0, 0.0)) for r in requests]
        pictures = self._backend.run("synthesis", {"ws": self.ws(requests), "transform": np.stack(transforms)})
        return [Pixels(chw=picture) for picture in pictures]

    def ws(self, requests: Sequence[PictureRequest]) -> Floats:
        return self._latents.ws(requests, lambda feeds: self._backend.run("mapping", feeds))

    def warm_up(self) -> None:
        """Run every batch size and hold it to the bytes of its rows alone; where one differs, rows run alone."""
        warm_up(self._backend, self.run, self.manifest.name)

    def close(self) -> None:
        self._backend.close()


def _shortest(value: float) -> float:
    """The shortest number that is the same float32."""
    return float(str(np.float32(value)))
