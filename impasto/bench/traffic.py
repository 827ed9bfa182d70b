"""Which requests arrive when: mixes by weight, Poisson and constant arrivals, and traces that were recorded.

A load and its seed fix every request and every due time, so that two systems meet the same traffic.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.bench.result import Load, MixEntry
from impasto.errors import InvalidRequest

MAX_SEED = 2**32 - 1
MAX_ORDERS = 2_000_000


@dataclass(frozen=True, slots=True)
class Order:
    """One request: seconds after the start at which it is due, what it asks for, and its first picture's seed."""

    due: float
    entry: MixEntry
    seed: int

    @property
    def seeds(self) -> range:
        """A seed for each of its pictures."""
        return range(self.seed, self.seed + self.entry.batch)


def orders(load: Load) -> Iterator[Order]:
    """The load's requests in the order of their due times; endless for a load whose pace the server sets."""
    rng = random.Random(load.seed)
    times = itertools.repeat(0.0) if load.rate is None else _due_times(load, rng)
    kinds, weights = load.mix, [entry.weight for entry in load.mix]
    limit = MAX_ORDERS if load.requests is None else load.requests
    for due in itertools.islice(times, limit):
        entry = rng.choices(kinds, weights)[0] if len(kinds) > 1 else kinds[0]
        yield Order(due, entry, rng.randrange(MAX_SEED - entry.batch))


def read_mix(path: Path, model: str) -> tuple[MixEntry, ...]:
    """A JSON file with a list of `MixEntry` objects; `model` is that of entries which name none.

    InvalidRequest names what is wrong.
    """
    content = _json(path, path.read_text())
    if not isinstance(content, list) or not content:
        raise InvalidRequest(str(path), type(content).__name__, "a list of one or more objects")
    return tuple(_entry(f"{path}[{index}]", values, model) for index, values in enumerate(content))


def read_trace(path: Path, model: str) -> list[Order]:
    """A recorded trace: JSON lines, each with `at` in seconds, the fields of `MixEntry`, and `seed` (0 unless given).

    The first one is due at once; InvalidRequest names the line of one that is wrong or earlier than the one before.
    """
    trace: list[Order] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path}:{number}"
        values = _json(Path(where), line)
        at = values.pop("at", None) if isinstance(values, dict) else None
        if isinstance(at, bool) or not isinstance(at, int | float) or (trace and at < trace[-1].due):
            raise InvalidRequest(f"{where}: at", at, "seconds, not before those of the line above")
        seed = values.pop("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise InvalidRequest(f"{where}: seed", seed, f"an integer from 0 to {MAX_SEED}")
        trace.append(Order(float(at), _entry(where, values, model), seed))
    if not trace:
        raise InvalidRequest(str(path), "an empty file", "a request a line")
    return [dataclasses.replace(order, due=order.due - trace[0].due) for order in trace]


def write_trace(path: Path, recorded: Iterable[Order]) -> None:
    """Write requests as `read_trace` reads them."""
    lines = (json.dumps({"at": order.due, "seed": order.seed, **_set_fields(order.entry)}) for order in recorded)
    path.write_text("".join(f"{line}\n" for line in lines))


def _due_times(load: Load, rng: random.Random) -> Iterator[float]:
    assert load.rate is not None
    due = 0.0
    while load.seconds is None or due < load.seconds:
        yield due
        due += rng.expovariate(load.rate) if load.arrivals == "poisson" else 1.0 / load.rate


def _entry(where: str, values: Any, model: str) -> MixEntry:
    fields = {field.name: field.type for field in dataclasses.fields(MixEntry)}
    if not isinstance(values, dict):
        raise InvalidRequest(where, type(values).__name__, "an object")
    for name, value in values.items():
        if name not in fields:
            raise InvalidRequest(f"{where}: {name}", value, f"only {', '.join(fields)}")
        least = _LEAST.get(name)
        if name == "model":
            if not isinstance(value, str):
                raise InvalidRequest(f"{where}: model", value, "a name")
        elif isinstance(value, bool) or not isinstance(value, int | float) or (least is not None and value < least):
            raise InvalidRequest(f"{where}: {name}", value, f"a number of at least {least or 0:g}")
        elif name in _WHOLE and not isinstance(value, int):
            raise InvalidRequest(f"{where}: {name}", value, "a whole number")
        elif name in _POSITIVE and value <= 0:
            raise InvalidRequest(f"{where}: {name}", value, "a number above 0")
    return MixEntry(**{"model": model, **values})


_WHOLE = {"batch", "steps", "width", "height", "priority"}
_POSITIVE = {"weight", "deadline_ms"}
_LEAST = {"batch": 1, "steps": 1, "width": 1, "height": 1, "priority": 0}


def _set_fields(entry: MixEntry) -> dict[str, Any]:
    """What of the entry differs from a default."""
    fields = dataclasses.fields(MixEntry)
    return {field.name: value for field in fields if (value := getattr(entry, field.name)) != field.default}


def _json(where: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(str(where), str(error), "JSON") from error
