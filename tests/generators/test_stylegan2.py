"""StyleGAN2 against the textbook form in float64, which convolves every sample with weights of its own."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.textbook_stylegan2 import textbook_mapping, textbook_synthesis
from impasto.generators.checkpoints import read_checkpoint
from impasto.generators.stylegan2 import StyleGAN2, split_noise, truncate
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_frozen import FrozenMapping, FrozenSynthesis
from tests.support.generators import random_generator
from tests.support.official_pickle import official_networks, pickled

SMALL = StyleGAN2Config(32, z_dim=16, w_dim=16, mapping_layers=3, channel_base=512, channel_max=32)
CONFIGS = {
    "64": StyleGAN2Config(64, channel_base=2048, channel_max=64, z_dim=64, w_dim=64, conv_clamp=256.0, num_fp16_res=4),
    "64 conditional": StyleGAN2Config(64, channel_base=2048, channel_max=64, z_dim=64, w_dim=32, c_dim=10),
    "256": StyleGAN2Config(256, channel_base=16384, z_dim=64, w_dim=64),
    "256 conditional": StyleGAN2Config(256, channel_base=4096, channel_max=128, z_dim=64, w_dim=64, c_dim=5),
    "1024": StyleGAN2Config(1024, channel_base=4096, channel_max=64, z_dim=64, w_dim=64, conv_clamp=256.0),
    "1024 conditional": StyleGAN2Config(1024, channel_base=2048, channel_max=32, z_dim=32, w_dim=32, c_dim=3),
}


@pytest.fixture(scope="module")
def small() -> StyleGAN2:
    return random_generator(SMALL)


def inputs(config: StyleGAN2Config, count: int = 2) -> tuple[Tensor, Tensor | None]:
    random = torch.Generator().manual_seed(5)
    z = torch.randn(count, config.z_dim, generator=random)
    return z, torch.eye(config.c_dim)[torch.arange(count) % config.c_dim] if config.c_dim else None


def random_ws(config: StyleGAN2Config, count: int = 2, seed: int = 6) -> Tensor:
    return torch.randn(count, config.num_ws, config.w_dim, generator=torch.Generator().manual_seed(seed))


def random_noise(config: StyleGAN2Config, count: int = 2, seed: int = 7) -> Tensor:
    return torch.randn(count, config.noise_size, generator=torch.Generator().manual_seed(seed))


def truth(generator: StyleGAN2, ws: Tensor, noise: Tensor) -> Tensor:
    return textbook_synthesis(copy.deepcopy(generator).double(), ws.double(), noise.double())


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    return float((found.double() - expected.double()).abs().max())


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_official_pickle_makes_the_pictures_of_the_formulas(name: str, tmp_path: Path) -> None:
    original = random_generator(CONFIGS[name])
    networks = official_networks(original)
    del networks["G"]
    (tmp_path / "a.pkl").write_bytes(pickled(networks))
    checkpoint = read_checkpoint(tmp_path / "a.pkl")
    imported = StyleGAN2(checkpoint.config).requires_grad_(False)
    imported.load_state_dict(checkpoint.tensors, strict=True)

    z, c = inputs(original.config, 3 if original.config.resolution == 64 else 1)
    found = imported(z, c)

    exact = copy.deepcopy(original).double()
    w = textbook_mapping(exact, z.double(), None if c is None else c.double())
    ws = w[:, None].repeat(1, original.config.num_ws, 1)
    expected = textbook_synthesis(exact, ws, exact.synthesis.constant_noise()[None])
    assert error(found, expected) < 1e-4


@pytest.mark.parametrize("name", ["64", "64 conditional"])
def test_the_frozen_form_makes_the_pictures_of_the_formulas(name: str) -> None:
    generator = random_generator(CONFIGS[name])
    config = generator.config
    z, c = inputs(config)
    psi = torch.full((2, config.num_ws), 0.7)
    noise = random_noise(config)
    ws = FrozenMapping(generator.mapping)(z, psi, c)
    found = FrozenSynthesis(generator.synthesis)(ws, noise)
    w = textbook_mapping(generator, z, c)
    expected_ws = generator.mapping.w_avg + 0.7 * (w - generator.mapping.w_avg)
    assert error(found, truth(generator, expected_ws[:, None].repeat(1, config.num_ws, 1), noise)) < 1e-4


def test_every_layer_takes_its_own_row_of_ws(small: StyleGAN2) -> None:
    ws, noise = random_ws(SMALL), random_noise(SMALL)
    expected = truth(small, ws, noise)
    assert error(small.synthesis(ws, noise), expected) < 1e-4
    for row in range(SMALL.num_ws):
        changed = ws.clone()
        changed[:, row] += 1.0
        assert error(small.synthesis(changed, noise), expected) > 1e-2, row
        assert error(small.synthesis(changed, noise), truth(small, changed, noise)) < 1e-4


def test_mixing_styles_is_concatenating_rows(small: StyleGAN2) -> None:
    coarse, fine = random_ws(SMALL, seed=1), random_ws(SMALL, seed=2)
    noise = random_noise(SMALL)
    mixed = torch.cat([coarse[:, :4], fine[:, 4:]], dim=1)
    found = small.synthesis(mixed, noise)
    assert error(found, truth(small, mixed, noise)) < 1e-4
    assert error(found, truth(small, coarse, noise)) > 1e-2
    assert error(found, truth(small, fine, noise)) > 1e-2


def test_psi_draws_w_towards_its_mean(small: StyleGAN2) -> None:
    z, _ = inputs(SMALL)
    w, mean = small.mapping(z), small.mapping.w_avg
    for psi in (0.0, 0.5, 1.0, -1.0, 1.5):
        ws = truncate(w, mean, torch.full((2, SMALL.num_ws), psi))
        assert ws.shape == (2, SMALL.num_ws, SMALL.w_dim)
        torch.testing.assert_close(ws, (mean + psi * (w - mean))[:, None].expand_as(ws))


def test_cutoff_leaves_the_rows_behind_it_as_they_are(small: StyleGAN2) -> None:
    z, _ = inputs(SMALL)
    w, mean = small.mapping(z), small.mapping.w_avg
    psi = torch.ones(2, SMALL.num_ws)
    psi[:, :3] = 0.25
    psi[1] = 0.5
    ws = truncate(w, mean, psi)
    torch.testing.assert_close(ws[0, 2], mean + 0.25 * (w[0] - mean))
    torch.testing.assert_close(ws[0, 3], w[0])
    torch.testing.assert_close(ws[1, 7], mean + 0.5 * (w[1] - mean))


def test_a_picture_is_made_of_truncated_ws_and_stored_noise_by_default(small: StyleGAN2) -> None:
    z, _ = inputs(SMALL)
    noise = small.synthesis.constant_noise()[None]
    w = small.mapping(z)
    assert error(small(z), truth(small, w[:, None].repeat(1, SMALL.num_ws, 1), noise)) < 1e-4
    centre = small.mapping.w_avg.repeat(2, SMALL.num_ws, 1)
    assert error(small(z, psi=torch.zeros(2, SMALL.num_ws)), truth(small, centre, noise)) < 1e-4


def test_the_class_vector_changes_w() -> None:
    generator = random_generator(dataclasses.replace(SMALL, c_dim=4))
    z, _ = inputs(SMALL)
    classes = torch.eye(4)
    ws = [generator.mapping(z, classes[[index, index]]) for index in range(4)]
    for index, w in enumerate(ws):
        expected = textbook_mapping(copy.deepcopy(generator).double(), z.double(), classes[[index, index]].double())
        assert error(w, expected) < 1e-5
        assert error(w, ws[index - 1]) > 1e-3


def test_a_conditional_generator_without_a_class_vector_is_an_error() -> None:
    generator = random_generator(dataclasses.replace(SMALL, c_dim=4))
    with pytest.raises(ValueError, match="c: found none; this generator takes a class vector of 4 values"):
        generator(inputs(SMALL)[0])


@pytest.mark.parametrize("mode", ["const", "random", "none"])
def test_noise_is_an_input(mode: str, small: StyleGAN2) -> None:
    modes = {
        "const": small.synthesis.constant_noise()[None],
        "random": random_noise(SMALL),
        "none": torch.zeros(1, SMALL.noise_size),
    }
    ws = random_ws(SMALL)
    found = small.synthesis(ws, modes[mode])
    assert error(found, truth(small, ws, modes[mode])) < 1e-4
    for other in modes.keys() - {mode}:
        assert error(found, truth(small, ws, modes[other])) > 1e-2


def test_the_noise_row_is_the_maps_of_all_layers_one_after_another(small: StyleGAN2) -> None:
    maps = split_noise(random_noise(SMALL), SMALL)
    assert [tuple(plane.shape) for plane in maps] == [(2, 1, r, r) for r in (4, 8, 8, 16, 16, 32, 32)]
    torch.testing.assert_close(torch.cat([plane.flatten(1) for plane in maps], dim=1), random_noise(SMALL))
    stored = split_noise(small.synthesis.constant_noise()[None], SMALL)
    torch.testing.assert_close(stored[1][0, 0], small.synthesis.b8.conv0.noise_const)
    torch.testing.assert_close(stored[6][0, 0], small.synthesis.b32.conv1.noise_const)


def test_a_row_is_the_same_alone_and_in_a_batch(small: StyleGAN2) -> None:
    ws, noise = random_ws(SMALL, 5), random_noise(SMALL, 5)
    together = small.synthesis(ws, noise)
    for row in range(5):
        alone = small.synthesis(ws[row : row + 1], noise[row : row + 1])
        assert error(together[row : row + 1], alone) < 1e-5


def test_both_forms_of_up_sampling_are_equal_in_float64(small: StyleGAN2) -> None:
    exact = copy.deepcopy(small).double()
    ws, noise = random_ws(SMALL).double(), random_noise(SMALL).double()
    transposed = exact.synthesis(ws, noise, up_form="transposed")
    assert error(exact.synthesis(ws, noise, up_form="folded"), transposed) < 1e-12
    assert error(textbook_synthesis(exact, ws, noise), transposed) < 1e-12


def test_an_unknown_form_of_up_sampling_is_an_error(small: StyleGAN2) -> None:
    with pytest.raises(ValueError, match='up: found \'diagonal\'; allowed are None, "transposed" and "folded"'):
        small.synthesis(random_ws(SMALL), random_noise(SMALL), up_form="diagonal")


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_activations_are_clamped_as_the_config_says(clamp: float | None) -> None:
    generator = random_generator(dataclasses.replace(SMALL, conv_clamp=clamp))
    ws, noise = random_ws(SMALL), random_noise(SMALL)
    found = generator.synthesis(ws, noise)
    assert error(found, truth(generator, ws, noise)) < 1e-4
    unclamped = random_generator(SMALL).synthesis(ws, noise)
    assert (error(found, unclamped) > 1e-2) == (clamp is not None)


HALVES = [(torch.float16, 0.02), (torch.bfloat16, 0.2)]


@pytest.mark.parametrize(("half", "tolerance"), HALVES)
def test_half_precision_is_close_to_float32(half: torch.dtype, tolerance: float) -> None:
    generator = random_generator(dataclasses.replace(SMALL, num_fp16_res=3, conv_clamp=256.0))
    ws, noise = random_ws(SMALL), random_noise(SMALL)
    found = generator.synthesis(ws, noise, half=half)
    assert found.dtype == torch.float32
    expected = truth(generator, ws, noise)
    assert 0.0 < error(found, expected) < tolerance * float(expected.abs().max())


@pytest.mark.parametrize(("half", "tolerance"), HALVES)
def test_half_precision_stands_styles_and_weights_a_thousand_times_as_large(
    half: torch.dtype, tolerance: float
) -> None:
    """Demodulation cancels the factor in exact arithmetic; x·s and W·s alone would overflow fp16."""
    generator = random_generator(dataclasses.replace(SMALL, num_fp16_res=3))
    ws, noise = random_ws(SMALL), random_noise(SMALL)
    expected = truth(generator, ws, noise)
    for _, block in generator.synthesis.blocks:
        for name in ("conv0", "conv1"):
            if layer := block._modules.get(name):
                layer.affine.weight.mul_(1000.0)
                layer.affine.bias.mul_(1000.0)
                layer.weight.mul_(1000.0)
    found = generator.synthesis(ws, noise, half=half)
    assert error(found, expected) < tolerance * float(expected.abs().max())


def test_without_half_blocks_half_changes_nothing(small: StyleGAN2) -> None:
    ws, noise = random_ws(SMALL), random_noise(SMALL)
    assert torch.equal(small.synthesis(ws, noise, half=torch.float16), small.synthesis(ws, noise))
