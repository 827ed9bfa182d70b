"""Engines that make a picture in steps: what a step batch needs of them, and a plain way to drive one."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeGuard

from impasto.engine.picture import Engine, Floats, PictureRequest, Pixels


class Work(NamedTuple):
    """What a request costs: model calls, and rows of the model's batch at each; rows of one group can share a batch."""

    calls: int
    width: int
    group: Hashable


class StepRow(NamedTuple):
    """A row of a step batch: its slot, its call counted from 0, and whether to say how it looks after it."""

    slot: int
    call: int
    preview: bool = False


class StepEngine(Engine, Protocol):
    """An engine whose pictures take several model calls each; between calls a picture's state is in its slot.

    Only one thread at a time may work on a slot; `step` and `decode` take turns by themselves.
    """

    slots: int
    """Pictures that can be under way at once."""
    decode_batch: int
    """Pictures to decode at once, at most."""

    def work(self, request: PictureRequest) -> Work:
        """What the request costs; the same for the same parameters."""

    def start(self, slot: int, request: PictureRequest) -> None:
        """Put the request's first state into a slot, whatever was there."""

    def step(self, rows: Sequence[StepRow]) -> dict[int, Floats]:
        """One model call of every row, of at most `buckets[-1]` model rows; latents of the previews asked for, by slot.

        All rows are of one group. A row's result does not depend on its batch-mates.
        """

    def latent(self, slot: int) -> Floats:
        """A copy of the slot's latent [C, h, w]: after its last call, what to decode."""

    def decode(self, latents: Sequence[Floats]) -> list[Pixels]:
        """The pictures of at most `decode_batch` latents."""

    def preview(self, latent: Floats) -> Pixels:
        """About how a latent will look; cheap."""

    def run_steps(self, requests: Sequence[PictureRequest]) -> Iterator[Stepped | Ready]:
        """Make the pictures without a scheduler, on slots that are free; closing the iterator ends it."""


def is_stepwise(engine: Engine) -> TypeGuard[StepEngine]:
    """Whether the engine makes its pictures in steps."""
    return hasattr(engine, "step")


class SlotPool:
    """Slots that are free, for callers that share an engine without a scheduler."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))
        self._returned = threading.Condition()

    def take(self, *, wait: bool) -> int | None:
        """A free slot; None if there is none and the caller does not wait for one."""
        with self._returned:
            while not self._free:
                if not wait:
                    return None
                self._returned.wait()
            return self._free.pop()

    def give_back(self, slot: int) -> None:
        """The slot is free."""
        with self._returned:
            self._free.append(slot)
            self._returned.notify()


@dataclasses.dataclass(frozen=True, slots=True)
class Stepped:
    """Picture `index` has done `step` of `steps` calls, in a batch of `rows`; `preview` if it was asked for."""

    index: int
    step: int
    steps: int
    rows: int
    preview: Pixels | None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """Picture `index` is made."""

    index: int
    pixels: Pixels


@dataclasses.dataclass(slots=True)
class _Running:
    index: int
    slot: int
    work: Work
    preview_every: int
    calls_done: int = 0

    def next_row(self) -> StepRow:
        step = self.calls_done + 1
        return StepRow(self.slot, self.calls_done, wants_preview(step, self.work.calls, self.preview_every))


def run_steps(engine: StepEngine, pool: SlotPool, requests: Sequence[PictureRequest]) -> Iterator[Stepped | Ready]:
    """Make the pictures, as many at once as the model's largest batch holds; one that is done makes room for the next.

    Closing the iterator gives the slots back.
    """
    waiting = deque(enumerate(requests))
    running: list[_Running] = []
    try:
        while waiting or running:
            _admit(engine, pool, waiting, running)
            previews = engine.step([row.next_row() for row in running])
            for row in running:
                row.calls_done += 1
                latent = previews.get(row.slot)
                preview = None if latent is None else engine.preview(latent)
                yield Stepped(row.index, row.calls_done, row.work.calls, len(running), preview)
            ended = [row for row in running if row.calls_done == row.work.calls]
            for start in range(0, len(ended), engine.decode_batch):
                batch = ended[start : start + engine.decode_batch]
                latents = [engine.latent(row.slot) for row in batch]
                for row in batch:
                    running.remove(row)
                    pool.give_back(row.slot)
                for row, pixels in zip(batch, engine.decode(latents), strict=True):
                    yield Ready(row.index, pixels)
    finally:
        for row in running:
            pool.give_back(row.slot)


def _admit(
    engine: StepEngine, pool: SlotPool, waiting: deque[tuple[int, PictureRequest]], running: list[_Running]
) -> None:
    """Start waiting requests while the model's largest batch has room and a slot is free; at least one must run.

    One of another group than those that run waits for them, and those behind it too.
    """
    room = engine.buckets[-1] - sum(row.work.width for row in running)
    while waiting:
        index, request = waiting[0]
        work = engine.work(request)
        if running and (work.width > room or work.group != running[0].work.group):
            return
        slot = pool.take(wait=not running)
        if slot is None:
            return
        waiting.popleft()
        every = request.denoising.preview_every if request.denoising else 0
        running.append(_Running(index, slot, work, every))
        engine.start(slot, request)
        room -= work.width


def wants_preview(step: int, steps: int, every: int) -> bool:
    """Whether a picture that asks for a preview every so many steps gets one after this step; the last needs none."""
    return every > 0 and step % every == 0 and step < steps
