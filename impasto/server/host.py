"""The models of a server: finding, loading, reloading and unloading them."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from impasto.engine.picture import Engine
from impasto.engine.registry import open_engine
from impasto.engine.stepwise import is_stepwise
from impasto.errors import BundleError, ImpastoError, ModelNotFound, Unavailable
from impasto.export.bundle import Manifest, find_bundle, list_bundles, open_bundle
from impasto.scheduling import BatchPolicy, StepPolicy
from impasto.server.batched import BatchedModel
from impasto.server.config import ServerConfig
from impasto.server.faults import internal_error
from impasto.server.job import Job, Made
from impasto.server.loaded import LoadedModel
from impasto.server.metrics import Load, Metrics
from impasto.server.process import on_any_core
from impasto.server.stepped import SteppedModel

__all__ = ["Job", "LoadedModel", "Made", "ModelHost", "ModelState", "ModelStatus"]

log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[str, str]


class ModelState(enum.Enum):
    """Where a model is between its folder and its engine."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model: its state, why it failed, its manifest if it has a sound one, itself if it is READY."""

    name: str
    version: str
    state: ModelState
    reason: str = ""
    manifest: Manifest | None = None
    loaded: LoadedModel | None = None


class ModelHost:
    """Loads models and finds loaded ones. For the event loop; engines open and close on other threads."""

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self.draining = False
        self._started = False
        self._config = config
        self._metrics = metrics
        self._directories = config.directories
        self._encoders = ThreadPoolExecutor(config.encode_threads, "encode", on_any_core)
        self._stepper = ThreadPoolExecutor(1, "step", on_any_core)
        self._loaded: dict[Key, LoadedModel] = {}
        self._latest: dict[str, LoadedModel] = {}
        self._states: dict[Key, tuple[ModelState, str]] = {}
        self._locks: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[Any]] = set()
        metrics.watch(self._loads)

    def get(self, name: str, version: str = "") -> LoadedModel:
        """A loaded model, the highest version unless one is named.

        ModelNotFound lists those there are; Unavailable while it is loading, or while the server drains.
        """
        if self.draining:
            raise Unavailable("the server is shutting down")
        model = self._loaded.get((name, version)) if version else self._latest.get(name)
        if model is not None:
            return model
        for (loading, number), (state, _) in self._states.items():
            if state is ModelState.LOADING and loading == name and version in ("", number):
                raise Unavailable(f"model {name} version {number} is loading")
        raise _not_found(name, version, self._loaded)

    @property
    def ready(self) -> bool:
        """Whether the models of the start are loaded, and the server does not drain."""
        return self._started and not self.draining

    def loaded(self, name: str = "") -> list[LoadedModel]:
        """All loaded models, or the loaded versions of one, by name and version."""
        keys = sorted(self._loaded, key=lambda key: (key[0], int(key[1])))
        return [self._loaded[key] for key in keys if name in ("", key[0])]

    def is_loaded(self, name: str) -> bool:
        """Whether any version of the model is loaded."""
        return name in self._latest

    def list(self) -> list[ModelStatus]:
        """Every version of every model, loaded or on disk, by name and version."""
        bundles = list_bundles(self._directories)
        paths = {(name, version): path for name, paths in bundles.items() for version, path in paths.items()}
        keys = paths.keys() | self._loaded.keys() | self._states.keys()
        return [self._status(key, paths.get(key)) for key in sorted(keys, key=lambda key: (key[0], int(key[1])))]

    def status(self, name: str, version: str = "") -> ModelStatus:
        """One version of a model; unless one is named the highest READY one, else the highest. ModelNotFound."""
        everything = self.list()
        found = [status for status in everything if status.name == name and version in ("", status.version)]
        if not found:
            raise _not_found(name, version, [(status.name, status.version) for status in everything])
        return max(found, key=lambda status: (status.state is ModelState.READY, int(status.version)))

    async def load(self, name: str, version: str = "") -> LoadedModel:
        """Load a model, the highest version unless one is named; returns when every bucket is warm.

        A loaded one is loaded anew: requests in flight finish on the old engine. ModelNotFound, BundleError,
        BackendUnavailable. It goes on if the caller is cancelled.
        """
        if self.draining:
            raise Unavailable("the server is shutting down")
        path = find_bundle(name, self._directories, version)
        return await asyncio.shield(self._start(self._load((name, path.name), path)))

    async def unload(self, name: str, version: str = "") -> None:
        """Make what was accepted, then free the model: all loaded versions unless one is named. ModelNotFound."""
        keys = [key for key in self._loaded if key[0] == name and version in ("", key[1])]
        if not keys:
            raise _not_found(name, version, self._loaded)
        await asyncio.shield(asyncio.gather(*(self._start(self._unload(key)) for key in keys)))

    async def load_all(self) -> None:
        """Load the models that the configuration names, all or none; or all there are, leaving out those that fail."""
        chosen = self._config.load
        names = list(list_bundles(self._directories)) if chosen is None else chosen
        for name in names:
            key = (name, find_bundle(name, self._directories).name)
            self._states[key] = (ModelState.LOADING, "")
        for name in names:
            try:
                await self.load(name)
            except ImpastoError as error:
                if chosen is not None:
                    raise
                log.error("model %s is left out: %s", name, error)
        self._started = True

    async def close(self) -> None:
        """Make what was accepted, then free every model."""
        self.draining = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(self._unload(key) for key in list(self._loaded)))
        self._encoders.shutdown()
        self._stepper.shutdown()

    def abort(self) -> None:
        """Refuse new requests, and fail those that wait."""
        self.draining = True
        for model in self._loaded.values():
            model.abort()

    async def _load(self, key: Key, path: Path) -> LoadedModel:
        async with self._locks[key]:
            if key not in self._loaded:
                self._states[key] = (ModelState.LOADING, "")
            try:
                engine = await asyncio.to_thread(self._open, path)
            except Exception as error:
                shown = error if isinstance(error, ImpastoError) else internal_error(f"loading model {key[0]}", error)
                if key not in self._loaded:
                    self._states[key] = (ModelState.FAILED, str(shown))
                raise shown from error
            replaced = self._loaded.get(key)
            model = self._loaded[key] = self._host(engine)
            self._states[key] = (ModelState.READY, "")
            self._find_latest()
        log.info("model %s version %s is ready on %s %s", *key, engine.backend, engine.device)
        if replaced:
            self._start(replaced.finish())
        return model

    async def _unload(self, key: Key) -> None:
        async with self._locks[key]:
            model = self._loaded.pop(key, None)
            if model is None:
                return
            self._states[key] = (ModelState.UNLOADING, "")
            self._find_latest()
            await model.finish()
            del self._states[key]
        log.info("model %s version %s is unloaded", *key)

    def _open(self, path: Path) -> Engine:
        bundle = open_bundle(path)
        config = self._config
        engine = open_engine(
            bundle,
            backend=config.backend,
            precision=config.precision,
            device=config.device,
            threads=config.threads,
        )
        engine.warm_up()
        return engine

    def _host(self, engine: Engine) -> LoadedModel:
        batching = self._config.batching
        metrics = self._metrics.of_model(engine.manifest.name, engine.manifest.version)
        if is_stepwise(engine) and batching.steps:
            steps = StepPolicy(
                buckets=engine.buckets,
                slots=engine.slots,
                priority_levels=batching.priority_levels,
                default_priority=batching.default_priority,
                max_queue=batching.max_queue,
                starvation_limit=batching.step_starvation_limit_ms / 1000,
            )
            return SteppedModel(engine, steps, thread=self._stepper, encoders=self._encoders, metrics=metrics)
        policy = BatchPolicy(
            buckets=engine.buckets,
            max_queue_delay=batching.max_queue_delay_ms / 1000,
            priority_levels=batching.priority_levels,
            default_priority=batching.default_priority,
            max_queue=batching.max_queue,
            starvation_limit=batching.starvation_limit_ms / 1000,
            instances=self._config.instances,
        )
        return BatchedModel(engine, policy, encoders=self._encoders, metrics=metrics)

    def _find_latest(self) -> None:
        self._latest = {name: self._loaded[name, v] for name, v in sorted(self._loaded, key=lambda key: int(key[1]))}

    def _status(self, key: Key, path: Path | None) -> ModelStatus:
        state, reason = self._states.get(key, (ModelState.UNLOADED, ""))
        loaded = self._loaded.get(key)
        if loaded:
            return ModelStatus(*key, state, reason, loaded.engine.manifest, loaded)
        try:
            return ModelStatus(*key, state, reason, open_bundle(path, verify=False).manifest if path else None)
        except BundleError as error:
            return ModelStatus(*key, ModelState.FAILED, str(error))

    def _loads(self) -> Iterator[Load]:
        for model in list(self._loaded.values()):
            yield Load(model.name, model.version, model.in_flight, model.queue_length)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _not_found(name: str, version: str, available: Iterable[Key]) -> ModelNotFound:
    if not version:
        return ModelNotFound(name, {key[0] for key in available})
    return ModelNotFound(f"{name} version {version}", [" version ".join(key) for key in available])
