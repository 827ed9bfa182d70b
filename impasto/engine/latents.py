"""From requests to ws for every generator with a mapping network: seeds, truncation, classes, style mixing."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np

from impasto.engine.backend import Feeds, stacked
from impasto.engine.classes import Classes, check_values
from impasto.engine.picture import Floats, PictureRequest, check_seed
from impasto.errors import InvalidRequest
from impasto.generators.mapped_config import MappedConfig

MAX_PSI = 10.0


class MappingEngine(Protocol):
    """An engine whose model has a mapping network."""

    def check(self, request: PictureRequest) -> None:
        """As an engine's."""

    def ws(self, requests: Sequence[PictureRequest]) -> Floats:
        """What synthesis gets of the requests, ws [N, num_ws, w_dim]: mapped and truncated, or as given, then mixed."""


def is_mapping(engine: object) -> TypeGuard[MappingEngine]:
    """Whether the engine maps latents to styles."""
    return hasattr(engine, "ws")


class Latents:
    """What a model takes of a request's latents; `psi` is for requests that have none."""

    def __init__(self, config: MappedConfig, psi: float) -> None:
        self.config = config
        self._classes = Classes(config.c_dim)
        self._default_psi = psi

    def check(self, request: PictureRequest) -> None:
        """Raise InvalidRequest unless there is exactly one latent, and it, psi, class and mix are the model's."""
        config = self.config
        given = [name for name in ("seed", "z", "ws") if getattr(request, name) is not None]
        if len(given) != 1:
            raise InvalidRequest("seeds", ", ".join(given) or "none", "exactly one of seeds, z and ws")
        if request.seed is not None:
            check_seed("seeds", request.seed)
        check_values("z", request.z, (config.z_dim,))
        check_values("ws", request.ws, (config.num_ws, config.w_dim))
        self._classes.check(request)
        if request.psi is not None and request.ws is not None:
            raise InvalidRequest("psi", request.psi, "nothing beside ws, which are used as they are")
        check_psi(request.psi)
        if request.cutoff is not None and not 0 <= request.cutoff <= config.num_ws:
            raise InvalidRequest("psi_cutoff", request.cutoff, f"an integer from 0 to {config.num_ws}")
        if request.mix is not None:
            check_seed("style_mix.seed", request.mix.seed)
            if not 0 <= request.mix.first <= request.mix.last < config.num_ws:
                layers = f"{request.mix.first} to {request.mix.last}"
                allowed = f"first ≤ last, from 0 to {config.num_ws - 1}"
                raise InvalidRequest("style_mix.first_layer, last_layer", layers, allowed)

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        """The parameters of a picture's metadata, with defaults filled in."""
        parameters: dict[str, Any] = {}
        if request.ws is None:
            # The shortest number that is this float32: the same text whether it came as 0.7 or over the wire.
            parameters["psi"] = float(str(np.float32(self._psi(request))))
            if request.cutoff is not None:
                parameters["psi_cutoff"] = request.cutoff
        parameters |= self._classes.describe(request)
        if request.mix is not None:
            mix = request.mix
            parameters["style_mix"] = {"seed": mix.seed, "first_layer": mix.first, "last_layer": mix.last}
        return parameters

    def ws(self, requests: Sequence[PictureRequest], mapping: Callable[[Feeds], Floats]) -> Floats:
        """ws [N, num_ws, w_dim]: mapped and truncated, or as given, then mixed. `mapping` runs that graph."""
        config = self.config
        latents: list[Floats] = []
        for request in requests:
            if request.ws is None:
                latents.append(request.z if request.z is not None else latent_of(request.seed or 0, config.z_dim))
            if request.mix is not None:
                latents.append(latent_of(request.mix.seed, config.z_dim))
        if all(request.ws is None and request.mix is None for request in requests):
            return mapping(self._feeds(latents, requests))
        mapped = iter(mapping(self._feeds(latents, requests)) if latents else ())
        rows = []
        for request in requests:
            row = request.ws if request.ws is not None else next(mapped)
            if request.mix is not None:
                row = row.copy()
                layers = slice(request.mix.first, request.mix.last + 1)
                row[layers] = next(mapped)[layers]
            rows.append(row)
        return np.stack(rows)

    def _feeds(self, latents: list[Floats], requests: Sequence[PictureRequest]) -> Feeds:
        """All latents, each with the truncation and the class of the request that it belongs to."""
        owners = [request for request in requests for _ in range((request.ws is None) + (request.mix is not None))]
        psi = [_psi_row(self.config.num_ws, self._psi(owner), owner.cutoff) for owner in owners]
        feeds = {"z": stacked(latents), "psi": stacked(psi)}
        if self.config.c_dim:
            feeds["c"] = stacked([self._classes.row(owner) for owner in owners])
        return feeds

    def _psi(self, request: PictureRequest) -> float:
        return self._default_psi if request.psi is None else request.psi


def check_psi(psi: float | None) -> None:
    """InvalidRequest unless psi, where there is one, is finite and within ±MAX_PSI."""
    if psi is not None and not abs(psi) <= MAX_PSI:
        raise InvalidRequest("psi", psi, f"a number from -{MAX_PSI:g} to {MAX_PSI:g}")


@functools.lru_cache(maxsize=256)
def _psi_row(num_ws: int, psi: float, cutoff: int | None) -> Floats:
    """The truncation of each layer [num_ws]; not to be written to."""
    row = np.ones(num_ws, np.float32)
    row[:cutoff] = psi
    return row


class _Random(threading.local):
    """A RandomState a thread: to seed one anew takes a fraction of making one."""

    def __init__(self) -> None:
        self.state = np.random.RandomState(0)


_RANDOM = _Random()


def latent_of(seed: int, z_dim: int) -> Floats:
    """z [z_dim] of a seed: standard normal, as of `numpy.random.RandomState(seed)`."""
    _RANDOM.state.seed(seed)
    return np.asarray(_RANDOM.state.randn(z_dim), np.float32)
