"""Hostile pickles: none of them runs anything, and each ends in one clear error.

Every payload would touch a marker file. The first test shows that they are live: Python's own unpickler runs them.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import importlib
import io
import operator
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from impasto.errors import CheckpointError
from impasto.generators.checkpoints import read_checkpoint
from tests.support.generators import TINY, random_generator
from tests.support.official_pickle import official_networks, pickled
from tests.support.rosinality import rosinality_state, torch_file


class Call:
    """Pickles as a call of a function, which unpickling then makes."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced

    def __call__(self) -> None:
        """Only callables may stand for the function of another call."""


class WithState(Call):
    """Pickles as a call whose result is then given a state."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], state: Any) -> None:
        self.reduced = (function, arguments, state)


class SetOfMine(set[Any]):
    """A set with a method that unpickling would call."""

    marker = ""

    def __init__(self, marker: str = "") -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return SetOfMine, (), {"marker": self.marker}

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["marker"]).touch()


def touch(marker: Path) -> str:
    return f"touch {marker}"


def opening(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def _string(text: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(text)) + text.encode()


REDUCED: dict[str, Callable[[Path], object]] = {
    "os.system": lambda m: Call(os.system, touch(m)),
    "subprocess": lambda m: Call(subprocess.call, ["touch", str(m)]),
    "eval": lambda m: Call(eval, opening(m)),
    "exec": lambda m: Call(exec, opening(m)),
    "open": lambda m: Call(open, str(m), "w"),
    "getattr chain": lambda m: Call(Call(getattr, Call(importlib.import_module, "os"), "system"), touch(m)),
    "reduce chain": lambda m: Call(Call(operator.attrgetter("system"), Call(__import__, "os")), touch(m)),
    "partial": lambda m: Call(Call(functools.partial, os.system, touch(m))),
    "map": lambda m: Call(list, Call(map, os.system, [touch(m)])),
    "set state": lambda m: SetOfMine(str(m)),
    "object array": lambda m: np.array([Call(os.system, touch(m))], dtype=object),
    "in a set": lambda m: Call(set, [Call(os.system, touch(m))]),
    "as a key": lambda m: {Call(os.system, touch(m)): 1},
}

OPCODES: dict[str, Callable[[Path], bytes]] = {
    "protocol 0": lambda m: f"cos\nsystem\n(S'{touch(m)}'\ntR.".encode(),
    "GLOBAL": lambda m: b"\x80\x02cos\nsystem\n" + _string(touch(m)) + b"\x85R.",
    "STACK_GLOBAL": lambda m: b"\x80\x04" + _string("os") + _string("system") + b"\x93" + _string(touch(m)) + b"\x85R.",
    "dotted name": lambda m: (
        b"\x80\x04" + _string("pathlib") + _string("os.system") + b"\x93" + _string(touch(m)) + b"\x85R."
    ),
    "INST": lambda m: b"\x80\x02(" + _string(touch(m)) + b"ios\nsystem\n.",
    "OBJ": lambda m: b"\x80\x02(cos\nsystem\n" + _string(touch(m)) + b"o.",
}

CODES = {pickle.EXT1: "<B", pickle.EXT2: "<H", pickle.EXT4: "<i"}


def refused(path: Path, content: bytes, match: str = "") -> None:
    """Reading the file is one CheckpointError of one line."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.mark.parametrize("name", REDUCED)
def test_the_payloads_are_live(name: str, marker: Path) -> None:
    pickle.loads(pickle.dumps(REDUCED[name](marker)))
    assert marker.exists()


@pytest.mark.parametrize("name", OPCODES)
def test_the_opcode_payloads_are_live(name: str, marker: Path) -> None:
    pickle.loads(OPCODES[name](marker))
    assert marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", REDUCED)
def test_a_payload_alone_is_refused_and_not_run(name: str, protocol: int, marker: Path, tmp_path: Path) -> None:
    refused(tmp_path / "a.pkl", pickle.dumps(REDUCED[name](marker), protocol), "found ")
    assert not marker.exists()


@pytest.mark.parametrize("name", OPCODES)
def test_an_opcode_payload_is_refused_and_not_run(name: str, marker: Path, tmp_path: Path) -> None:
    refused(tmp_path / "a.pkl", OPCODES[name](marker), "found ")
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", REDUCED)
def test_a_payload_inside_a_good_file_is_refused_and_not_run(
    name: str, protocol: int, marker: Path, tmp_path: Path
) -> None:
    networks = official_networks(random_generator(TINY))
    networks["training_set_kwargs"]["path"] = REDUCED[name](marker)
    refused(tmp_path / "a.pkl", pickled(networks, protocol), "found ")
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", REDUCED)
def test_a_payload_inside_a_torch_file_is_refused_and_not_run(
    name: str, zipped: bool, marker: Path, tmp_path: Path
) -> None:
    value = {"g_ema": rosinality_state(random_generator(TINY)), "args": REDUCED[name](marker)}
    refused(tmp_path / "a.pt", torch_file(value, zipped=zipped), "found ")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"posix\.system"),
        (eval, r"builtins\.eval"),
        (exec, r"builtins\.exec"),
        (getattr, r"builtins\.getattr"),
        (importlib.import_module, r"importlib\.import_module"),
        (functools.partial, r"functools\.partial"),
        (copyreg._reconstructor, r"copyreg\._reconstructor"),
        (torch.load, r"torch\.serialization\.load"),
        (dict, r"builtins\.dict"),
        (bytearray, r"builtins\.bytearray"),
    ],
)
def test_the_error_names_what_was_found(function: Callable[..., Any], name: str, tmp_path: Path) -> None:
    refused(
        tmp_path / "a.pkl", pickle.dumps(Call(function)), rf"found the name '{name}', .* it was not imported or run"
    )


