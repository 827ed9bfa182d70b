"""What torch.save writes is read as torch itself reads it."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
import torch

from impasto.errors import CheckpointError
from impasto.generators.foreign.plain_values import Budget
from impasto.generators.foreign.torch_archive import StoredTensor, is_legacy, read_legacy, read_zip
from tests.support.rosinality import torch_file

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def load(content: bytes) -> Any:
    budget = Budget(encoded_bytes=len(content))
    return read_legacy(memoryview(content), budget) if is_legacy(content) else read_zip(content, budget)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_every_dtype_come_back(dtype: torch.dtype, zipped: bool) -> None:
    expected = (torch.randn(3, 4) * 10).to(dtype)
    tensor = load(torch_file({"a": expected}, zipped=zipped))["a"]
    assert tensor.dtype == dtype
    assert torch.equal(tensor.read(), expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_views_of_one_storage_come_back(zipped: bool) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    views = [whole, whole[1], whole[2:], whole.t(), whole[1:1], whole[3, 5]]
    content = torch_file(views, zipped=zipped)
    for tensor, expected in zip(load(content), torch.load(io.BytesIO(content)), strict=True):
        assert isinstance(tensor, StoredTensor)
        assert torch.equal(tensor.read(), expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_parameters_and_pickle_protocols_come_back(zipped: bool) -> None:
    for protocol in (2, 3, 4, 5):
        stream = io.BytesIO()
        parameter = torch.nn.Parameter(torch.randn(3))
        torch.save([parameter, True, 1.5], stream, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        tensor, *rest = load(stream.getvalue())
        assert torch.equal(tensor.read(), parameter)
        assert rest == [True, 1.5]


def test_a_tensor_is_a_copy_that_can_be_written() -> None:
    (tensor,) = load(torch_file([torch.zeros(3)]))
    tensor.read().fill_(1.0)
    assert torch.equal(tensor.read(), torch.zeros(3))


def test_a_flipped_bit_in_a_zip_is_noticed() -> None:
    content = bytearray(torch_file([torch.full((64,), 3.5)]))
    content[content.index(b"\x00\x00\x60\x40") + 2] ^= 1
    with pytest.raises(CheckpointError, match="found a damaged zip entry 'archive/data/0': Bad CRC-32"):
        load(bytes(content))[0].read()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_big_endian_file_is_refused(zipped: bool) -> None:
    content = torch_file([torch.zeros(1)], zipped=zipped)
    if zipped:
        edited = content.replace(b"little", b"big\x00\x00\x00")
        with pytest.raises(CheckpointError, match=r"Bad CRC-32|big-endian"):
            load(edited)
    else:
        edited = content.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
        assert edited != content
        with pytest.raises(CheckpointError, match="found a big-endian file"):
            load(edited)


def test_a_zip_that_torch_did_not_write_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model_index.json", "{}")
    with pytest.raises(CheckpointError, match="found a zip file without one data"):
        load(stream.getvalue())
