"""Names of classes: from the folders of a data set to the bundle, the list of models, clients and --label."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from impasto.cli import app
from impasto.cli.classes import class_index
from impasto.client import Client
from impasto.errors import BundleError, CheckpointError, InvalidRequest
from impasto.export.bundle import MANIFEST, ZOO, Bundle, list_bundles, open_bundle
from impasto.export.class_names import check_class_names, read_class_names
from impasto.export.publish import export_again, publish_checkpoint
from impasto.export.publish_precision import add_precision
from impasto.generators.checkpoints import read_checkpoint
from impasto.generators.diffusers_folder import INDEX
from impasto.generators.family import save_weights
from impasto.images import read_metadata
from impasto.training.gan import GANPlan
from tests.client.conftest import running
from tests.generators.tiny_pipelines import CLASSES, save_tiny
from tests.support.bundles import write_tiny_bundle
from tests.support.families import TINY_GAN

NAMES = ("côte d'azur", "night", "sea, at dawn")


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    """What a command writes that must succeed."""
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GAN trained on a folder of classes."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for name in reversed(NAMES):
        (folder / "data" / name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / "data" / name / "picture.png")
    lengths = ["--pictures", 8, "--batch", 4, "--z-dim", 8, "--channels", 4, "--resolution", 8, "--crop", 8, 16]
    told = done(
        "train", "gan", "--classes", "--data", folder / "data", "--out", folder / "run", "--threads", 1, *lengths
    )
    return Path(told.strip())


@pytest.fixture(scope="module")
def models(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with the GAN `scenes`, which names its classes, and the StyleGAN2 `tiny`, which does not."""
    models = tmp_path_factory.mktemp("models")
    done("import", weights, "--name", "scenes", "--models", models)
    write_tiny_bundle(models)
    return models


@pytest.fixture(scope="module")
def scenes(models: Path) -> Bundle:
    return open_bundle(models / "scenes" / "1")


@pytest.fixture
def changed(scenes: Bundle, tmp_path: Path) -> Any:
    """A copy of `scenes` whose manifest has other names; without any, it is a bundle from before there were names."""

    def change(names: object = None) -> Path:
        copy = shutil.copytree(scenes.path, tmp_path / "scenes" / "1")
        manifest = json.loads((copy / MANIFEST).read_text())
        del manifest["class_names"]
        if names is not None:
            manifest["class_names"] = names
        (copy / MANIFEST).write_text(json.dumps(manifest))
        return Path(copy)

    return change


def test_a_bundle_has_the_names_of_the_data_sets_folders(scenes: Bundle) -> None:
    assert scenes.manifest.class_names == NAMES
    assert scenes.manifest.num_classes == 3


def test_names_change_no_digest(scenes: Bundle, weights: Path, tmp_path: Path) -> None:
    bare = publish_checkpoint(read_checkpoint(weights), "scenes", tmp_path)
    assert open_bundle(bare).manifest.class_names == ()
    assert open_bundle(bare).manifest.digest == scenes.manifest.digest


def test_a_bundle_from_before_there_were_names_loads_with_its_digest(scenes: Bundle, changed: Any) -> None:
    old = open_bundle(changed()).manifest
    assert old.class_names == ()
    assert old.digest == scenes.manifest.digest


def test_the_bundles_of_the_zoo_have_the_digests_that_their_manifests_say() -> None:
    bundles = [path for versions in list_bundles([ZOO]).values() for path in versions.values()]
    assert bundles
    for path in bundles:
        raw = json.loads((path / MANIFEST).read_text())
        files = {name: entry["sha256"] for name, entry in raw["files"].items()}
        content = {"family": raw["family"], "config": raw["config"], "files": files}
        manifest = open_bundle(path).manifest
        assert manifest.digest == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        assert manifest.class_names == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["night", "sea"], "found 2; allowed is 3, one a class"),
        (["day", "night", " "], "found ' '; allowed is printable text that is not blank"),
        (["day", "night", ""], "found ''; allowed is printable text that is not blank"),
        (["day", "night", "a\nb"], r"found 'a\nb'; allowed is printable text that is not blank"),
        (["day", "night", "\udcff"], r"found '\udcff'; allowed is printable text that is not blank"),
        (["day", "night", "day"], "found 'day'; allowed is a name of one class, not of 2"),
    ],
)
def test_names_that_cannot_be_are_refused_wherever_they_come_from(
    names: list[str], message: str, changed: Any, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_class_names(names, 3)
    assert str(refused.value) == f"class_names: {message}"
    path = changed(names)
    if "\udcff" not in names:  # which no JSON text holds: pydantic refuses the file as a whole
        with pytest.raises(BundleError) as broken:
            open_bundle(path)
        assert str(broken.value) == f"{path / MANIFEST}: class_names: {message}"
    with pytest.raises(InvalidRequest) as unpublished:
        publish_checkpoint(read_checkpoint(weights), "other", tmp_path / "models", class_names=names)
    assert str(unpublished.value) == f"class_names: {message}"
    assert not (tmp_path / "models").exists()


def test_a_model_without_classes_has_no_names(tmp_path: Path) -> None:
    starry = open_bundle(next(iter(list_bundles([ZOO])["starry"].values())))
    copy = shutil.copytree(starry.path, tmp_path / "starry" / "1")
    raw = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(raw | {"class_names": ["night"]}))
    with pytest.raises(BundleError, match="class_names: found 1; allowed is none; this model is not conditional"):
        open_bundle(copy)


