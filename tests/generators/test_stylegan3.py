"""StyleGAN3 against the letter of the paper in float64, and what it was made for: pictures that turn and move."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from impasto.generators import stylegan3_filters
from impasto.generators.checkpoints import read_checkpoint
from impasto.generators.stylegan2 import truncate
from impasto.generators.stylegan3 import StyleGAN3
from impasto.generators.stylegan3_config import StyleGAN3Config
from impasto.generators.stylegan3_frozen import FrozenSynthesis
from impasto.generators.stylegan3_transform import picture_transform
from tests.support.generators import random_stylegan3
from tests.support.official_pickle import official_networks, pickled
from tests.support.textbook_stylegan3 import textbook_mapping, textbook_synthesis

SMALL = {"z_dim": 16, "w_dim": 16, "channel_base": 256, "channel_max": 8}
RADIAL = {"conv_kernel": 1, "radial_filters": True}
CONFIGS = {
    "T": StyleGAN3Config(32, **SMALL),
    "R": StyleGAN3Config(32, **SMALL, **RADIAL),
    "T conditional, clamped": StyleGAN3Config(32, **SMALL, c_dim=5, num_layers=4, conv_clamp=0.7),
    "R conditional, not clamped": StyleGAN3Config(64, **SMALL, **RADIAL, c_dim=5, num_layers=4, conv_clamp=None),
}
SHORT = StyleGAN3Config(32, **SMALL, num_layers=4)
SHORT_R = StyleGAN3Config(32, **SMALL, **RADIAL, num_layers=4)


@pytest.fixture(scope="module", params=[SHORT, SHORT_R], ids=["T", "R"])
def small(request: pytest.FixtureRequest) -> StyleGAN3:
    return random_stylegan3(request.param)


@pytest.fixture(scope="module")
def radial() -> StyleGAN3:
    return random_stylegan3(SHORT_R)


def random_ws(config: StyleGAN3Config, count: int = 2, seed: int = 6) -> Tensor:
    return torch.randn(count, config.num_ws, config.w_dim, generator=torch.Generator().manual_seed(seed))


def transforms(*poses: tuple[float, tuple[float, float]]) -> Tensor:
    return torch.from_numpy(np.stack([picture_transform(*pose) for pose in poses]))


IDENTITY = transforms((0.0, (0.0, 0.0)))
POSES = transforms((25.0, (0.1, -0.2)), (-110.0, (0.0, 0.3)))


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert expected.std() > 0.05
    return float((found.double() - expected.double()).abs().max())


def decibels(found: Tensor, expected: Tensor) -> float:
    """Of the signal itself: its variance over that of the error, which is stricter than a peak of 2."""
    return float(10.0 * torch.log10(expected.var() / (found - expected).square().mean()))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_official_pickle_makes_the_pictures_of_the_formulas(name: str, tmp_path: Path) -> None:
    original = random_stylegan3(CONFIGS[name])
    config = original.config
    (tmp_path / "a.pkl").write_bytes(pickled(official_networks(original)))
    checkpoint = read_checkpoint(tmp_path / "a.pkl")
    assert checkpoint.config == config
    imported = StyleGAN3(checkpoint.config).requires_grad_(False)
    imported.load_state_dict(checkpoint.tensors, strict=True)

    z = torch.randn(2, config.z_dim, generator=torch.Generator().manual_seed(5))
    c = torch.eye(config.c_dim)[:2] if config.c_dim else None
    found = imported(z, c, transform=POSES)

    exact = copy.deepcopy(original).double()
    w = textbook_mapping(exact, z.double(), None if c is None else c.double())
    expected = textbook_synthesis(exact, w[:, None].repeat(1, config.num_ws, 1), POSES.double())
    assert error(found, expected) < 1e-4


def test_the_frozen_form_makes_the_pictures_of_the_formulas(small: StyleGAN3) -> None:
    ws = random_ws(small.config)
    expected = textbook_synthesis(copy.deepcopy(small).double(), ws.double(), POSES.double())
    assert error(FrozenSynthesis(small.synthesis)(ws, POSES), expected) < 1e-4


def test_every_layer_takes_its_own_row_of_ws(small: StyleGAN3) -> None:
    exact, ws = copy.deepcopy(small).double(), random_ws(small.config, 1)
    before = small.synthesis(ws, IDENTITY)
    for row in range(small.config.num_ws):
        changed = ws.clone()
        changed[:, row] += 1.0
        found = small.synthesis(changed, IDENTITY)
        assert error(found, before) > 1e-2, row
        assert error(found, textbook_synthesis(exact, changed.double(), IDENTITY.double())) < 1e-4, row


def test_a_picture_does_not_depend_on_its_batch(small: StyleGAN3) -> None:
    """The paper divides styles by their magnitude over the batch; here it is each sample's own."""
    ws = random_ws(small.config, 3)
    together = small.synthesis(ws, IDENTITY)
    for row in range(3):
        assert error(together[row : row + 1], small.synthesis(ws[row : row + 1], IDENTITY)) < 1e-5


