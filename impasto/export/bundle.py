"""A bundle: the folder NAME/VERSION/ that holds a model, described by its manifest.json.

Reading one needs neither torch nor onnx. Writing goes to a temporary folder beside the final one and ends in a
rename, so that a bundle is there whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from impasto.errors import BundleError, InvalidRequest, ModelNotFound
from impasto.export.class_names import check_class_names

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
ZOO = Path(__file__).parent.parent / "zoo"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
VERSION_PATTERN = r"^[0-9]{1,9}$"
UNFINISHED_SECONDS = 24 * 3600.0
"""Age from which a folder that never became a bundle is one of a run that was killed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(_Strict):
    """One input or output: name, dtype as the Open Inference Protocol writes it, shape (-1 is the batch), meaning."""

    name: str
    dtype: Literal["BYTES", "FP32", "INT32", "INT64", "UINT8"]
    shape: tuple[int, ...]
    meaning: str


class FileEntry(_Strict):
    """A file of the bundle: its sha256 in hex and its size in bytes."""

    sha256: str
    size: int


class Parity(_Strict):
    """How far a graph's pictures are from torch's at one batch size: on [-1, 1], and in dB over a peak of 2.

    `output` names the graph and its output where a bundle has several; what is no picture is scaled to [-1, 1] first.
    """

    output: str = "image_float"
    batch: int
    max_abs_error: float
    psnr_db: float


class Lowered(_Strict):
    """How near a graph of lower precision is to the float32 one: dB over a peak of 2, the least of all pictures and
    their mean, the least SSIM, and what was required.

    `output` names the graph and its output where that is no picture; it is scaled to [-1, 1] first. `kept` are layers
    that stayed in float32 because they would have added most to the difference.
    """

    output: str = "image_float"
    psnr_db: float
    mean_psnr_db: float
    ssim: float
    pictures: int
    least_psnr_db: float
    kept: tuple[str, ...] = ()


