"""Pictures in, pictures of the same size out: in one piece, in tiles, in batches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import impasto
from impasto.denoising import Denoising
from impasto.engine.image_to_image import ImageToImageEngine
from impasto.engine.picture import Floats, PictureRequest, StyleMix
from impasto.engine.sizes import MAX_PIXELS
from impasto.engine.tiling import Tiling
from impasto.errors import BackendUnavailable, InvalidRequest
from impasto.export.bundle import Bundle, open_bundle
from impasto.export.publish_family import publish_family
from impasto.generators.residual import Residual, ResidualConfig
from impasto.images.pixels import Bytes
from tests.support.image_to_image import PALETTE, TINY_RESIDUAL, TINY_SPADE, label_map, random_model, scene
from tests.support.pictures import random_pixels

FAMILIES = ("residual", "spade")
NOISY = ResidualConfig(channels=4, blocks=1, adds=True, resizes=True, noise=1)


def opened(bundle: Bundle, **settings: int) -> ImageToImageEngine:
    """An engine with other settings than the manifest's."""
    manifest = bundle.manifest.model_copy(update={"defaults": {**bundle.manifest.defaults, **settings}})
    return ImageToImageEngine(Bundle(bundle.path, manifest), "onnxruntime", "fp32", "cpu", 2)


@pytest.fixture(scope="module")
def engines(image_to_image_models: Path) -> Iterator[dict[tuple[str, int], ImageToImageEngine]]:
    """Of each family, with tiles of 64, 128 and 512 pixels that overlap by half, or by 64 pixels."""
    bundles = {family: open_bundle(image_to_image_models / family / "1") for family in FAMILIES}
    engines = {
        (family, tile): opened(bundle, tile=tile, overlap=min(tile // 2, 64))
        for family, bundle in bundles.items()
        for tile in (64, 128, 512)
    }
    for engine in engines.values():
        engine.warm_up()
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageToImageEngine]:
    """A model like that of the zoo: it adds to a picture, of noise besides."""
    state = random_model("residual", NOISY).state_dict()
    settings = {"tile": 64, "overlap": 32}
    path = publish_family("residual", NOISY, state, "noisy", tmp_path_factory.mktemp("noisy"), defaults=settings)
    engine = opened(open_bundle(path))
    yield engine
    engine.close()


def made(engine: ImageToImageEngine, image: Bytes, **fields: Any) -> Floats:
    request = PictureRequest(**{"seed": 0, "image": image, **fields})
    engine.check(request)
    return engine.run([request])[0].image_float


def source(family: str, width: int, height: int) -> Bytes:
    return scene(width, height) if family == "residual" else label_map(width, height)


def psnr(found: Floats, expected: Floats) -> float:
    return float(10 * np.log10(4 / np.mean((found.astype(np.float64) - expected) ** 2)))


def steps(picture: Floats) -> Floats:
    """The mean step from each column to the next."""
    return np.abs(np.diff(picture, axis=2)).mean(axis=(0, 1))


@pytest.mark.parametrize(("width", "height"), [(64, 48), (61, 47), (5, 3)])
def test_a_picture_is_that_of_the_network_it_was_trained_as(engines: Any, width: int, height: int) -> None:
    image = scene(width, height)
    padded = Tiling(64, 32, 4).padded(image).astype(np.float32) / 127.5 - 1.0
    network: Residual = random_model("residual", TINY_RESIDUAL)
    expected = network(torch.from_numpy(padded).permute(2, 0, 1)[None])[0, :, :height, :width].numpy()
    found = made(engines["residual", 512], image)
    assert found.shape == (3, height, width)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.std() > 0.1


@pytest.mark.parametrize("seed", [3, 4])
def test_a_label_map_is_painted_by_the_network_it_was_trained_as(engines: Any, seed: int) -> None:
    image = label_map(44, 36)
    labels = torch.tensor([[PALETTE.index(tuple(pixel)) for pixel in row] for row in image.tolist()])
    one_hot = torch.nn.functional.one_hot(labels, 5).permute(2, 0, 1)[None].float()
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, 3)).float()
    network = random_model("spade", TINY_SPADE)
    found = made(engines["spade", 512], image, seed=seed)
    np.testing.assert_allclose(found, network(one_hot, z)[0].numpy(), atol=1e-4)
    assert np.array_equal(found, made(engines["spade", 512], image, seed=None, z=z[0].numpy()))
    assert np.array_equal(
        found, made(engines["spade", 512], np.repeat(labels.numpy()[..., None], 3, 2).astype(np.uint8), seed=seed)
    )


