"""Read what torch.save wrote, in the zip form and the older one, without torch's unpickler.

Tensors stay where they are in the file until they are asked for. A tensor must lie wholly and densely in its storage,
and a storage wholly in the file, so that nothing can be made to grow larger than the file that it came in.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from impasto.errors import CheckpointError
from impasto.generators.foreign.plain_values import Budget, not_callable, plain_constructors, shown
from impasto.generators.foreign.restricted_pickle import Global, load

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_RANK = 8

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """`size` numbers of one dtype in the file; `read` gives their bytes."""

    dtype: torch.dtype
    size: int
    read: Callable[[], memoryview]


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that is still in the file: dense, its dimensions in any order in memory."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def squeeze(self, dimensions: Collection[int]) -> StoredTensor:
        """The tensor without those of the dimensions that have length one."""
        kept = [d for d, length in enumerate(self.shape) if length != 1 or d not in dimensions]
        shape, stride = tuple(self.shape[d] for d in kept), tuple(self.stride[d] for d in kept)
        return dataclasses.replace(self, shape=shape, stride=stride)

    def read(self) -> Tensor:
        """The tensor in its own dtype, contiguous, in memory of its own."""
        count, itemsize = math.prod(self.shape), self.dtype.itemsize
        if count == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        raw = self.storage.read()[self.offset * itemsize : (self.offset + count) * itemsize]
        flat = torch.frombuffer(bytearray(raw), dtype=self.dtype)
        return flat.as_strided(self.shape, self.stride).contiguous()


def tensor_constructors(budget: Budget) -> dict[tuple[str, str], Callable[..., object]]:
    """The table for tensors inside a plain pickle, where each storage is a nested file of torch's older form."""
    return {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
        ("torch.storage", "_load_from_bytes"): lambda data: _nested_storage(data, budget),
    }


def is_legacy(data: bytes) -> bool:
    """Whether a file starts as torch.save's older form does, whatever its pickle protocol."""
    return data.startswith(pickle.PROTO) and LEGACY_MAGIC.to_bytes(10, "little") in data[:32]


def read_legacy(data: memoryview, budget: Budget) -> object:
    """The value that torch.save wrote in its form before 1.6: five pickles, then the storages one after another."""
    magic, position = load(data, {}, budget)
    protocol, position = load(data, {}, budget, start=position)
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise CheckpointError(f"found a pickle that torch.save did not write, or a version unlike {LEGACY_PROTOCOL}")
    system, position = load(data, {}, budget, start=position)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("found a big-endian file; allowed are little-endian ones")
    storages: dict[str, Storage] = {}
    places: dict[str, memoryview] = {}

    def persistent_load(identifier: object) -> Storage:
        dtype, key, size = _storage_identifier(identifier)
        if key not in storages:
            storages[key] = Storage(dtype, size, lambda: places[key])
        return _same(storages[key], dtype, size, key)

    value, position = load(data, _archive_constructors(budget), budget, start=position, persistent_load=persistent_load)
    keys, position = load(data, {}, budget, start=position)
    places |= _legacy_places(data[position:], keys, storages)
    return value


