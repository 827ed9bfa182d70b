"""A generator of one latent on any backend: requests to z, through graph "decoder" to pixels. Needs no torch.

What a model takes is in its manifest: seeds, z, psi and classes; pictures where it has an "encoder", which gives the z
that a picture is made again from; codes where it has an "embedding". Between two pictures z goes straight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto.denoising import refuse_denoising
from impasto.engine.backend import Backend, named, open_backend
from impasto.engine.classes import Classes, check_values
from impasto.engine.latents import check_psi, latent_of
from impasto.engine.picture import (
    PICTURES,
    Floats,
    PictureRequest,
    Pixels,
    check_seed,
    fingerprint,
    refuse_fields,
    refuse_pictures,
)
from impasto.engine.sizes import Sizes, size_of
from impasto.engine.warm_up import warm_up
from impasto.errors import InvalidRequest
from impasto.export.bundle import Bundle
from impasto.images.pixels import to_float
from impasto.input_pictures import check_pictures

_OF_OTHER_MODELS = (
    ("ws", "ws"),
    ("cutoff", "psi_cutoff"),
    ("noise_mode", "noise_mode"),
    ("mix", "style_mix"),
    ("rotation", "rotation"),
    ("translation", "translation"),
)
"""The attribute of a PictureRequest, and the field as callers know it."""

_SOURCES = {"seeds": "seed", "z": "z", "codes": "codes", "image": "image"}
"""Fields that a picture can be made from, and the input of the manifest that says a model takes them."""


class LatentGenerator:
    """Runs `decoder` of a bundle, `encoder` and `embedding` where it has them. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, backend: str, precision: str, device: str, threads: int | None) -> None:
        manifest = self.manifest = bundle.manifest
        self.digest = manifest.digest
        self.device = device
        self.backend = named(backend, precision)
        self.buckets = manifest.buckets
        shapes = self._shapes = {spec.name: spec.shape[1:] for spec in manifest.inputs}
        (self._z_dim,) = shapes["z"]
        self._classes = Classes(*shapes.get("c", (0,)))
        self._size = Sizes.of(manifest).usual
        self._default_psi = float(manifest.defaults.get("psi", 1.0))
        self._default_blend = float(manifest.defaults.get("blend", 0.5))
        self._backend: Backend = open_backend(backend, bundle, precision, device, threads)
        self.lanes = self._backend.lanes

    def check(self, request: PictureRequest) -> None:
        refuse_fields(request, _OF_OTHER_MODELS, "nothing; this model has none")
        refuse_denoising(request.denoising)
        if refused := [field for field in PICTURES if field not in self._shapes]:
            refuse_pictures(request, *refused)
        self._check_source(request)
        if request.psi is not None and "psi" not in self._shapes:
            raise InvalidRequest("psi", request.psi, "nothing; this model's latents have no average")
        check_psi(request.psi)
        self._classes.check(request)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        if "psi" in self._shapes:
            # The shortest number that is this float32: the same text whether it came as 0.7 or over the wire.
            parameters["psi"] = float(str(np.float32(self._psi(request))))
        parameters |= self._classes.describe(request)
        if request.image is not None:
            parameters["image"] = fingerprint(request.image)
        if request.image_to is not None:
            blend = float(str(np.float32(self._blend(request))))
            parameters |= {"image_to": fingerprint(request.image_to), "blend": blend}
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "seed": request.seed,
            "parameters": parameters,
        }

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        feeds = {"z": np.stack([np.float32(self._psi(r)) * z for r, z in zip(requests, self.z(requests), strict=True)])}
        if self._classes.count:
            feeds["c"] = np.stack([self._classes.row(request) for request in requests])
        return [Pixels(chw=picture) for picture in self._backend.run("decoder", feeds)]

    def z(self, requests: Sequence[PictureRequest]) -> list[Floats]:
        """The latent [z_dim] of each request before psi: as given, of its seed, its codes, or its pictures."""
        pictures = [to_float(p) for r in requests for p in (r.image, r.image_to) if p is not None]
        encoded = iter(self._all("encoder", "image_float", pictures))
        embedded = iter(self._all("embedding", "codes", [r.codes for r in requests if r.codes is not None]))
        return [self._z(request, encoded, embedded) for request in requests]

    def warm_up(self) -> None:
        """Run every batch size and hold it to the bytes of its rows alone; where one differs, rows run alone."""
        warm_up(self._backend, self.run, self.manifest.name)
        if "image" in self._shapes:
            warm_up(self._backend, self.run, self.manifest.name, self._of_a_picture)

    def close(self) -> None:
        self._backend.close()

    def _check_source(self, request: PictureRequest) -> None:
        """Exactly one of the model's sources; beside an image a seed stands for nothing."""
        seed = request.seed if request.image is None else None
        given = {"seeds": seed, "z": request.z, "codes": request.codes, "image": request.image}
        allowed = [field for field in given if _SOURCES[field] in self._shapes]
        found = [field for field, value in given.items() if value is not None]
        if len(found) != 1 or found[0] not in allowed:
            one = " and ".join(allowed) if len(allowed) < 2 else f"exactly one of {', '.join(allowed)}"
            raise InvalidRequest(found[0] if found else "seeds", " and ".join(found) or "none", one)
        if request.seed is not None:
            check_seed("seeds", request.seed)
        check_values("z", request.z, (self._z_dim,))
        self._check_codes(request.codes)
        check_pictures(request.image, request.image_to, request.blend)
        for field, picture in (("image", request.image), ("image_to", request.image_to)):
            if picture is not None and (size := size_of(picture)) != self._size:
                raise InvalidRequest(field, str(size), str(self._size))

    def _check_codes(self, codes: NDArray[np.int64] | None) -> None:
        if codes is None:
            return
        if codes.shape != self._shapes["codes"]:
            height, width = self._shapes["codes"]
            raise InvalidRequest("codes", " × ".join(map(str, codes.shape)), f"{height} × {width} indices")
        count = self.manifest.config["codes"]
        if codes.min() < 0 or codes.max() >= count:
            raise InvalidRequest("codes", f"{codes.min()} to {codes.max()}", f"integers from 0 to {count - 1}")

    def _all(self, graph: str, name: str, rows: Sequence[NDArray[Any]]) -> Iterable[Floats]:
        """What a graph of one input makes of each of these rows, if any."""
        return self._backend.run(graph, {name: np.stack(rows)}) if rows else ()

    def _z(self, request: PictureRequest, encoded: Iterator[Floats], embedded: Iterator[Floats]) -> Floats:
        if request.image is not None:
            z = next(encoded)
            return z if request.image_to is None else z + np.float32(self._blend(request)) * (next(encoded) - z)
        if request.codes is not None:
            return next(embedded)
        return request.z if request.z is not None else latent_of(request.seed or 0, self._z_dim)

    def _psi(self, request: PictureRequest) -> float:
        return self._default_psi if request.psi is None else request.psi

    def _blend(self, request: PictureRequest) -> float:
        return self._default_blend if request.blend is None else request.blend

    def _of_a_picture(self, seed: int) -> PictureRequest:
        random = np.random.RandomState(seed)
        return PictureRequest(image=random.randint(0, 256, (self._size.height, self._size.width, 3), np.uint8))