class Manifest(_Strict):
    """What a bundle is. `config` holds its family's hyperparameters, `defaults` the parameters of a request.

    `precisions` are those of which there are graphs beside the usual ones, NAME.PRECISION.onnx. `class_names` are those
    of a conditional model's classes, by their index; none where it has no names for them.
    """

    format: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    family: str
    config: dict[str, Any]
    width: int
    height: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    buckets: tuple[int, ...] = (1, 2, 4, 8)
    defaults: dict[str, Any] = {}
    files: dict[str, FileEntry] = {}
    parity: tuple[Parity, ...] = ()
    graph: dict[str, Any] = {}
    precisions: dict[str, Lowered] = {}
    licence: str = "unknown"
    provenance: dict[str, Any] = {}
    class_names: tuple[str, ...] = ()

    @field_validator("class_names")
    @classmethod
    def _one_a_class(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if names and {"inputs", "config"} <= info.data.keys():
            try:
                check_class_names(names, _num_classes(info.data["inputs"], info.data["config"]))
            except InvalidRequest as error:
                raise PydanticCustomError("class_names", "{told}", {"told": str(error).partition(": ")[2]}) from error
        return names

    @property
    def num_classes(self) -> int:
        """Classes of a conditional model; 0: it is not conditional."""
        return _num_classes(self.inputs, self.config)

    @property
    def digest(self) -> str:
        """sha256 (hex) over family, hyperparameters and files: it changes when a picture could."""
        content = {"family": self.family, "config": self.config, "files": {k: v.sha256 for k, v in self.files.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _num_classes(inputs: Iterable[TensorSpec], config: Mapping[str, Any]) -> int:
    shapes = {spec.name: spec.shape for spec in inputs}
    if "c" in shapes:
        return next(iter(shapes["c"][1:]), 0)
    # A diffusion model takes no class vector.
    classes = config.get("classes") if "label" in shapes else None
    return classes if isinstance(classes, int) else 0


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Read a bundle's manifest and check every file's size and, with `verify`, sha256. BundleError if broken."""
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot read {MANIFEST}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or MANIFEST
        raise BundleError(f"{path / MANIFEST}: {field}: {first['msg']}") from error
    for name, entry in manifest.files.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise BundleError(f"{path / MANIFEST}: files: found {name!r}; allowed is a plain file name")
        file = path / name
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing")
        if file.stat().st_size != entry.size:
            raise BundleError(f"{file}: found {file.stat().st_size} bytes; the manifest says {entry.size}")
        if verify and sha256_of(file) != entry.sha256:
            raise BundleError(f"{file}: its sha256 is not the manifest's; the file was changed or damaged")
    return Bundle(path, manifest)


@contextmanager
def new_bundle(models: Path, name: str, version: str) -> Iterator[Path]:
    """A temporary folder that becomes `models`/NAME/VERSION when the block ends well; on an error nothing stays."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidRequest("name", name, "a letter or digit, then up to 99 of letters, digits, and . _ -")
    if not re.fullmatch(VERSION_PATTERN, version):
        raise InvalidRequest("version", version, "1 to 9 digits")
    target = models / name / version
    if target.exists():
        raise BundleError(f"{target}: there is a bundle already; choose another name or version, or remove it")
    models.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(models, name)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=models))
    try:
        yield temporary
        # Temporary folders and safetensors files are their owner's alone; a bundle is for all who may read its place.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        target.parent.mkdir(exist_ok=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_unfinished(models: Path, name: str) -> None:
    """Remove what earlier runs that were killed have left of this model; a run under way is younger."""
    for folder in models.glob(f".{name}-*"):
        if time.time() - folder.stat().st_mtime > UNFINISHED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with the sizes and digests of all files now in the folder; returns it as written."""
    files = {
        file.name: FileEntry(sha256=sha256_of(file), size=file.stat().st_size)
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }
    manifest = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


def own_models(models: Path | None = None) -> Path:
    """Where a user's models are: the directory given, else $IMPASTO_MODELS, else one in the user's data folder."""
    if models:
        return models
    if chosen := os.environ.get("IMPASTO_MODELS"):
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "impasto" / "models"


def model_directories(models: Path | None = None) -> list[Path]:
    """Where models are looked for: the user's (see `own_models`), then the zoo inside the package.

    InvalidRequest if the directory given, or $IMPASTO_MODELS, is not there; the one in the user's data folder need not.
    """
    own = own_models(models)
    if models or os.environ.get("IMPASTO_MODELS"):
        require_models(own)
    return [own, ZOO]


def require_models(path: Path) -> Path:
    """The path of a model directory. InvalidRequest unless it is there."""
    if not path.is_dir():
        raise InvalidRequest("models", str(path), "a folder that is there")
    return path


def list_bundles(directories: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """All bundles as name → version → path, versions ascending; the first directory that has a name wins it."""
    found: dict[str, dict[str, Path]] = {}
    for directory in directories:
        here: dict[str, dict[str, Path]] = {}
        for manifest in sorted(directory.glob(f"*/*/{MANIFEST}")):
            version = manifest.parent
            if version.name.isdigit() and not version.parent.name.startswith("."):
                here.setdefault(version.parent.name, {})[version.name] = version
        for name, versions in here.items():
            found.setdefault(name, dict(sorted(versions.items(), key=lambda item: int(item[0]))))
    return found


def find_bundle(name: str, directories: Iterable[Path], version: str | None = None) -> Path:
    """The folder of a model, the highest version unless one is named. ModelNotFound lists those there are."""
    bundles = list_bundles(directories)
    versions = bundles.get(name, {})
    if not versions:
        raise ModelNotFound(name, bundles)
    if version is None or version == "":
        return list(versions.values())[-1]
    if version not in versions:
        raise ModelNotFound(f"{name} version {version}", [f"{name} version {v}" for v in versions])
    return versions[version]


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
