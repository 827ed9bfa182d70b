"""StyleGAN2 on any backend: requests to z, ws and noise, through the two graphs, to pixels. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import safe_open

from impasto.denoising import refuse_denoising
from impasto.engine.backend import Backend, open_backend
from impasto.engine.layer_noise import Noise
from impasto.engine.picture import NOISE_MODES, Floats, NoiseMode, PictureRequest, Pixels, check_seed
from impasto.errors import InvalidRequest
from impasto.export.bundle import WEIGHTS, Bundle
from impasto.generators.stylegan2_config import StyleGAN2Config

MAX_PSI = 10.0

log = logging.getLogger(__name__)


class StyleGAN2Engine:
    """Runs `mapping` and `synthesis` of a bundle. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, backend: str, precision: str, device: str, threads: int | None) -> None:
        self.manifest = bundle.manifest
        self.digest = bundle.manifest.digest
        self.device = device
        # Its name stands for its bytes, which differ by precision.
        self.backend = backend if precision == "fp32" else f"{backend}-{precision}"
        self.buckets = bundle.manifest.buckets
        self.config = StyleGAN2Config(**bundle.manifest.config)
        self._defaults = {"psi": 1.0, "noise_mode": "const", **bundle.manifest.defaults}
        self._stored_noise = _stored_noise(bundle, self.config)
        self._backend: Backend = open_backend(backend, bundle, precision, device, threads)

    def check(self, request: PictureRequest) -> None:
        config = self.config
        given = [name for name in ("seed", "z", "ws") if getattr(request, name) is not None]
        if len(given) != 1:
            raise InvalidRequest("seeds", ", ".join(given) or "none", "exactly one of seeds, z and ws")
        if request.seed is not None:
            check_seed("seeds", request.seed)
        _check_values("z", request.z, (config.z_dim,))
        _check_values("ws", request.ws, (config.num_ws, config.w_dim))
        self._check_class(request)
        if request.psi is not None:
            if request.ws is not None:
                raise InvalidRequest("psi", request.psi, "nothing beside ws, which are used as they are")
            if not abs(request.psi) <= MAX_PSI:
                raise InvalidRequest("psi", request.psi, f"a number from -{MAX_PSI:g} to {MAX_PSI:g}")
        if request.cutoff is not None and not 0 <= request.cutoff <= config.num_ws:
            raise InvalidRequest("psi_cutoff", request.cutoff, f"an integer from 0 to {config.num_ws}")
        if request.noise_mode is not None and request.noise_mode not in NOISE_MODES:
            raise InvalidRequest("noise_mode", request.noise_mode, f"one of {', '.join(NOISE_MODES)}")
        if request.mix is not None:
            check_seed("style_mix.seed", request.mix.seed)
            if not 0 <= request.mix.first <= request.mix.last < config.num_ws:
                layers = f"{request.mix.first} to {request.mix.last}"
                allowed = f"first ≤ last, from 0 to {config.num_ws - 1}"
                raise InvalidRequest("style_mix.first_layer, last_layer", layers, allowed)
        refuse_denoising(request.denoising)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        parameters: dict[str, Any] = {"noise_mode": self._noise_mode(request)}
        if request.ws is None:
            # The shortest number that is this float32: the same text whether it came as 0.7 or over the wire.
            parameters["psi"] = float(str(np.float32(self._psi(request))))
            if request.cutoff is not None:
                parameters["psi_cutoff"] = request.cutoff
        if self.config.c_dim:
            parameters["class"] = request.c.tolist() if request.c is not None else request.label or 0
        if request.mix is not None:
            mix = request.mix
            parameters["style_mix"] = {"seed": mix.seed, "first_layer": mix.first, "last_layer": mix.last}
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "seed": request.seed,
            "parameters": parameters,
        }

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        return self._backend.pictures(self._ws(requests), self._noise(requests))

    def warm_up(self) -> None:
        """Run every batch size and hold it to the bytes of its rows alone; where one differs, rows run alone."""
        for batch in self._backend.batches:
            requests = [PictureRequest(seed=seed) for seed in range(batch)]
            together = self.run(requests)
            for row in {0, batch - 1}:
                (alone,) = self.run([requests[row]])
                if together[row].image_float.tobytes() != alone.image_float.tobytes():
                    log.warning("%s: a batch of %d changes a row's bytes; rows run alone", self.manifest.name, batch)
                    return self._backend.one_at_a_time()

    def close(self) -> None:
        self._backend.close()

    def _ws(self, requests: Sequence[PictureRequest]) -> Floats:
        """ws [N, num_ws, w_dim]: mapped and truncated, or as given, then mixed."""
        config = self.config
        latents: list[Floats] = []
        for request in requests:
            if request.ws is None:
                latents.append(request.z if request.z is not None else _latent(request.seed or 0, config.z_dim))
            if request.mix is not None:
                latents.append(_latent(request.mix.seed, config.z_dim))
        mapped = iter(self._mapped(latents, requests))
        rows = []
        for request in requests:
            row = request.ws if request.ws is not None else next(mapped)
            if request.mix is not None:
                row = row.copy()
                layers = slice(request.mix.first, request.mix.last + 1)
                row[layers] = next(mapped)[layers]
            rows.append(row)
        return np.stack(rows)

    def _mapped(self, latents: list[Floats], requests: Sequence[PictureRequest]) -> Floats:
        """ws of all latents, each with the truncation and the class of the request that it belongs to."""
        if not latents:
            return np.empty((0, self.config.num_ws, self.config.w_dim), np.float32)
        owners = [request for request in requests for _ in range((request.ws is None) + (request.mix is not None))]
        feeds = {"z": np.stack(latents), "psi": np.stack([self._psi_row(owner) for owner in owners])}
        if self.config.c_dim:
            feeds["c"] = np.stack([self._class_row(owner) for owner in owners])
        return self._backend.run("mapping", feeds)

    def _psi_row(self, request: PictureRequest) -> Floats:
        row = np.ones(self.config.num_ws, np.float32)
        row[: request.cutoff] = self._psi(request)
        return row

    def _psi(self, request: PictureRequest) -> float:
        return float(self._defaults["psi"] if request.psi is None else request.psi)

    def _noise_mode(self, request: PictureRequest) -> NoiseMode:
        mode: NoiseMode = request.noise_mode or self._defaults["noise_mode"]
        return mode

    def _noise(self, requests: Sequence[PictureRequest]) -> Noise:
        modes = tuple(self._noise_mode(request) for request in requests)
        return Noise(modes, tuple(request.seed or 0 for request in requests), self._stored_noise)

    def _check_class(self, request: PictureRequest) -> None:
        classes = self.config.c_dim
        if not classes:
            for name, found in (("label", request.label), ("class_vector", request.c)):
                if found is not None:
                    raise InvalidRequest(name, found, "nothing; this model is not conditional")
        if request.label is not None and request.c is not None:
            raise InvalidRequest("label", "label and c", "one of the two")
        if request.label is not None and not 0 <= request.label < classes:
            raise InvalidRequest("label", request.label, f"an integer from 0 to {classes - 1}")
        _check_values("class_vector", request.c, (classes,))

    def _class_row(self, request: PictureRequest) -> Floats:
        if request.c is not None:
            return request.c
        row = np.zeros(self.config.c_dim, np.float32)
        row[request.label or 0] = 1.0
        return row


def _latent(seed: int, z_dim: int) -> Floats:
    return np.asarray(np.random.RandomState(seed).randn(1, z_dim)[0], np.float32)


def _check_values(field: str, values: Floats | None, shape: tuple[int, ...]) -> None:
    if values is None:
        return
    if values.shape != shape:
        found = " × ".join(str(side) for side in values.shape)
        allowed = " × ".join(str(side) for side in shape)
        raise InvalidRequest(field, f"{found} values", f"{allowed} values")
    if not np.isfinite(values).all():
        raise InvalidRequest(field, "NaN or infinity", "finite numbers")


def _stored_noise(bundle: Bundle, config: StyleGAN2Config) -> Floats:
    """The noise maps stored with the weights, as one flat row [noise_size]."""
    with safe_open(bundle.path / WEIGHTS, framework="numpy") as weights:
        rows = []
        for resolution in config.resolutions:
            for layer in ("conv0", "conv1") if resolution > 4 else ("conv1",):
                noise = weights.get_tensor(f"synthesis.b{resolution}.{layer}.noise_const")
                rows.append(noise.astype(np.float32).reshape(-1))
    return np.concatenate(rows)