def test_a_run_is_refused_for_a_folder_whose_name_no_class_can_have() -> None:
    with pytest.raises(InvalidRequest, match="class_names: found 'night\\\\x07'; allowed is printable text"):
        GANPlan(TINY_GAN, classes=("day", "night\a", "sea"))


def test_names_stand_in_a_weights_file_beside_its_tensors(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 5, dtype=torch.float16)}
    save_weights(tmp_path / "plain", "gan", TINY_GAN, tensors)
    assert read_class_names(tmp_path / "plain") == ()
    for name in ("one", "two"):
        save_weights(tmp_path / name, "gan", TINY_GAN, tensors, class_names=json.dumps(NAMES))
        assert read_class_names(tmp_path / name) == NAMES
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", "pt") as file:
        assert file.metadata()["family"] == "gan"
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {  # noqa: SIM118 (it is no mapping)
            name: tensor.tolist() for name, tensor in tensors.items()
        }


@pytest.mark.parametrize("stated", ["[", '"night"', "[1, 2, 3]", "null", "[" * 100_000])
def test_names_in_a_weights_file_that_are_no_texts_are_refused(stated: str, weights: Path, tmp_path: Path) -> None:
    with safe_open(weights, "pt") as file:
        header = file.metadata() | {"class_names": stated}
    bad = tmp_path / "bad.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(weights), bad, header)
    with pytest.raises(CheckpointError, match=r"class_names: found .*; allowed is a JSON list of texts"):
        read_class_names(bad)
    result = command("import", bad, "--name", "bad", "--models", tmp_path / "models")
    assert (result.exit_code, result.stderr.splitlines()[-1][:8]) == (1, "impasto:")
    assert not (tmp_path / "models").exists()


def test_a_bundle_made_anew_or_in_another_precision_keeps_the_names(scenes: Bundle, tmp_path: Path) -> None:
    assert open_bundle(export_again(scenes, tmp_path)).manifest.class_names == NAMES
    assert open_bundle(add_precision(scenes, tmp_path, "bf16")).manifest.class_names == NAMES


def test_the_list_of_models_tells_the_names(models: Path) -> None:
    rows = {row["name"]: row for row in json.loads(done("models", "--models", models, "--json"))}
    assert (rows["scenes"]["num_classes"], rows["scenes"]["class_names"]) == (3, list(NAMES))
    assert (rows["tiny"]["num_classes"], rows["tiny"]["class_names"]) == (3, [])
    assert (rows["starry"]["num_classes"], rows["starry"]["class_names"]) == (0, [])
    heading, *lines = done("models", "--models", models).splitlines()
    start, end = heading.index("classes"), heading.index("digest")
    cells = {line.split()[0]: line[start:end].strip() for line in lines}
    assert (cells["scenes"], cells["tiny"], cells["starry"]) == ("côte d'azur, night, sea, at dawn", "-", "-")


def test_many_names_are_counted_in_the_list(changed: Any) -> None:
    path = changed(["a" * 30, "b" * 30, "c"])
    heading, *lines = done("models", "--models", path.parent.parent).splitlines()
    (line,) = (line for line in lines if line.startswith("scenes"))
    assert line[heading.index("classes") : heading.index("digest")].strip() == "3 names"