def test_truncation_and_mixing_are_of_rows_of_ws(small: StyleGAN3) -> None:
    z = torch.randn(1, small.config.z_dim, generator=torch.Generator().manual_seed(1))
    w, mean = small.mapping(z), small.mapping.w_avg
    psi = torch.ones(1, small.config.num_ws)
    psi[:, :3] = 0.5
    ws = torch.cat([(mean + 0.5 * (w - mean))[:, None].repeat(1, 3, 1), w[:, None].repeat(1, psi.shape[1] - 3, 1)], 1)
    torch.testing.assert_close(truncate(w, mean, psi), ws)
    assert error(small(z, psi=psi), small.synthesis(ws, IDENTITY)) < 1e-5


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_of_the_canvas_turns_the_picture_of_configuration_r(turns: int, radial: StyleGAN3) -> None:
    ws = random_ws(SHORT_R)
    found = radial.synthesis(ws, transforms((90.0 * turns, (0.0, 0.0))))
    expected = torch.rot90(radial.synthesis(ws, IDENTITY), turns, (2, 3))
    assert decibels(found, expected) > 80.0
    assert decibels(found, torch.rot90(expected, 1, (2, 3))) < 20.0


def test_configuration_t_does_not_turn_its_picture_with_the_canvas() -> None:
    generator, ws = random_stylegan3(SHORT), random_ws(SHORT)
    found = generator.synthesis(ws, transforms((90.0, (0.0, 0.0))))
    assert decibels(found, torch.rot90(generator.synthesis(ws, IDENTITY), 1, (2, 3))) < 20.0


def test_moving_the_canvas_moves_the_picture(small: StyleGAN3) -> None:
    ws, pixels, edge = random_ws(small.config), (5, 3), 6
    x, y = (count / small.config.resolution for count in pixels)
    found = small.synthesis(ws, transforms((0.0, (x, y))))
    expected = torch.roll(small.synthesis(ws, IDENTITY), pixels, (3, 2))
    inside = (..., slice(edge, -edge), slice(edge, -edge))
    assert decibels(found[inside], expected[inside]) > 30.0


def test_a_transform_turns_first_and_then_moves() -> None:
    turn, move = picture_transform(30.0), picture_transform(0.0, (0.25, -0.5))
    np.testing.assert_allclose(picture_transform(30.0, (0.25, -0.5)), turn @ move, atol=1e-6)
    # What lay to the right of the centre is now above it: y points down.
    np.testing.assert_allclose(picture_transform(90.0) @ [0.0, -0.5, 1.0], [0.5, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(move @ [0.25, -0.5, 1.0], [0.0, 0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize(("cutoff", "half_width", "rate"), [(2.0, 6.0, 32.0), (12.7, 19.3, 256.0)])
def test_filters_pass_below_the_cutoff_and_stop_beyond_the_transition(
    cutoff: float, half_width: float, rate: float
) -> None:
    taps = stylegan3_filters.separable(24, cutoff, half_width, rate).double()
    assert float(taps.sum()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(taps, taps.flip(0))
    assert _response(taps, 0.25 * cutoff / rate) > 0.8
    assert _response(taps, 1.05 * (cutoff + half_width) / rate) < 0.03


def test_a_radial_filter_is_the_same_in_all_directions() -> None:
    taps = stylegan3_filters.radial(12, 64.0, 64.0, 256.0).double()
    assert float(taps.sum()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(taps, taps.t())
    assert torch.equal(taps, torch.rot90(taps))
    for frequency in (0.1, 0.2, 0.3):
        straight, diagonal = (_response_2d(taps, frequency, angle) for angle in (0.0, np.pi / 4))
        assert diagonal == pytest.approx(straight, abs=0.006)
    separable = stylegan3_filters.separable(12, 64.0, 64.0, 256.0).double()
    product = torch.outer(separable, separable)
    assert abs(_response_2d(product, 0.3, np.pi / 4) - _response_2d(product, 0.3, 0.0)) > 0.1


def _response(taps: Tensor, frequency: float) -> float:
    """The gain of a filter at a frequency in cycles a sample."""
    places = torch.arange(len(taps)) - (len(taps) - 1) / 2
    return abs(float((taps * torch.cos(2 * np.pi * frequency * places)).sum()))


def _response_2d(taps: Tensor, frequency: float, angle: float) -> float:
    places = (torch.arange(len(taps)) - (len(taps) - 1) / 2) * (2 * np.pi * frequency)
    phases = places[None] * np.cos(angle) + places[:, None] * np.sin(angle)
    return float((taps * torch.cos(phases)).sum())
