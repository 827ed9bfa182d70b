from __future__ import annotations

import re
from pathlib import Path

import pytest

from impasto.errors import BundleError, InvalidRequest, ModelNotFound
from impasto.export.bundle import (
    MANIFEST,
    ZOO,
    Manifest,
    find_bundle,
    list_bundles,
    model_directories,
    new_bundle,
    open_bundle,
    write_manifest,
)
from impasto.server.config import ServerConfig


def write(models: Path, name: str = "grey", version: str = "1", payload: bytes = b"weights") -> Path:
    manifest = Manifest(name=name, version=version, family="null", config={}, width=8, height=8)
    with new_bundle(models, name, version) as folder:
        (folder / "weights.safetensors").write_bytes(payload)
        write_manifest(folder, manifest)
    return models / name / version


def test_a_bundle_reads_back_as_written(tmp_path: Path) -> None:
    bundle = open_bundle(write(tmp_path))
    assert bundle.manifest.name == "grey"
    assert bundle.manifest.files["weights.safetensors"].size == 7


def test_nothing_stays_of_a_bundle_that_fails_half_way(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with new_bundle(tmp_path, "grey", "1") as folder:
            (folder / "weights.safetensors").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = (path / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match="there is a bundle already"):
        write(tmp_path, payload=b"other")
    assert (path / MANIFEST).read_bytes() == before


def test_a_changed_file_is_found_by_its_digest(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "weights.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(BundleError, match="sha256 is not the manifest's"):
        open_bundle(path)


def test_a_truncated_file_names_both_sizes(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "weights.safetensors").write_bytes(b"wei")
    with pytest.raises(BundleError, match="found 3 bytes; the manifest says 7"):
        open_bundle(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"weights.safetensors is missing"):
        open_bundle(path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("null", 'null", "extra": "x'), "extra"),
        (('"width": 8', '"width": "wide"'), "width"),
        (('"name": "grey"', '"name": "../grey"'), "name"),
        (('"format": 1', '"format": 2'), "format"),
        (("{", ""), "manifest.json"),
    ],
)
def test_a_broken_manifest_names_the_field(tmp_path: Path, change: tuple[str, str], field: str) -> None:
    path = write(tmp_path)
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace(*change, 1))
    with pytest.raises(BundleError, match=field):
        open_bundle(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/b"])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path, name: str) -> None:
    path = write(tmp_path)
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace("weights.safetensors", name))
    with pytest.raises(BundleError, match="allowed is a plain file name"):
        open_bundle(path)


def test_the_digest_changes_with_the_weights_and_not_with_the_name(tmp_path: Path) -> None:
    first = open_bundle(write(tmp_path, "first")).manifest.digest
    assert open_bundle(write(tmp_path, "second")).manifest.digest == first
    assert open_bundle(write(tmp_path, "third", payload=b"Weights")).manifest.digest != first


def test_versions_are_ordered_as_numbers_and_the_highest_is_found(tmp_path: Path) -> None:
    for version in ("10", "2", "1"):
        write(tmp_path, version=version)
    assert list(list_bundles([tmp_path])["grey"]) == ["1", "2", "10"]
    assert find_bundle("grey", [tmp_path]).name == "10"
    assert find_bundle("grey", [tmp_path], "2").name == "2"


def test_the_first_directory_that_has_a_name_wins_it(tmp_path: Path) -> None:
    write(tmp_path / "mine")
    write(tmp_path / "theirs", version="7")
    assert find_bundle("grey", [tmp_path / "mine", tmp_path / "theirs"]) == tmp_path / "mine" / "grey" / "1"


def test_a_model_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    write(tmp_path, "grey")
    write(tmp_path, "blue")
    with pytest.raises(ModelNotFound, match="found no 'red'; there are: blue, grey"):
        find_bundle("red", [tmp_path])
    with pytest.raises(ModelNotFound, match=r"grey version 3.*grey version 1"):
        find_bundle("grey", [tmp_path], "3")


def test_models_are_looked_for_in_the_option_else_the_environment_else_the_users_folder_and_in_the_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMPASTO_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert model_directories() == [tmp_path / "data" / "impasto" / "models", ZOO]
    (tmp_path / "environment").mkdir()
    (tmp_path / "option").mkdir()
    monkeypatch.setenv("IMPASTO_MODELS", str(tmp_path / "environment"))
    assert model_directories() == [tmp_path / "environment", ZOO]
    assert model_directories(tmp_path / "option") == [tmp_path / "option", ZOO]


def test_a_folder_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nowhere, line = Path("nowhere"), "models: found 'nowhere'; allowed is a folder that is there"
    monkeypatch.setenv("XDG_DATA_HOME", str(nowhere))
    monkeypatch.delenv("IMPASTO_MODELS", raising=False)
    assert model_directories()[-1] == ZOO
    with pytest.raises(InvalidRequest, match=re.escape(line)):
        model_directories(nowhere)
    with pytest.raises(InvalidRequest, match=re.escape(line)):
        ServerConfig(models=(tmp_path, nowhere)).directories  # noqa: B018
    monkeypatch.setenv("IMPASTO_MODELS", str(nowhere))
    with pytest.raises(InvalidRequest, match=re.escape(line)):
        model_directories()
    with pytest.raises(InvalidRequest, match=re.escape(line)):
        ServerConfig().directories  # noqa: B018
