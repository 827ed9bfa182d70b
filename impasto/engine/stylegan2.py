"""StyleGAN2 on any backend: requests to z, ws and noise, through the two graphs, to pixels. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import safe_open

from impasto.denoising import refuse_denoising
from impasto.engine.backend import Backend, named, open_backend
from impasto.engine.latents import Latents
from impasto.engine.layer_noise import Noise
from impasto.engine.picture import NOISE_MODES, Floats, NoiseMode, PictureRequest, Pixels, refuse_pictures
from impasto.engine.warm_up import warm_up
from impasto.errors import InvalidRequest
from impasto.export.bundle import WEIGHTS, Bundle
from impasto.generators.stylegan2_config import StyleGAN2Config


class StyleGAN2Engine:
    """Runs `mapping` and `synthesis` of a bundle. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, backend: str, precision: str, device: str, threads: int | None) -> None:
        self.manifest = bundle.manifest
        self.digest = bundle.manifest.digest
        self.device = device
        self.backend = named(backend, precision)
        self.buckets = bundle.manifest.buckets
        self.config = StyleGAN2Config(**bundle.manifest.config)
        self._default_noise: NoiseMode = bundle.manifest.defaults.get("noise_mode", "const")
        self._latents = Latents(self.config, float(bundle.manifest.defaults.get("psi", 1.0)))
        self._stored_noise = _stored_noise(bundle, self.config)
        self._backend: Backend = open_backend(backend, bundle, precision, device, threads)
        self.lanes = self._backend.lanes

    def check(self, request: PictureRequest) -> None:
        self._latents.check(request)
        if request.noise_mode is not None and request.noise_mode not in NOISE_MODES:
            raise InvalidRequest("noise_mode", request.noise_mode, f"one of {', '.join(NOISE_MODES)}")
        for name in ("rotation", "translation"):
            if (found := getattr(request, name)) is not None:
                raise InvalidRequest(name, found, "nothing; only StyleGAN3 models turn and move their pictures")
        refuse_pictures(request)
        refuse_denoising(request.denoising)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        parameters = {"noise_mode": self._noise_mode(request), **self._latents.describe(request)}
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "seed": request.seed,
            "parameters": parameters,
        }

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        return self._backend.pictures(self.ws(requests), self._noise(requests))

    def ws(self, requests: Sequence[PictureRequest]) -> Floats:
        return self._latents.ws(requests, lambda feeds: self._backend.run("mapping", feeds))

    def warm_up(self) -> None:
        """Run every batch size and hold it to the bytes of its rows alone; where one differs, rows run alone."""
        warm_up(self._backend, self.run, self.manifest.name)

    def close(self) -> None:
        self._backend.close()

    def _noise_mode(self, request: PictureRequest) -> NoiseMode:
        return request.noise_mode or self._default_noise

    def _noise(self, requests: Sequence[PictureRequest]) -> Noise:
        modes = tuple(self._noise_mode(request) for request in requests)
        return Noise(modes, tuple(request.seed or 0 for request in requests), self._stored_noise)


def _stored_noise(bundle: Bundle, config: StyleGAN2Config) -> Floats:
    """The noise maps stored with the weights, as one flat row [noise_size]."""
    with safe_open(bundle.path / WEIGHTS, framework="numpy") as weights:
        rows = []
        for resolution in config.resolutions:
            for layer in ("conv0", "conv1") if resolution > 4 else ("conv1",):
                noise = weights.get_tensor(f"synthesis.b{resolution}.{layer}.noise_const")
                rows.append(noise.astype(np.float32).reshape(-1))
    return np.concatenate(rows)
