"""Files made to hang a reader or to fill its memory: each is refused at a cost in proportion to its size."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import read_checkpoint
from impasto.generators.foreign import plain_values
from impasto.generators.foreign.official_pickle import read_official
from impasto.generators.stylegan2_config import StyleGAN2Config
from tests.support.generators import TINY, random_generator
from tests.support.official_pickle import ada_arguments, official_networks, pickled
from tests.support.rosinality import rosinality_state, torch_file

MEMORY = 32 * 2**20


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def doubled(times: int) -> bytes:
    """A tuple that holds its predecessor twice, `times` deep: cheap to make, 2**times leaves to walk."""
    return b")" + b"".join(b"q\x00h\x00\x86" for _ in range(times))


LOAD = b"ctorch.storage\n_load_from_bytes\nq\x01B"
ENCODE = b"\x80\x02c_codecs\nencode\nq\x01" + text("x" * 1000) + text("latin1") + b"\x86q\x02"
MAKE_SET = b"\x80\x02c__builtin__\nset\nq\x01](" + b"".join(b"J" + struct.pack("<i", i) for i in range(10_000))

PICKLES: dict[str, tuple[bytes, str]] = {
    "bytes of a giant length": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "truncated file"),
    "text of a giant length": (b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.", "truncated file"),
    "a byte array of a giant length": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.", "truncated file"),
    "an integer of a giant length": (b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"x.", "truncated file"),
    "an integer of a megabyte": (b"\x80\x02\x8b" + struct.pack("<I", 2**20) + bytes(2**20) + b".", "an integer of"),
    "a frame of a giant length": (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.", "a frame of"),
    "a far place in the memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "found None in the pickle"),
    "a name without an end": (b"\x80\x02c" + b"x" * 100_000, "no end of line"),
    "a tuple that takes for ever to hash": (b"\x80\x02}" + doubled(60) + b"Ns.", "found a tuple as a key"),
    "a set of it": (b"\x80\x04\x8f(" + doubled(60) + b"\x90.", "found a tuple as a key"),
    "a tuple that takes for ever to print": (b"\x80\x02" + doubled(60) + b".", "found a tuple in the pickle"),
    "keys that collide": (b"\x80\x02}\x8a\x09" + (2**61 - 1).to_bytes(9, "little") + b"Ns.", "found 23058430092136939"),
    "endless operations": (b"\x80\x02" + b"N0" * 300_000 + b"N.", "more than 500000 operations"),
    "a deep nest of lists": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "found a list in the pickle"),
    "text encoded again and again": (ENCODE + b"0" + b"h\x01h\x02R" * 1_000 + b".", "more bytes than the file has"),
    "a set made again and again": (
        MAKE_SET + b"e\x85q\x02" + b"h\x01h\x02R" * 200 + b".",
        "more than 500000 operations",
    ),
    "an empty stack": (b"\x80\x02R.", "broken pickle: REDUCE"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "found a list in the pickle"),
}


@pytest.fixture(autouse=True, scope="module")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A first good file, so that modules that torch loads late are not counted."""
    path = tmp_path_factory.mktemp("warm") / "a.pkl"
    path.write_bytes(pickled(official_networks(random_generator(TINY))))
    read_checkpoint(path)


