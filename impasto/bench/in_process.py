"""An engine in this process, with no server: requests wait in line, and each batch takes those that fit.

What it measures is the engine and the batching, without sockets and serialisation.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from impasto.bench.result import Model
from impasto.bench.result import Protocol as WireProtocol
from impasto.bench.target import Counters, Done, Reply
from impasto.bench.traffic import Order
from impasto.denoising import Denoising
from impasto.engine.picture import Engine, PictureRequest, Pixels
from impasto.engine.registry import open_engine
from impasto.errors import DeadlineExceeded, ImpastoError, InternalError, InvalidRequest, ModelNotFound
from impasto.export.bundle import find_bundle, model_directories, open_bundle
from impasto.generation import NoiseMode
from impasto.images.pixels import Bytes


@dataclass(frozen=True, slots=True)
class _Waiting:
    requests: Sequence[PictureRequest]
    since: float
    deadline: float | None
    done: Done


class InProcessTarget:
    """One engine and one thread that runs its batches: all that waits, up to the largest bucket, first come first."""

    system = "impasto"
    protocol: WireProtocol = "in-process"

    def __init__(self, engine: Engine, noise_mode: NoiseMode | None = None, precision: str = "fp32") -> None:
        self.engine = engine
        self._noise_mode = noise_mode
        self._precision = precision
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._batches: Counter[int] = Counter()
        engine.warm_up()
        self._thread = threading.Thread(target=self._run, name="impasto-bench-engine", daemon=True)
        self._thread.start()

    @property
    def settings(self) -> Mapping[str, str | int | float]:
        backend = self.engine.backend.removesuffix(f"-{self._precision}")
        return {"backend": backend, "precision": self._precision, "device": self.engine.device}

    def model(self, name: str) -> Model:
        manifest = self.engine.manifest
        if name != manifest.name:
            raise ModelNotFound(name, [manifest.name])
        return Model(name, manifest.version, self.engine.digest, manifest.family, manifest.width, manifest.height)

    def buckets(self, name: str) -> tuple[int, ...]:
        return self.engine.buckets

    def send(self, order: Order, done: Done) -> None:
        now, deadline = time.perf_counter(), order.entry.deadline_ms
        expires = None if deadline is None else now + deadline / 1e3
        try:
            requests = self._requests(order)
        except ImpastoError as error:
            done(error)
            return
        with self._changed:
            self._waiting.append(_Waiting(requests, now, expires, done))
            self._changed.notify()

    def pictures(self, order: Order) -> list[Bytes]:
        return [pixels.array for pixels in self._make(self._requests(order))]

    def counters(self, name: str) -> Counters:
        return Counters(dict(self._batches))

    def pids(self) -> list[int]:
        return [os.getpid()]

    def model_cpu_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join()
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _requests(self, order: Order) -> list[PictureRequest]:
        entry = order.entry
        self.model(entry.model)
        denoising = None
        if entry.steps is not None or entry.width is not None or entry.height is not None:
            denoising = Denoising(steps=entry.steps, width=entry.width, height=entry.height)
            denoising.check(None)
        requests = [PictureRequest(seed=seed, noise_mode=self._noise_mode, denoising=denoising) for seed in order.seeds]
        for request in requests:
            self.engine.check(request)
        return requests

    def _run(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            try:
                made = iter(self._make([request for waiting in batch for request in waiting.requests]))
            except Exception as error:  # whatever an engine raises is every request's answer
                for waiting in batch:
                    waiting.done(InternalError(f"{type(error).__name__}: {error}"))
                continue
            execute = (time.perf_counter() - started) * 1e3
            for waiting in batch:
                began = time.perf_counter()
                for _, pixels in zip(waiting.requests, made, strict=False):
                    pixels.array  # noqa: B018  # a picture is done once its bytes are there
                encode = (time.perf_counter() - began) * 1e3
                stages = {"queue": (started - waiting.since) * 1e3, "execute": execute, "encode": encode}
                waiting.done(Reply(len(waiting.requests), stages))

    def _take(self) -> list[_Waiting]:
        """What runs next, once there is something; nothing after the end."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._waiting or not self._open)
                if not self._open:
                    return []
                room, now = self.engine.buckets[-1], time.perf_counter()
                while self._waiting and (not batch or len(self._waiting[0].requests) <= room):
                    waiting = self._waiting.popleft()
                    if waiting.deadline is not None and waiting.deadline < now:
                        waiting.done(DeadlineExceeded("deadline: it passed in the queue"))
                        continue
                    room -= len(waiting.requests)
                    batch.append(waiting)
        return batch

    def _make(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        made: list[Pixels] = []
        for start in range(0, len(requests), self.engine.buckets[-1]):
            chunk = requests[start : start + self.engine.buckets[-1]]
            self._batches[len(chunk)] += 1
            made += self.engine.run(chunk)
        return made


def open_in_process(
    model: str,
    *,
    models: Path | None = None,
    backend: str | None = None,
    precision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    noise_mode: NoiseMode | None = None,
) -> InProcessTarget:
    """A model of this machine, warm. ModelNotFound, BackendUnavailable, BundleError."""
    if not model:
        raise InvalidRequest("model", model, "a model's name")
    bundle = open_bundle(find_bundle(model, model_directories(models)))
    engine = open_engine(bundle, backend=backend, precision=precision, device=device, threads=threads)
    return InProcessTarget(engine, noise_mode, precision or "fp32")
