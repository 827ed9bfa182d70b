from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import impasto
from impasto.errors import InvalidRequest
from impasto.evaluation.evaluate import METRICS, evaluate
from impasto.evaluation.inception import Features
from impasto.evaluation.pairs import psnr, ssim
from impasto.evaluation.sets import FolderSet, MadeSet, common_size, read_folder, resized
from tests.evaluation.folders import texture, write_textures


class SmallNetwork:
    """Features of a chance convolution; `seen` counts the pictures that went through it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._conv = nn.Conv2d(3, 24, 7, 2).requires_grad_(False)
        self.seen = 0

    def __call__(self, pictures: Tensor) -> Features:
        self.seen += len(pictures)
        pool = self._conv(pictures.float() / 255.0).relu().mean(dim=(2, 3))
        return Features(pool, 20.0 * pool)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[FolderSet, FolderSet, FolderSet]:
    """Two halves of one kind of texture, and another kind."""
    folder = tmp_path_factory.mktemp("sets")
    return (
        read_folder(write_textures(folder / "one", range(24), 6.0)),
        read_folder(write_textures(folder / "other", range(24, 48), 6.0)),
        read_folder(write_textures(folder / "different", range(100, 124), 15.0)),
    )


def test_on_two_halves_of_one_folder_every_distance_is_lower_than_on_two_folders(
    halves: tuple[FolderSet, FolderSet, FolderSet],
) -> None:
    one, other, different = halves
    network = SmallNetwork()
    near, far = (evaluate(one, each, ["swd", "fid", "kid", "is"], network).values for each in (other, different))
    assert network.seen == 4 * 24
    for distance in ("swd", "fid", "kid"):
        assert near[distance] < 0.7 * far[distance]
    assert near["is-a"] == far["is-a"] >= 1.0


def test_the_distances_are_what_the_network_makes_of_them(halves: tuple[FolderSet, FolderSet, FolderSet]) -> None:
    one, other, _ = halves
    usual = evaluate(one, other, ["fid"], SmallNetwork()).values["fid"]
    network = SmallNetwork()

    def louder(pictures: Tensor) -> Features:
        found = network(pictures)
        return Features(3.0 * found.pool, found.logits)

    assert evaluate(one, other, ["fid"], louder).values["fid"] == pytest.approx(9.0 * usual, rel=1e-6)


def test_pairs_are_of_the_same_name_whatever_the_suffix_and_their_metrics_are_means(tmp_path: Path) -> None:
    write_textures(tmp_path / "a", range(3), 6.0)
    (tmp_path / "b").mkdir()
    darker = [(0.8 * texture(seed, 6.0)).astype(np.uint8) for seed in range(3)]
    Image.fromarray(darker[1]).save(tmp_path / "b" / "001.bmp")
    Image.fromarray(darker[2]).save(tmp_path / "b" / "002.tif")
    Image.fromarray(darker[0]).save(tmp_path / "b" / "unpaired.png")
    report = evaluate(read_folder(tmp_path / "a"), read_folder(tmp_path / "b"), ["psnr", "ssim"])
    assert (report.pictures, report.pairs) == ((3, 3), 2)
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        wanted = np.mean([measure(texture(seed, 6.0), darker[seed]) for seed in (1, 2)])
        assert report.values[name] == pytest.approx(wanted, rel=1e-9)


def test_unless_named_what_cannot_be_had_is_left_out_with_what_it_lacks(tmp_path: Path) -> None:
    a, b = (read_folder(write_textures(tmp_path / name, range(2), 6.0)) for name in ("a", "b"))
    read: list[tuple[int, int]] = []
    report = evaluate(a, b, on_read=lambda done, total: read.append((done, total)))
    assert read == [(done, 6) for done in range(1, 7)]
    assert report.values == {"psnr": float("inf"), "ssim": pytest.approx(1.0), "swd": 0.0}
    assert {*report.values, *report.lacking} == set(METRICS)
    assert report.lacking["ms-ssim"] == "sides of 176 pixels or more; 000 is 48×48"
    for name in ("fid", "kid", "is"):
        assert "github.com/mseitzer/pytorch-fid" in report.lacking[name]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("ms-ssim", "ms-ssim lacks sides of 176 pixels or more"),
        ("fid", "fid lacks the weights of Inception v3 .--inception FILE.: pt_inception"),
        ("lpips", "metrics: found 'lpips'; allowed is of psnr, ssim, ms-ssim, swd, fid, kid, is"),
    ],
)
def test_a_metric_that_is_named_and_cannot_be_had_is_an_error(metric: str, message: str, tmp_path: Path) -> None:
    a = read_folder(write_textures(tmp_path / "a", range(2), 6.0))
    with pytest.raises(InvalidRequest, match=message):
        evaluate(a, a, [metric])


def test_pairs_of_other_sizes_and_sets_of_one_picture_are_refused(tmp_path: Path) -> None:
    a = read_folder(write_textures(tmp_path / "a", range(1), 6.0, 48))
    b = read_folder(write_textures(tmp_path / "b", range(1), 6.0, 40))
    with pytest.raises(InvalidRequest, match="psnr lacks equal sizes; 000 is 48×48 and 40×40"):
        evaluate(a, b, ["psnr"])
    with pytest.raises(InvalidRequest, match="kid lacks two pictures or more in each set"):
        evaluate(a, b, ["kid"], SmallNetwork())
    assert evaluate(a, b, ["swd"]).values["swd"] > 0.0


def test_sets_of_several_sizes_are_brought_to_the_square_of_the_shortest_side(tmp_path: Path) -> None:
    a = read_folder(write_textures(tmp_path / "a", range(1), 6.0, 48))
    Image.fromarray(texture(1, 6.0, 64)[:40]).save(tmp_path / "a" / "wide.png")
    both = read_folder(tmp_path / "a")
    assert common_size(a, a) == (48, 48)
    assert common_size(a, both) == (40, 40)
    assert resized(texture(1, 6.0, 64), (40, 40)).shape == (40, 40, 3)
    assert np.array_equal(resized(texture(1, 6.0, 40), (40, 40)), texture(1, 6.0, 40))


def test_files_that_are_no_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_textures(tmp_path / "a", range(2), 6.0)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "notes.txt").write_text("nothing")
    found = read_folder(folder)
    assert list(found.names) == ["000", "001"]
    assert len(found.left_out) == 1
    assert "broken.png" in found.left_out[0]
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidRequest, match=r"folder: found .*none"):
        read_folder(tmp_path / "none")
    (folder / "001.bmp").write_bytes((folder / "001.png").read_bytes())
    with pytest.raises(InvalidRequest, match="folder: found 'two pictures named 001'; allowed is one of each name in "):
        read_folder(folder)


def test_a_model_is_a_set_of_the_pictures_of_its_seeds() -> None:
    with impasto.load("starry", threads=1) as generator:
        made = MadeSet(generator, range(3, 6), psi=0.5)
        wanted = generator.generate(seeds=range(3, 6), psi=0.5)
        assert [picture.tobytes() for picture in made] == [picture.array.tobytes() for picture in wanted]
        assert made.sizes == ((128, 128),) * 3
        report = evaluate(made, made)
    assert (report.pairs, report.values) == (0, {"swd": 0.0})