def refused_cheaply(path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=match):
            read_checkpoint(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY + 150 * len(content)


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_refused_at_little_cost(name: str, tmp_path: Path) -> None:
    content, message = PICKLES[name]
    refused_cheaply(tmp_path / "a.pkl", content, message)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_operations_of_nested_pickles_count_too(tmp_path: Path) -> None:
    storage = torch_file(torch.zeros(1), zipped=False)
    call = LOAD + struct.pack("<I", len(storage)) + storage + b"\x85q\x02"
    content = b"\x80\x03" + call + b"0" + b"h\x01h\x02R" * 200_000 + b"."
    refused_cheaply(tmp_path / "a.pkl", content, "where a storage should be")
    storage = torch_file(torch.zeros(1).storage(), zipped=False)
    call = LOAD + struct.pack("<I", len(storage)) + storage + b"\x85q\x02"
    content = b"\x80\x03" + call + b"0" + b"h\x01h\x02R0" * 50_000 + b"."
    refused_cheaply(tmp_path / "a.pkl", content, "more than 500000 operations")


def test_a_real_checkpoint_is_far_below_the_limit_of_operations() -> None:
    budget = plain_values.Budget(encoded_bytes=0)
    config = StyleGAN2Config(1024, channel_base=1024, channel_max=4, z_dim=4, w_dim=4)
    read_official(memoryview(pickled(official_networks(random_generator(config)))), budget)
    assert budget.operations > 0.9 * plain_values.MAX_OPERATIONS


class Rebuilt:
    """A tensor that pickles with arguments of its own."""

    def __init__(self, tensor: torch.Tensor, offset: Any, shape: Any, stride: Any) -> None:
        self.arguments = (tensor.storage(), offset, shape, stride, False, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("offset", "shape", "stride", "message"),
    [
        (0, (5,), (1,), r"found a tensor of shape \(5,\) at 0 of a storage of 4 numbers"),
        (1, (4,), (1,), r"found a tensor of shape \(4,\) at 1 of a storage"),
        (-1, (4,), (1,), r"found a tensor of shape \(4,\) at -1 of a storage"),
        (2**100, (4,), (1,), "of a storage of 4 numbers"),
        (0, (2**40 - 1,), (0,), "allowed are dense ones"),
        (0, (2, 2), (4, 1), "allowed are dense ones"),
        (0, (2, 2), (1, 1), "allowed are dense ones"),
        (0, (4,), (-1,), "wrong call of torch._utils._rebuild_tensor_v2"),
        (0, (-4,), (1,), "wrong call of torch._utils._rebuild_tensor_v2"),
        (0, (2**62, 2**62), (1, 1), "wrong call of torch._utils._rebuild_tensor_v2"),
        (0, (4,), (1, 1), "broken pickle"),
        (0, (4.0,), (1,), "wrong call of torch._utils._rebuild_tensor_v2"),
        ("0", (4,), (1,), "wrong call of torch._utils._rebuild_tensor_v2"),
        (0, (1,) * 9, (1,) * 9, "wrong call of torch._utils._rebuild_tensor_v2"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    offset: Any, shape: Any, stride: Any, message: str, tmp_path: Path
) -> None:
    networks = official_networks(random_generator(TINY))
    buffers = networks["G_ema"].state["_modules"]["mapping"].state["_buffers"]
    buffers["w_avg"] = Rebuilt(torch.zeros(4), offset, shape, stride)
    refused_cheaply(tmp_path / "a.pkl", pickled(networks), message)


def test_tensors_that_share_their_numbers_cannot_outgrow_the_file(tmp_path: Path) -> None:
    config = StyleGAN2Config(64, channel_base=64 * 64, channel_max=64, z_dim=4, w_dim=4)
    generator = random_generator(config)
    state = rosinality_state(generator)
    shared = state["convs.0.conv.weight"]
    for name, tensor in state.items():
        if tensor.shape == shared.shape:
            state[name] = shared
    refused_cheaply(tmp_path / "a.pt", torch_file({"g_ema": state}), "tensors that share their numbers")


def test_a_giant_number_of_channels_is_refused(tmp_path: Path) -> None:
    generator = random_generator(TINY)
    generator.synthesis.b4.torgb.weight = torch.nn.Parameter(torch.zeros(3, 2**16, 1, 1), requires_grad=False)
    networks = official_networks(generator, arguments=ada_arguments(TINY))
    refused_cheaply(tmp_path / "a.pkl", pickled(networks), "found a layer of 65536 features; allowed are 32768")


def _zipped(edit: Callable[[zipfile.ZipFile, zipfile.ZipFile], None]) -> bytes:
    source = zipfile.ZipFile(io.BytesIO(torch_file({"g_ema": rosinality_state(random_generator(TINY))})))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        edit(source, target)
    return stream.getvalue()


def _compress(source: zipfile.ZipFile, target: zipfile.ZipFile) -> None:
    for name in source.namelist():
        target.writestr(name, source.read(name))
    target.writestr("archive/data/bomb", bytes(10_000_000), zipfile.ZIP_DEFLATED)


def test_a_compressed_zip_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    refused_cheaply(tmp_path / "a.pt", _zipped(_compress), "found compressed entries in a zip file")


def test_a_zip_whose_entries_overlap_is_refused(tmp_path: Path) -> None:
    content = bytearray(torch_file({"g_ema": rosinality_state(random_generator(TINY))}))
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    refused_cheaply(tmp_path / "a.pt", bytes(content), "entries are larger than itself")


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickled(official_networks(random_generator(TINY))))
    size = path.stat().st_size
    with pytest.raises(CheckpointError, match=f"^{path}: found {size} bytes; allowed are 1000"):
        read_checkpoint(path, maximum_bytes=1000)
    assert read_checkpoint(path, maximum_bytes=size).config == TINY