@pytest.mark.parametrize(
    ("family", "decibels"),
    # Parts of a label map differ by what they do not see; those of a picture also by statistics that are estimated.
    [("residual", 28.0), ("spade", 100.0)],
)
def test_in_tiles_a_picture_is_what_it_is_in_one_piece(engines: Any, family: str, decibels: float) -> None:
    image = source(family, 400, 300)
    whole, tiled = (made(engines[family, tile], image) for tile in (512, 128))
    assert tiled.shape == whole.shape == (3, 300, 400)
    assert not np.array_equal(tiled, whole)
    assert psnr(tiled, whole) >= decibels


def test_with_the_statistics_of_the_whole_picture_tiles_are_parts_of_it(
    engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tiling, "samples", lambda self, picture: [picture])
    whole, tiled = (made(engines["residual", tile], scene(250, 150)) for tile in (512, 128))
    assert psnr(tiled, whole) >= 100.0


class SideBySide(ImageToImageEngine):
    """Tiles of 128 pixels as they would be by their own statistics, without overlap."""

    def _in_tiles(self, source: Bytes, request: PictureRequest) -> Floats:
        def own(part: Bytes) -> Floats:
            outputs = self._run([self._network.part(part) | self._network.whole(request)])
            picture: Floats = outputs[0]["image_float"][0]
            return picture

        rows = [source[y : y + 128] for y in range(0, len(source), 128)]
        strips = [[own(row[:, x : x + 128]) for x in range(0, row.shape[1], 128)] for row in rows]
        return np.concatenate([np.concatenate(strip, axis=2) for strip in strips], axis=1)


def test_seams_are_invisible(engines: Any, image_to_image_models: Path) -> None:
    """Where tiles meet, the step from one column to the next is what it is in the picture made in one piece."""
    image = scene(400, 300)
    bundle = open_bundle(image_to_image_models / "residual" / "1")
    careless = SideBySide(bundle, "onnxruntime", "fp32", "cpu", 1)
    whole, tiled, seamed = (
        made(engine, image) for engine in (engines["residual", 512], engines["residual", 128], careless)
    )
    careless.close()
    of_seamed, of_tiled = steps(seamed) / steps(whole), steps(tiled) / steps(whole)
    lines = np.arange(127, 399, 128)
    assert of_seamed[lines].min() > 1.2
    assert of_seamed[lines].mean() > 1.5
    between = np.zeros(400, bool)
    for span in Tiling(128, 64, 4).spans(400):
        between[span.start : span.stop] |= (span.weights > 0) & (span.weights < 1)
    assert 0.2 < between.mean() < 0.6
    # Nowhere between tiles is a step larger than in one piece, and none is larger there than within the tiles.
    assert of_tiled[between[1:]].max() < 1.15
    assert of_tiled[between[1:]].max() <= 1.1 * of_tiled[~between[1:]].max()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_the_same_alone_and_among_pictures_of_other_sizes(engines: Any, family: str) -> None:
    engine = engines[family, 64]
    sizes = [(64, 64), (250, 150), (64, 64), (33, 50), (70, 20)]
    requests = [PictureRequest(seed=seed, image=source(family, *size)) for seed, size in enumerate(sizes)]
    alone = [engine.run([request])[0].image_float.tobytes() for request in requests]
    together = engine.run(requests)
    assert [pixels.size for pixels in together] == sizes
    assert [pixels.image_float.tobytes() for pixels in together] == alone
    assert [pixels.image_float.tobytes() for pixels in engine.run(requests[::-1])] == alone[::-1]


