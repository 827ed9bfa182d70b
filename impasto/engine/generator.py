"""A model in this process: the same `generate` as the clients', with no server."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from impasto.engine.picture import Engine, PictureRequest, Pixels, StyleMix
from impasto.engine.registry import open_engine
from impasto.engine.stepwise import Ready, is_stepwise
from impasto.events import Done, Event, Finished, OnProgress, Preview, Queued, Step
from impasto.export.bundle import MANIFEST, find_bundle, model_directories, open_bundle
from impasto.generation import Generation, Parameters, generation
from impasto.images import Picture, encode


class Generator:
    """An engine with the interface of a client. May be used from several threads at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generate(self, *, on_progress: OnProgress | None = None, **parameters: Unpack[Parameters]) -> list[Picture]:
        """Make pictures; the keywords are those of `impasto.generation.Parameters`. InvalidRequest names the field.

        `on_progress` is called with every event of `impasto.events`.
        """
        pictures = []
        for event in self.generate_stream(**parameters):
            if isinstance(event, Finished):
                pictures.append(event.picture)
            if on_progress is not None:
                on_progress(event)
        return pictures

    def generate_stream(self, **parameters: Unpack[Parameters]) -> Iterator[Event]:
        """As `generate`, but each event as it happens: a batch of pictures, then the next; closing it stops there."""
        wanted = generation(**parameters)
        requests = _requests(wanted)
        for request in requests:
            self.engine.check(request)
        yield Queued(0, 0.0)
        yield from self._in_steps(requests, wanted) if is_stepwise(self.engine) else self._in_batches(requests, wanted)

    def close(self) -> None:
        """Free the device."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _in_batches(self, requests: list[PictureRequest], wanted: Generation) -> Iterator[Event]:
        execute_ms = encode_ms = 0.0
        sizes: list[int] = []
        largest = self.engine.buckets[-1]
        for start in range(0, len(requests), largest):
            batch = requests[start : start + largest]
            began = time.perf_counter()
            made = self.engine.run(batch)
            execute_ms = max(execute_ms, (time.perf_counter() - began) * 1e3)
            sizes += [len(batch)] * len(batch)
            for offset, (request, pixels) in enumerate(zip(batch, made, strict=True)):
                began = time.perf_counter()
                picture = self._picture(request, pixels, wanted)
                encode_ms = max(encode_ms, (time.perf_counter() - began) * 1e3)
                yield Finished(start + offset, picture)
        yield Done(0.0, execute_ms, encode_ms, tuple(sizes))

    def _in_steps(self, requests: list[PictureRequest], wanted: Generation) -> Iterator[Event]:
        assert is_stepwise(self.engine)
        execute_ms = encode_ms = 0.0
        sizes = [0] * len(requests)
        started: dict[int, float] = {}
        now = time.perf_counter()
        for event in self.engine.run_steps(requests):
            index = event.index
            if isinstance(event, Ready):
                made = time.perf_counter()
                picture = self._picture(requests[index], event.pixels, wanted)
                encode_ms = max(encode_ms, (time.perf_counter() - made) * 1e3)
                execute_ms = max(execute_ms, (made - started[index]) * 1e3)
                yield Finished(index, picture)
            else:
                started.setdefault(index, now)
                sizes[index] = max(sizes[index], event.rows)
                yield Step(index, event.step, event.steps)
                if event.preview is not None:
                    yield Preview(index, self._picture(requests[index], event.preview, wanted))
            now = time.perf_counter()
        yield Done(0.0, execute_ms, encode_ms, tuple(sizes))

    def _picture(self, request: PictureRequest, pixels: Pixels, wanted: Generation) -> Picture:
        metadata = self.engine.describe(request)
        if wanted.format == "float32":
            return Picture(metadata, image_float=pixels.image_float)
        if wanted.format == "uint8":
            return Picture(metadata, array=pixels.array)
        return Picture(
            metadata, encoded=encode(pixels.array, wanted.format, metadata, wanted.quality), format=wanted.format
        )


def load(
    name_or_path: str | Path,
    *,
    models: Path | str | None = None,
    version: str | None = None,
    backend: str | None = None,
    precision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Generator:
    """Open a model by its name, or a bundle by the path of its folder (NAME/VERSION), and warm it up.

    Names are looked up in `models`, else in $IMPASTO_MODELS, else in the user's data folder, and in the zoo inside
    the package; the highest version unless one is named. `backend`, `precision`, `device` and `threads` as in
    `impasto.engine.registry.open_engine`. ModelNotFound lists the models there are; BundleError, BackendUnavailable.
    """
    path = Path(name_or_path)
    if not (path / MANIFEST).is_file():
        path = find_bundle(str(name_or_path), model_directories(Path(models) if models else None), version)
    engine = open_engine(open_bundle(path), backend=backend, precision=precision, device=device, threads=threads)
    engine.warm_up()
    return Generator(engine)


def _requests(wanted: Generation) -> list[PictureRequest]:
    """One request a picture. InvalidRequest if there are latents to start from for some pictures only."""
    shared = PictureRequest(
        label=wanted.label,
        c=wanted.class_vector,
        psi=wanted.psi,
        cutoff=wanted.psi_cutoff,
        noise_mode=wanted.noise_mode,
        mix=StyleMix(*wanted.style_mix) if wanted.style_mix else None,
        rotation=wanted.rotation,
        translation=wanted.translation,
        image=wanted.image,
        image_to=wanted.image_to,
        blend=wanted.blend,
    )
    if wanted.z is not None:
        requests = [dataclasses.replace(shared, z=row) for row in wanted.z]
    elif wanted.ws is not None:
        requests = [dataclasses.replace(shared, ws=row) for row in wanted.ws]
    elif wanted.codes is not None:
        requests = [dataclasses.replace(shared, codes=row) for row in wanted.codes]
    else:
        requests = [dataclasses.replace(shared, seed=seed) for seed in wanted.seeds]
    if wanted.denoising is None:
        return requests
    denoising = wanted.denoising.split(len(requests))
    return [dataclasses.replace(request, denoising=each) for request, each in zip(requests, denoising, strict=True)]
