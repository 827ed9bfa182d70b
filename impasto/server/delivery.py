"""From made pictures to the jobs that asked for them, through the encoding threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor

from impasto.errors import Cancelled, ImpastoError
from impasto.server.encoding import Encoder
from impasto.server.faults import internal_error
from impasto.server.job import Made, Previewed, Row
from impasto.server.metrics import ModelMetrics

Encoded = Made | Exception


class Delivery:
    """Encodes and delivers one model's pictures. `on_encoded` is called whenever one picture fewer waits for that.

    Of a row's previews one is encoded at a time, and only the newest waits for its turn; once the picture is made there
    is no need of any. So previews hold up nothing, however many are asked for.
    """

    def __init__(
        self, encoders: Executor, metrics: ModelMetrics, model: str, *, on_encoded: Callable[[], None]
    ) -> None:
        self.encoding = 0
        """Pictures that wait to be encoded, or are; previews do not count."""
        self._encoders = encoders
        self._metrics = metrics
        self._model = model
        self._on_encoded = on_encoded
        self._loop = asyncio.get_running_loop()
        self._previews: dict[Row, Made | None] = {}
        """Rows of which a preview is being encoded, and the one that is next."""

    def deliver(self, row: Row, made: Made) -> None:
        """A picture is made: its job gets it, encoded as the job wants it."""
        if self._previews:
            self._previews.pop(row, None)
        if row.job.encoder is None or made.data is not None:
            row.job.deliver(row.number, made)
        elif row.job.open:
            self.encoding += 1
            self._start(row, made, row.job.encoder, self._delivered)

    def preview(self, row: Row, made: Made) -> None:
        """How a picture looks so far, for its job."""
        if row.job.encoder is None or made.data is not None:
            row.job.tell(row.number, Previewed(made))
        elif row in self._previews:
            self._previews[row] = made
        elif row.job.open:
            self._previews[row] = None
            self._start(row, made, row.job.encoder, self._previewed)

    def _start(self, row: Row, made: Made, encoder: Encoder, then: Callable[[Row, Encoded], None]) -> None:
        self._encoders.submit(self._encode, encoder, row, made, then)

    def _encode(self, encoder: Encoder, row: Row, made: Made, then: Callable[[Row, Encoded], None]) -> None:
        """What an encoding thread does."""
        result: Encoded
        try:
            if not row.job.open:
                raise Cancelled("the caller is gone")
            started = time.monotonic()
            data = encoder.encode(made.pixels, made.metadata)
            result = made._replace(data=data, encode_seconds=time.monotonic() - started)
        except Exception as error:
            result = error
        self._loop.call_soon_threadsafe(then, row, result)

    def _delivered(self, row: Row, result: Encoded) -> None:
        self.encoding -= 1
        self._on_encoded()
        if isinstance(result, Made):
            self._metrics.encode_seconds.observe(result.encode_seconds)
            row.job.deliver(row.number, result)
        else:
            self._fail(row, result)

    def _previewed(self, row: Row, result: Encoded) -> None:
        if row not in self._previews:  # the picture is made
            return
        newest = self._previews.pop(row)
        if isinstance(result, Made):
            row.job.tell(row.number, Previewed(result))
        else:
            self._fail(row, result)
        if newest is not None:
            self.preview(row, newest)

    def _fail(self, row: Row, error: Exception) -> None:
        known = isinstance(error, ImpastoError)
        row.job.fail(error if known else internal_error(f"encoding a picture of model {self._model}", error))