@pytest.mark.parametrize("subcommand", ["generate", "walk", "mixing", "truncation"])
@pytest.mark.parametrize("served", [False, True])
def test_a_label_by_its_name_is_the_one_by_its_index(
    subcommand: str, served: bool, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    name = "scenes"
    if subcommand == "mixing":  # which GANs have no styles for
        shutil.copytree(models / "tiny", tmp_path / "models" / "tiny")
        manifest = tmp_path / "models" / "tiny" / "1" / MANIFEST
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"class_names": NAMES}))
        name, models = "tiny", tmp_path / "models"
    arguments: dict[str, list[object]] = {
        "generate": ["generate", name, "--seed", 3],
        "walk": ["walk", name, "--seeds", "1,2", "--frames", 3],
        "mixing": ["sheet", "mixing", name, "--rows", 1, "--columns", 2, "--layers", "0-1"],
        "truncation": ["sheet", "truncation", name, "--seeds", 1, "--psi", "0.5,1"],
    }
    suffix = ".gif" if subcommand == "walk" else ".png"

    def pictures(where: list[object]) -> list[bytes]:
        files = [tmp_path / f"{number}{suffix}" for number in range(3)]
        for file, label in zip(files, (NAMES[2], "2", NAMES[0]), strict=True):
            done(*arguments[subcommand], "--label", label, "--out", file, *where)
        if subcommand == "generate":
            assert read_metadata(files[0])["parameters"]["class"] == 2
        return [file.read_bytes() for file in files]

    if served:
        with running(models, load=(name,)) as address:
            by_name, by_index, other = pictures(["--server", address])
    else:
        by_name, by_index, other = pictures(["--models", models])
    assert by_name == by_index != other


def test_project_takes_a_name_too(models: Path, weights: Path, tmp_path: Path) -> None:
    picture = weights.parent.parent / "data" / "night" / "picture.png"
    found = []
    for number, label in enumerate(("night", "1", "0")):
        out = tmp_path / str(number)
        done("project", "scenes", picture, "--label", label, "--steps", 3, "--out", out, "--models", models)
        found.append(np.load(out / "z.npy"))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_the_labels_of_a_diffusers_folder_are_names_too(tmp_path: Path) -> None:
    folder = save_tiny("dit", tmp_path / "pipeline")
    index = json.loads((folder / INDEX).read_text())
    labels = {str(number): f"thing {number}, Res {number}" for number in range(CLASSES)}
    (folder / INDEX).write_text(json.dumps(index | {"id2label": labels}))
    done("import", folder, "--name", "things", "--models", tmp_path / "models")
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, label in zip(files, ("thing 207", "207", "thing 208"), strict=True):
        options = ["--label", label, "--seed", 3, "--steps", 2, "--out", file]
        done("generate", "things", *options, "--models", tmp_path / "models")
    by_name, by_index, other = (file.read_bytes() for file in files)
    assert by_name == by_index != other


def test_an_unknown_name_is_one_line_with_the_nearest(models: Path, tmp_path: Path) -> None:
    line = "impasto: label: found 'Nigth'; allowed is an index from 0 to 2, or one of 'night', "
    with running(models, load=("scenes", "tiny")) as address:
        for where in (["--models", models], ["--server", address]):
            result = command("generate", "scenes", "--label", "Nigth", "--out", tmp_path / "out", *where)
            assert result.exit_code == 1
            assert result.stderr.startswith(line)
            assert result.stderr.count("\n") == 1
            nameless = command("generate", "tiny", "--label", "night", "--out", tmp_path / "out", *where)
            expected = "impasto: label: found 'night'; allowed is a class's index; this model has no names of classes\n"
            assert (nameless.exit_code, nameless.stderr) == (1, expected)
            outside = command("generate", "scenes", "--label", "-1", "--out", tmp_path / "out", *where)
            assert outside.stderr == "impasto: label: found -1; allowed is an integer from 0 to 2\n"
    assert not (tmp_path / "out").exists()


def test_of_many_names_the_nearest_are_told() -> None:
    names = [f"{first}{second}" for first in "abcdefghij" for second in ("lake", "forest", "harbour")]
    with pytest.raises(InvalidRequest) as refused:
        class_index("Gforrest", lambda: names)
    told = str(refused.value)
    assert told.startswith(
        "label: found 'Gforrest'; allowed is an index from 0 to 29, or one of the model's 30 names, "
    )
    assert told.partition("nearest are ")[2].split(", ")[0] == "'gforest'"
    assert told.count("forest'") == 5


def test_an_index_asks_for_no_names() -> None:
    def unasked() -> list[str]:
        raise AssertionError

    assert [class_index(label, unasked) for label in (None, "0", "12", "-3")] == [None, 0, 12, -3]
    assert class_index("night", lambda: ["12", "night"]) == 1


def test_clients_are_told_the_names(models: Path) -> None:
    with running(models, load=("scenes",)) as address, Client(address) as client:
        assert (client.model("scenes").num_classes, client.model("scenes").class_names) == (3, NAMES)
        listed = {model.name: model.class_names for model in client.models()}
        assert (listed["scenes"], listed["tiny"]) == (NAMES, ())
