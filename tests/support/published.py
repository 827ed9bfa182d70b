"""Bundles made once a run of the tests, whatever the number of its processes: to export a graph takes seconds."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support.locking import alone_at


def published(models: Path, name: str, version: str, made_of: object, publish: Callable[[Path], Path]) -> Path:
    """`models`/NAME/VERSION, a copy of what `publish` puts into the model directory it gets.

    That is called for the first of all requests with the same name, version and `made_of`, by its repr.
    """
    key = hashlib.sha256(f"{name} {version} {made_of!r}".encode()).hexdigest()[:20]
    place = _shared_folder() / key
    with alone_at(place):
        if not place.exists():
            making = place.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            publish(making)
            making.rename(place)
    shutil.copytree(place, models, dirs_exist_ok=True)
    return models / name / version


@functools.cache
def _shared_folder() -> Path:
    """A folder of this run: the processes of pytest-xdist share it, and the last one's end leaves it to the system."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        folder = Path(tempfile.mkdtemp(prefix="impasto-tests-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"impasto-tests-{run}"
    folder.mkdir(exist_ok=True)
    return folder
