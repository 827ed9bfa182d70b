"""The loss curve of a run: a file of JSON lines, one a step, that a kill leaves without a gap or a double."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FILE = "curve.jsonl"


class Curve:
    """Appends steps, as {"seen": 64, "loss": 0.25}, to `out`/curve.jsonl.

    A run that goes on from `seen` pictures makes the later steps again, so what the file holds of them is cut off.
    """

    def __init__(self, out: Path, seen: int) -> None:
        self.path = out / FILE
        kept = _length_up_to(self.path, seen)
        self._stream = self.path.open("ab")
        self._stream.truncate(kept)

    def append(self, seen: int, losses: Mapping[str, float]) -> None:
        """Write the losses of the step after which `seen` pictures are seen; they are in the file on return."""
        self._stream.write(json.dumps({"seen": seen, **losses}).encode() + b"\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def read_curve(out: Path) -> list[dict[str, float]]:
    """The steps of a run's curve, in their order."""
    return [json.loads(line) for line in (out / FILE).read_text().splitlines()]


def _length_up_to(path: Path, seen: int) -> int:
    """The bytes of the file's first lines that are whole and of no later step."""
    length = 0
    if path.exists():
        with path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n") or not _is_step_up_to(line, seen):
                    break
                length += len(line)
    return length


def _is_step_up_to(line: bytes, seen: int) -> bool:
    try:
        return bool(json.loads(line)["seen"] <= seen)
    except (ValueError, KeyError, TypeError):
        return False