def test_a_model_with_noise_makes_of_a_flat_colour_what_the_seed_decides(noisy: ImageToImageEngine) -> None:
    flat = np.full((100, 90, 3), 120, np.uint8)
    pictures = [made(noisy, flat, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[0] - pictures[2]).mean() > 0.05
    assert pictures[0].std(axis=(1, 2)).min() > 0.05
    # Colours above the noise: what it adds is around them.
    assert np.abs(made(noisy, flat + np.uint8(60), seed=1) - pictures[0] - 60 / 127.5).max() < 0.02


def test_the_noise_is_the_bytes_of_the_seeds_stream(noisy: ImageToImageEngine) -> None:
    image = scene(24, 16)
    words = np.random.Philox(key=7).random_raw(24 * 16 // 8).astype("<u8")
    channels = np.concatenate([image, words.view(np.uint8).reshape(16, 24, 1)], axis=2).astype(np.float32) / 127.5 - 1.0
    network: Residual = random_model("residual", NOISY)
    expected = network(torch.from_numpy(channels).permute(2, 0, 1)[None])[0].numpy()
    np.testing.assert_allclose(made(noisy, image, seed=7), expected, atol=1e-4)


def test_the_metadata_tells_the_picture_and_how_it_was_cut(engines: Any) -> None:
    small, large = (
        engines["residual", 64].describe(PictureRequest(seed=7, image=scene(*size))) for size in ((64, 64), (65, 9))
    )
    assert (small["model"], small["seed"]) == ("residual", 7)
    assert small["parameters"].keys() == {"image"}
    assert large["parameters"] == {"image": large["parameters"]["image"], "tile": 64, "overlap": 32}
    assert small["parameters"]["image"] != large["parameters"]["image"]


IMAGE = random_pixels(8, 8)


@pytest.mark.parametrize(
    ("family", "fields", "line"),
    [
        ("residual", {"image": None}, "image: found 'none'; allowed is a picture; this model makes its own of it"),
        ("residual", {"seed": -1}, "seeds: found -1; allowed is an integer from 0"),
        ("residual", {"seed": None, "z": np.zeros(3, np.float32)}, "z: found '3 values'; allowed is nothing"),
        ("spade", {"seed": None, "z": np.zeros(4, np.float32)}, "z: found '4 values'; allowed is 3 values"),
        ("spade", {"image": IMAGE}, "image: found 'the colour ("),
        ("residual", {"ws": np.zeros((2, 2), np.float32)}, "ws: found '4 values'; allowed is nothing"),
        ("residual", {"label": 1}, "label: found 1; allowed is nothing; this model makes its picture of another"),
        ("residual", {"c": np.zeros(2, np.float32)}, "class_vector: found '2 values'; allowed is nothing"),
        ("residual", {"psi": 0.5}, "psi: found 0.5; allowed is nothing"),
        ("residual", {"cutoff": 1}, "psi_cutoff: found 1; allowed is nothing"),
        ("residual", {"noise_mode": "none"}, "noise_mode: found 'none'; allowed is nothing"),
        (
            "residual",
            {"mix": StyleMix(1, 0, 1)},
            "style_mix: found StyleMix(seed=1, first=0, last=1); allowed is nothing",
        ),
        ("residual", {"rotation": 1.0}, "rotation: found 1.0; allowed is nothing"),
        ("residual", {"translation": (0.0, 1.0)}, "translation: found (0.0, 1.0); allowed is nothing"),
        ("residual", {"image_to": IMAGE}, "image_to: found 'one'; allowed is nothing"),
        ("residual", {"image_to": IMAGE, "blend": 0.5}, "image_to: found 'one'; allowed is nothing"),
        ("residual", {"denoising": Denoising(strength=0.5)}, "strength: found 0.5; allowed is nothing"),
        (
            "residual",
            {"image": np.broadcast_to(np.uint8(0), (2**13 + 1, 2**13, 3))},
            f"image: found '8192 × 8193 pixels'; allowed is at most {MAX_PIXELS} pixels",
        ),
    ],
)
def test_what_the_model_cannot_make_is_refused_by_name(
    engines: Any, family: str, fields: dict[str, Any], line: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engines[family, 64].check(PictureRequest(**{"seed": 0, "image": scene(8, 8), **fields}))
    assert str(refused.value).startswith(line)


def test_another_backend_or_precision_is_refused(image_to_image_models: Path) -> None:
    with pytest.raises(BackendUnavailable, match="backend: found 'torch'; image-to-image models run on onnxruntime"):
        impasto.load("residual", models=image_to_image_models, backend="torch")
    with pytest.raises(BackendUnavailable, match="no such graph; remedy: impasto export residual --precision fp16"):
        impasto.load("residual", models=image_to_image_models, precision="fp16")


def test_it_runs_without_torch(image_to_image_models: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy, impasto\n"
        f"generator = impasto.load('residual', models={str(image_to_image_models)!r})\n"
        "(picture,) = generator.generate(image=numpy.zeros((70, 90, 3), numpy.uint8))\n"
        "print(picture.array.shape, picture.seed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(70, 90, 3) 0", done.stderr