def nested_in_storage(content: bytes) -> bytes:
    """A pickle that loads a storage out of bytes, as tensors in official pickles do."""
    return b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(content)) + content + b"\x85R."


@pytest.mark.parametrize("name", REDUCED)
def test_a_pickle_nested_in_a_storage_is_not_run(name: str, marker: Path, tmp_path: Path) -> None:
    payload = REDUCED[name](marker)
    refused(tmp_path / "a.pkl", nested_in_storage(pickle.dumps(payload)), "found ")
    refused(tmp_path / "a.pkl", nested_in_storage(torch_file(payload, zipped=False)), "found ")
    assert not marker.exists()


def test_the_nested_payload_is_live_in_an_unrestricted_load(marker: Path) -> None:
    torch.load(io.BytesIO(torch_file(REDUCED["os.system"](marker), zipped=False)), weights_only=False)
    assert marker.exists()


def test_a_nested_file_that_is_no_storage_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a.pkl", nested_in_storage(torch_file([1.5], zipped=False)), r"found \[1.5\] where a storage")
    nested = nested_in_storage(torch_file(torch.zeros(1).untyped_storage(), zipped=False))
    refused(tmp_path / "a.pkl", nested_in_storage(nested), "found ")


@pytest.mark.parametrize("code", CODES)
def test_extension_codes_are_refused(code: bytes, marker: Path, tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 42)
    try:
        content = b"\x80\x02" + code + struct.pack(CODES[code], 42) + _string(touch(marker)) + b"\x85R."
        pickle.loads(content)
        assert marker.exists()
        marker.unlink()
        refused(tmp_path / "a.pkl", content, "found the pickle opcode EXT")
    finally:
        copyreg.remove_extension("os", "system", 42)
    assert not marker.exists()


@pytest.mark.parametrize("opcodes", [b")\x81.", b")}\x92.", b")R.", b")R}b."])
def test_no_object_of_a_foreign_class_is_made(opcodes: bytes, tmp_path: Path) -> None:
    refused(tmp_path / "a.pkl", b"\x80\x04cthreading\nThread\n" + opcodes, "found the name 'threading.Thread'")
    refused(tmp_path / "a.pkl", b"\x80\x04cnumpy\nndarray\n" + opcodes, "found a wrong call of numpy.ndarray|NEWOBJ_EX")


@pytest.mark.parametrize("content", [b"\x80\x02Pthe id\n.", b"\x80\x02X\x06\x00\x00\x00the idQ."])
def test_persistent_ids_are_refused(content: bytes, tmp_path: Path) -> None:
    refused(tmp_path / "a.pkl", content, "persistent id|PERSID")


def test_scalars_and_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    array = pickle.dumps(np.array([None, 1], dtype=object))
    refused(tmp_path / "a.pkl", array, "found the numpy dtype 'O8'; allowed are plain numbers")
    for code in ("O", "O8", "V8", "S8", "U2", "M8", "f8,f8", "f3"):
        content = (
            b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
            + _string(code)
            + b"\x89\x88\x87RC\x08"
            + bytes(8)
        )
        refused(tmp_path / "a.pkl", content + b"\x86R.", f"found the numpy dtype '{code}'")


def test_a_structured_dtype_is_refused(tmp_path: Path) -> None:
    structured = np.zeros(1, dtype=[("a", "f8"), ("b", "f8")])
    refused(tmp_path / "a.pkl", pickle.dumps(structured[0], 2), "found the numpy dtype 'V16'")
    state = b"(K\x03" + _string("|") + b"N" + b"X\x01\x00\x00\x00a\x85" + b"}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb."
    refused(
        tmp_path / "a.pkl", b"\x80\x02cnumpy\ndtype\n" + _string("f8") + b"\x89\x88\x87R" + state, "structured numpy"
    )


@pytest.mark.parametrize("name", ["collections\nOrderedDict", "numpy\nndarray", "numpy\ndtype", "builtins\nset"])
def test_no_attribute_of_a_class_can_be_set(name: str, tmp_path: Path) -> None:
    module, attribute = name.split("\n")
    target = getattr(importlib.import_module(module), attribute)
    before = set(vars(target))
    content = b"\x80\x02c" + name.encode() + b"\n}" + _string("injected") + b"K\x01sb."
    refused(tmp_path / "a.pkl", content, "found a broken pickle: BUILD at byte .*: cannot set the state of a Global")
    assert set(vars(target)) == before


def test_state_on_a_dict_changes_nothing_of_it(tmp_path: Path) -> None:
    content = b"\x80\x02ccollections\nOrderedDict\n)R}" + _string("items") + b"K\x01sb."
    refused(tmp_path / "a.pkl", content, r"found no generator \(the pickle has nothing\)")


@pytest.mark.parametrize(
    "module", ["dnnlib.tflib.network", "tfutil", "tensorflow.python.framework.ops", "dnnlib.tflib"]
)
def test_a_tensorflow_pickle_is_refused_by_its_name(module: str, tmp_path: Path) -> None:
    content = b"\x80\x04" + _string(module) + _string("Network") + b"\x93)\x81}b."
    refused(tmp_path / "a.pkl", content, rf"found a TensorFlow pickle \('{module}.Network'\); convert it")


def test_builtins_are_untouched(tmp_path: Path) -> None:
    before = dict(vars(builtins))
    refused(tmp_path / "a.pkl", pickle.dumps(WithState(set, ([1],), {"add": 1})), "cannot set the state of a set")
    assert dict(vars(builtins)) == before
