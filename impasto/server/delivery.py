"""From made pictures to the jobs that asked for them, through the encoding threads."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from impasto.errors import Cancelled, ImpastoError
from impasto.server.encoding import Encoder
from impasto.server.faults import internal_error
from impasto.server.job import Made, Previewed, Row
from impasto.server.metrics import ModelMetrics


@dataclass(slots=True)
class _Encoding:
    """A picture or a preview with the encoders; `result` once they are done."""

    then: Callable[[Row, Made], None]
    result: Made | Exception | None = None


class Delivery:
    """Encodes and delivers one model's pictures. `on_encoded` is called whenever one picture fewer waits for that.

    What a row's job gets comes in the order in which it was made, whichever encoding thread is done first.
    """

    def __init__(
        self, encoders: Executor, metrics: ModelMetrics, model: str, *, on_encoded: Callable[[], None]
    ) -> None:
        self.encoding = 0
        """Pictures that wait to be encoded, or are."""
        self._encoders = encoders
        self._metrics = metrics
        self._model = model
        self._on_encoded = on_encoded
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[Row, deque[_Encoding]] = {}

    def deliver(self, row: Row, made: Made) -> None:
        """A picture is made: its job gets it, encoded as the job wants it."""
        if row.job.encoder is None or (made.data is not None and row not in self._under_way):
            row.job.deliver(row.number, made)
        else:
            self._start(row, made, row.job.encoder, self._delivered)

    def preview(self, row: Row, made: Made) -> None:
        """How a picture looks so far, for its job."""
        if row.job.encoder is None:
            row.job.tell(row.number, Previewed(made))
        else:
            self._start(row, made, row.job.encoder, self._previewed)

    def _start(self, row: Row, made: Made, encoder: Encoder, then: Callable[[Row, Made], None]) -> None:
        if row.job.open:
            encoding = _Encoding(then)
            self._under_way.setdefault(row, deque()).append(encoding)
            self.encoding += 1
            self._encoders.submit(self._encode, encoder, row, made, encoding)

    def _encode(self, encoder: Encoder, row: Row, made: Made, encoding: _Encoding) -> None:
        """What an encoding thread does."""
        result: Made | Exception
        try:
            if not row.job.open:
                raise Cancelled("the caller is gone")
            started = time.monotonic()
            data = encoder.encode(made.pixels, made.metadata)
            result = made._replace(data=data, encode_seconds=time.monotonic() - started)
        except Exception as error:
            result = error
        self._loop.call_soon_threadsafe(self._encoded, row, encoding, result)

    def _encoded(self, row: Row, encoding: _Encoding, result: Made | Exception) -> None:
        self.encoding -= 1
        self._on_encoded()
        encoding.result = result
        queue = self._under_way[row]
        while queue and queue[0].result is not None:
            self._hand_over(row, queue.popleft())
        if not queue:
            del self._under_way[row]

    def _hand_over(self, row: Row, encoding: _Encoding) -> None:
        result = encoding.result
        if isinstance(result, Made):
            encoding.then(row, result)
        elif isinstance(result, ImpastoError):
            row.job.fail(result)
        elif result is not None:
            row.job.fail(internal_error(f"encoding a picture of model {self._model}", result))

    def _delivered(self, row: Row, made: Made) -> None:
        self._metrics.encode_seconds.observe(made.encode_seconds)
        row.job.deliver(row.number, made)

    def _previewed(self, row: Row, made: Made) -> None:
        row.job.tell(row.number, Previewed(made))
