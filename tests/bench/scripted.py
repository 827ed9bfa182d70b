"""A target without a network, for tests of what is done with its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

from impasto.bench.result import Model
from impasto.bench.result import Protocol as WireProtocol
from impasto.bench.target import Answer, Counters, Done, Reply
from impasto.bench.traffic import Order
from impasto.errors import ModelNotFound
from impasto.images.pixels import Bytes

DIGEST = "ab" * 32


class ScriptedTarget:
    """Answers each order after `seconds`, one at a time if `serial`, with `answers` first and then with pictures.

    `slow_client` is how long `send` itself takes; `pixel` is what every pixel of its pictures is.
    """

    system = "scripted"
    protocol: WireProtocol = "in-process"

    def __init__(
        self,
        seconds: float = 0.0,
        *,
        serial: bool = False,
        answers: tuple[Answer, ...] = (),
        slow_client: float = 0.0,
        pixel: int = 100,
        precision: str = "fp32",
    ) -> None:
        self.orders: list[Order] = []
        self.checked: list[Order] = []
        self.settings: Mapping[str, str | int | float] = {"backend": "b", "precision": precision, "device": "cpu"}
        self._seconds = seconds
        self._answers = list(answers)
        self._slow_client = slow_client
        self._pixel = pixel
        self._line = threading.Lock() if serial else None

    def model(self, name: str) -> Model:
        if name != "m":
            raise ModelNotFound(name, ["m"])
        return Model(name, "1", DIGEST, "null", 4, 4)

    def buckets(self, name: str) -> tuple[int, ...]:
        return (1, 2, 4)

    def send(self, order: Order, done: Done) -> None:
        self.orders.append(order)
        answer = self._answers.pop(0) if self._answers else Reply(len(order.seeds))
        time.sleep(self._slow_client)
        threading.Thread(target=self._answer, args=(answer, done), daemon=True).start()

    def pictures(self, order: Order) -> list[Bytes]:
        self.checked.append(order)
        return [np.full((4, 4, 3), self._pixel, np.uint8) for _ in order.seeds]

    def counters(self, name: str) -> Counters:
        return Counters({3: len(self.orders)})

    def pids(self) -> list[int]:
        return []

    def model_cpu_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, answer: Answer, done: Done) -> None:
        if self._line is None:
            time.sleep(self._seconds)
        else:
            with self._line:
                time.sleep(self._seconds)
        done(answer)
