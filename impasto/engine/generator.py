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
from impasto.events import Done, Event, Finished, OnProgress, Queued
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

    def close(self) -> None:
        """Free the device."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

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
    device: str = "cpu",
    threads: int | None = None,
) -> Generator:
    """Open a model by its name, or a bundle by the path of its folder (NAME/VERSION), and warm it up.

    Names are looked up in `models`, else in $IMPASTO_MODELS, else in the user's data folder, and in the zoo inside
    the package; the highest version unless one is named. `backend`, `device` and `threads` as in
    `impasto.engine.registry.open_engine`. ModelNotFound lists the models there are; BundleError, BackendUnavailable.
    """
    path = Path(name_or_path)
    if not (path / MANIFEST).is_file():
        path = find_bundle(str(name_or_path), model_directories(Path(models) if models else None), version)
    engine = open_engine(open_bundle(path), backend=backend, device=device, threads=threads)
    engine.warm_up()
    return Generator(engine)


def _requests(wanted: Generation) -> list[PictureRequest]:
    """One request a picture."""
    shared = PictureRequest(
        label=wanted.label,
        c=wanted.class_vector,
        psi=wanted.psi,
        cutoff=wanted.psi_cutoff,
        noise_mode=wanted.noise_mode,
        mix=StyleMix(*wanted.style_mix) if wanted.style_mix else None,
    )
    if wanted.z is not None:
        return [dataclasses.replace(shared, z=row) for row in wanted.z]
    if wanted.ws is not None:
        return [dataclasses.replace(shared, ws=row) for row in wanted.ws]
    return [dataclasses.replace(shared, seed=seed) for seed in wanted.seeds]