def read_zip(data: bytes, budget: Budget) -> object:
    """The value that torch.save wrote in its form since 1.6: a zip of data.pkl and one uncompressed entry a storage."""
    archive, sizes = _open_zip(data)
    pickles = [name for name in sizes if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError("found a zip file without one data.pkl; torch.save writes one")
    root = pickles[0].removesuffix("data.pkl")

    @functools.cache
    def read(name: str) -> memoryview:
        try:
            return memoryview(archive.read(name))
        except _ZIP_ERRORS as error:
            raise CheckpointError(f"found a damaged zip entry {shown(name)}: {error}") from error

    def persistent_load(identifier: object) -> Storage:
        dtype, key, size = _storage_identifier(identifier)
        name = f"{root}data/{key}"
        if sizes.get(name) != size * dtype.itemsize:
            raise CheckpointError(f"found no storage {shown(key)} of {size} numbers ({dtype}) in the zip file")
        return Storage(dtype, size, lambda: read(name))

    if f"{root}byteorder" in sizes and bytes(read(f"{root}byteorder")) != b"little":
        raise CheckpointError("found a big-endian file; allowed are little-endian ones")
    value, _ = load(read(pickles[0]), _archive_constructors(budget), budget, persistent_load=persistent_load)
    return value


def _legacy_places(data: memoryview, keys: object, storages: Mapping[str, Storage]) -> dict[str, memoryview]:
    """Where the storages lie in the data behind the pickles: each is its size in numbers (8 bytes) and its bytes."""
    if not isinstance(keys, list) or len(keys) != len(storages) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("found a list of storages that is not that of the tensors")
    places: dict[str, memoryview] = {}
    position = 0
    for key in keys:
        if key not in storages or key in places:
            raise CheckpointError(f"found the storage {shown(key)}, which no tensor has or which comes twice")
        size, start = storages[key].size, position + 8
        position = start + size * storages[key].dtype.itemsize
        if position > len(data):
            raise CheckpointError(f"found a truncated file: the storage {shown(key)} runs past its end")
        if int.from_bytes(data[start - 8 : start], "little") != size:
            raise CheckpointError(f"found a storage {shown(key)} whose two sizes differ")
        places[key] = data[start:position]
    return places


def _open_zip(data: bytes) -> tuple[zipfile.ZipFile, dict[str, int]]:
    """The archive and the size of every entry; none is compressed, and together they are no larger than the file."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _ZIP_ERRORS as error:
        raise CheckpointError(f"found a damaged or truncated zip file: {error}") from error
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError("found compressed entries in a zip file; torch.save writes none")
    if sum(entry.file_size for entry in entries) > len(data):
        raise CheckpointError("found a zip file whose entries are larger than itself")
    return archive, {entry.filename: entry.file_size for entry in entries}


_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    LookupError,
)


def _archive_constructors(budget: Budget) -> dict[tuple[str, str], Callable[..., object]]:
    tensors = tensor_constructors(budget)
    del tensors["torch.storage", "_load_from_bytes"]
    return plain_constructors(budget) | tensors | {("torch", name): not_callable for name in _DTYPES}


def _nested_storage(data: object, budget: Budget) -> Storage:
    if not isinstance(data, (bytes, memoryview)):
        raise TypeError("bytes of a storage")
    value = read_legacy(memoryview(data), budget)
    if not isinstance(value, Storage):
        raise CheckpointError(f"found {shown(value)} where a storage should be")
    return value


def _storage_identifier(identifier: object) -> tuple[torch.dtype, str, int]:
    match identifier:
        case ("storage", Global("torch", str(name)), str(key), _, int(size), *rest) if size >= 0 and rest in (
            [],
            [None],
        ):
            return _DTYPES[name], key, size
    raise CheckpointError("found a persistent id that is not a storage of torch.save")


def _same(storage: Storage, dtype: torch.dtype, size: int, key: str) -> Storage:
    if storage.dtype != dtype or storage.size != size:
        raise CheckpointError(f"found the storage {shown(key)} with two sizes or dtypes")
    return storage


def _rebuild_tensor(
    storage: object, offset: object, shape: object, stride: object, requires_grad: object, hooks: object, *rest: object
) -> StoredTensor:
    if not isinstance(storage, Storage) or not isinstance(offset, int) or not _sizes(shape) or not _sizes(stride):
        raise TypeError("storage, offset, shape and stride")
    assert isinstance(shape, tuple)
    assert isinstance(stride, tuple)
    count = math.prod(shape)
    extent = 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True)) if count else 0
    if extent != count:
        raise CheckpointError(
            f"found a tensor of shape {shown(shape)} with strides {shown(stride)}; allowed are dense ones"
        )
    if offset < 0 or offset + count > storage.size:
        raise CheckpointError(
            f"found a tensor of shape {shown(shape)} at {shown(offset)} of a storage of {storage.size} numbers"
        )
    return StoredTensor(storage, offset, shape, stride)


def _sizes(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_RANK
        and all(type(part) is int and 0 <= part < 2**40 for part in value)
    )
