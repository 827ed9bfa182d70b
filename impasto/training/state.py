"""What a run needs to go on as if it had never stopped: `state.pt`, written whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from impasto.training.pictures import fingerprint

FILE = "state.pt"


class Stateful(Protocol):
    """A run: networks and optimizers under the names in `stateful`, and its two sources of randomness."""

    out: Path
    seen: int
    rng: torch.Generator
    data_rng: np.random.Generator
    pictures: Sequence[Image.Image]

    @property
    def stateful(self) -> Sequence[str]: ...


def save_state(run: Stateful, more: Mapping[str, Any]) -> None:
    """Write the state of a run, and `more` that goes with it, to its folder."""
    state: dict[str, Any] = {name: getattr(run, name).state_dict() for name in run.stateful}
    state |= {
        "seen": run.seen,
        "rng": run.rng.get_state(),
        "data_rng": run.data_rng.bit_generator.state,
        "data": fingerprint(run.pictures),
        **more,
    }
    with replaced(run.out / FILE) as path:
        torch.save(state, path)


def read_state(out: Path, network: Mapping[str, Any], stateful: Iterable[str], pictures: int) -> dict[str, Any] | None:
    """The state in `out`, if there is one.

    ValueError if it is not of a run that trains these networks: each entry of `network` must be equal, there must be
    all of `stateful`, and it must have seen no more than `pictures`.
    """
    path = out / FILE
    if not path.exists():
        return None
    remedy = "choose another folder, or remove it"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu")
    except Exception as error:
        # What torch raises for a file that is none of its own, or that holds more than tensors, has no common class.
        raise ValueError(f"out: {path} is no state that can be read ({type(error).__name__}); {remedy}") from error
    if any(state.get(name) != value for name, value in network.items()):
        raise ValueError(f"out: {path} is the state of another network; {remedy}")
    if missing := set(stateful) - state.keys():
        found = f"{path} is a state without {', '.join(sorted(missing))}"
        raise ValueError(f"out: {found}, of an older trainer; {remedy}")
    if state["seen"] > pictures:
        raise ValueError(f"pictures: found {pictures}; the run in {path} has already seen {state['seen']}")
    return state


def restore(run: Stateful, state: Mapping[str, Any]) -> None:
    """Put a run where it was when the state was saved, in place; log a warning if its pictures are others now."""
    for name in run.stateful:
        getattr(run, name).load_state_dict(state[name])
    run.seen = state["seen"]
    run.rng.set_state(state["rng"])
    run.data_rng.bit_generator.state = state["data_rng"]
    if state.get("data") not in (None, fingerprint(run.pictures)):
        logging.getLogger(__name__).warning(
            "data: these are not the pictures that the run in %s has seen so far; it goes on with these", run.out
        )


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to instead of `path`, which takes its place at the end, all at once.

    A kill, or a power cut, at any point leaves the old file or the new one.
    """
    part = path.with_name(f"{path.name}.part")
    yield part
    _flush_to_disk(part)
    part.replace(path)
    _flush_to_disk(path.parent)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
