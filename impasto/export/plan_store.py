"""TensorRT's plans on disk, each with all that it depends on. Needs neither TensorRT nor a GPU.

    engines/KEY.plan    a serialised engine
    engines/KEY.json    its key in full, its sha256, and what the engine's inspector says of it

A plan holds code and is for one graph, GPU, driver and TensorRT: another's is wrong, or does harm. So one is loaded
only if its record is of the very key that is asked for and its bytes have the record's sha256. Files appear under their
names whole, the record last: a build that is killed leaves no plan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from impasto.export.bundle import Bundle

ENGINES = "engines"
OPTIONS = "options.json"
AMPERE = 8
"""Major compute capability."""
STALE_SECONDS = 3600.0
"""Age above which a file that was never finished is removed."""

Hardware = Literal["this gpu", "same compute capability", "ampere and later"]


@dataclasses.dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. `plugins` takes the graph with our kernels; `refit` lets weights be swapped in the plan.

    `version_compatible` plans load in later minor versions of TensorRT too, and `hardware` says which GPUs run the
    plan; either costs speed. `tf32` multiplies float32 with 10 bits. `workspace_mib` bounds scratch memory, and
    `optimization_level` 0 to 5 the time that is spent on choosing tactics.
    """

    plugins: bool = False
    refit: bool = False
    version_compatible: bool = False
    hardware: Hardware = "this gpu"
    tf32: bool = False
    workspace_mib: int = 4096
    optimization_level: int = 3

    def flags(self) -> tuple[str, ...]:
        """As a plan's key has them."""
        return tuple(f"{name}={value}" for name, value in dataclasses.asdict(self).items())


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What a plan is built with and for: versions of TensorRT and the driver, the GPU's name and compute capability."""

    tensorrt: str
    driver: str
    gpu: str
    compute_capability: str

    def of(self, options: BuildOptions) -> Target:
        """What of it a plan built so depends on: one for several GPUs or versions names none of them."""
        found = self
        if options.version_compatible:
            found = dataclasses.replace(found, tensorrt=f"{self.tensorrt.partition('.')[0]}, any version")
        if options.hardware != "this gpu":
            found = dataclasses.replace(found, gpu="any", driver="any")
        if options.hardware == "ampere and later" and int(self.compute_capability.partition(".")[0]) >= AMPERE:
            found = dataclasses.replace(found, compute_capability=f"{AMPERE}.0 and later")
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class PlanKey:
    """All that a plan depends on. `graph` is the sha256 of the ONNX file, `profile` the batch sizes, one each."""

    graph: str
    precision: str
    profile: tuple[int, ...]
    flags: tuple[str, ...]
    target: Target

    def content(self) -> dict[str, Any]:
        """Everything, as JSON writes it."""
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return content

    @property
    def name(self) -> str:
        """The first 32 digits of the content's sha256: the name of its files."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A serialised engine. `structure` is the digest of its graph without weights: see `PlanStore.refittable`."""

    content: bytes
    structure: str
    inspector: str
    """What the engine inspector says of its layers, JSON."""


class PlanStore:
    """The plans in one folder, which need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: PlanKey) -> bytes | None:
        """The plan of exactly this key; None if there is none, or if what lies there is not what was stored."""
        return self._read(self._record(key.name), key)

    def save(self, key: PlanKey, plan: Plan) -> None:
        """Store a plan; one of the same key is replaced."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        record = {
            "key": key.content(),
            "sha256": hashlib.sha256(plan.content).hexdigest(),
            "structure": plan.structure,
            "inspector": plan.inspector,
        }
        # Without its record the plan before counts as none while the new one takes its place.
        self._record(key.name).unlink(missing_ok=True)
        write_whole(self._record(key.name).with_suffix(".plan"), plan.content)
        write_whole(self._record(key.name), json.dumps(record, indent=1).encode())

    def refittable(self, key: PlanKey, structure: str) -> bytes | None:
        """A plan with other weights: of the same structure, and of a key that differs in nothing but the graph."""
        for file in sorted(self.folder.glob("*.json")):
            record = _parsed(file)
            if not record or record.get("structure") != structure or "refit=True" not in key.flags:
                continue
            graph = record["key"].get("graph") if isinstance(record.get("key"), dict) else None
            if isinstance(graph, str) and (plan := self._read(file, dataclasses.replace(key, graph=graph))):
                return plan
        return None

    @property
    def options(self) -> BuildOptions:
        """Those of the last build, with which an engine looks for its plans; the usual ones where there was none."""
        found = _parsed(self.folder / OPTIONS) or {}
        with contextlib.suppress(TypeError):
            return BuildOptions(**found)
        return BuildOptions()

    @options.setter
    def options(self, options: BuildOptions) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / OPTIONS, json.dumps(dataclasses.asdict(options)).encode())

    def inspector(self, key: PlanKey) -> str | None:
        """What the inspector said of the plan; None if there is no such plan."""
        record = _parsed(self._record(key.name))
        return record["inspector"] if record and record.get("key") == key.content() else None

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _read(self, file: Path, key: PlanKey) -> bytes | None:
        record = _parsed(file)
        if record is None or record.get("key") != key.content() or file.stem != key.name:
            return None
        try:
            content = file.with_suffix(".plan").read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == record.get("sha256") else None

    def _sweep(self) -> None:
        """Remove what builds left that were killed a while ago."""
        for file in self.folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > STALE_SECONDS:
                    file.unlink()


def store_of(bundle: Bundle) -> PlanStore:
    """Where a bundle's plans are: beside it, or in the user's cache if its folder cannot be written."""
    beside = bundle.path / ENGINES
    if os.access(beside if beside.exists() else bundle.path, os.W_OK):
        return PlanStore(beside)
    return PlanStore(cache_folder() / ENGINES / bundle.manifest.digest)


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/impasto, else ~/.cache/impasto."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "impasto"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name whole or not at all, also when the machine stops."""
    with _part(path) as part:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    """A new file beside `path`, removed if it still has its own name in the end."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _parsed(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
