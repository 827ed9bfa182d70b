"""Damaged files of every kind: they load, or end in one CheckpointError, and never in anything else."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import Checkpoint, read_checkpoint
from tests.support.generators import TINY, random_generator
from tests.support.official_pickle import official_networks, pickled
from tests.support.rosinality import rosinality_state, torch_file


def _files() -> dict[str, bytes]:
    generator = random_generator(TINY)
    ours = {"family": "stylegan2", "config": json.dumps(dataclasses.asdict(TINY))}
    value = {"g_ema": rosinality_state(generator), "latent_avg": generator.mapping.w_avg}
    return {
        "official, protocol 2": pickled(official_networks(generator), 2),
        "official, protocol 4": pickled(official_networks(generator), 4),
        "rosinality, zip": torch_file(value),
        "rosinality, legacy": torch_file(value, zipped=False),
        "safetensors": save(generator.state_dict(), ours),
    }


FILES = _files()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "a"


def outcome(path: Path, content: bytes) -> Checkpoint | CheckpointError:
    path.write_bytes(content)
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        return error


def is_loaded_or_clearly_refused(found: Checkpoint | CheckpointError, path: Path) -> bool:
    if isinstance(found, Checkpoint):
        return found.tensors.keys() == random_generator(found.config).state_dict().keys()
    message = str(found)
    return message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 500


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_refused(name: str, path: Path) -> None:
    content = FILES[name]
    ends = {*range(40), *range(40, len(content), len(content) // 60), len(content) - 1}
    for end in ends:
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


mutations = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8), st.integers(0, 8)), min_size=1, max_size=6
)


@pytest.mark.parametrize("name", FILES)
@given(mutations=mutations)
@settings(max_examples=60)
def test_random_damage_is_loaded_or_refused(name: str, mutations: list[tuple[float, bytes, int]], path: Path) -> None:
    """Replace, insert or delete some bytes, near the start as often as anywhere."""
    content = bytearray(FILES[name])
    for index, (place, inserted, deleted) in enumerate(mutations):
        start = int(place * (len(content) if index % 2 else min(len(content), 2000)))
        content[start : start + deleted] = inserted
    assert is_loaded_or_clearly_refused(outcome(path, bytes(content)), path)


OPCODES = [
    *(code.encode("latin-1") for code in map(chr, range(256))),
    b"K\x01",
    b"\x8c\x01a",
    b"X\x01\x00\x00\x00b",
    b"C\x01x",
    b"q\x00",
    b"h\x00",
    b"ccollections\nOrderedDict\n",
    b"cdnnlib.util\nEasyDict\n",
    b"cbuiltins\nset\n",
    b"c_codecs\nencode\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy._core.multiarray\n_reconstruct\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
    b"cargparse\nNamespace\n",
]


@given(program=st.lists(st.sampled_from(OPCODES), max_size=40))
@settings(max_examples=500)
def test_random_programs_are_refused(program: list[bytes], path: Path) -> None:
    path.write_bytes(b"\x80\x04" + b"".join(program) + pickle.STOP)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@given(content=st.binary(max_size=200))
@settings(max_examples=200)
def test_random_bytes_are_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
