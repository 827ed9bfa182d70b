"""The VQ-VAE: which codes a picture has, and the picture of codes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from impasto.generators.families import family_of
from impasto.generators.vq import VQ
from tests.support.families import TINY_VQ, random_module


@pytest.fixture(scope="module")
def vq() -> VQ:
    module: VQ = random_module("vq", TINY_VQ)
    return module


def test_a_place_has_the_code_of_the_nearest_entry(vq: VQ) -> None:
    latents = torch.randn(2, 4, 8, 8)
    codes = vq.codes(latents)
    assert codes.shape == (2, 8, 8)
    distances = torch.cdist(latents.permute(0, 2, 3, 1).double(), vq.codebook.double())
    assert torch.equal(codes, distances.argmin(dim=-1))
    assert len(codes.unique()) > 8


def test_the_latents_of_codes_have_those_codes(vq: VQ) -> None:
    codes = torch.arange(64).reshape(1, 8, 8) % 16
    latents = vq.embed(codes)
    assert latents.shape == (1, 4, 8, 8)
    assert torch.equal(latents[0, :, 2, 3], vq.codebook[(2 * 8 + 3) % 16])
    assert torch.equal(vq.codes(latents), codes)
    assert torch.equal(vq(latents), vq.decode(latents))


def test_a_picture_is_made_again_from_its_codes_alone(vq: VQ) -> None:
    latents = vq.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    codes = vq.codes(latents)
    assert len(codes.unique()) > 1
    pictures = vq.decode(vq.embed(codes))
    assert pictures.shape == (2, 3, 16, 16)
    assert torch.equal(vq(latents), pictures)
    graphs = family_of("vq").graphs(vq)
    assert torch.equal(graphs["decoder"].module(latents.flatten(1)), pictures)


def test_it_is_compared_where_no_rounding_decides_between_two_codes(vq: VQ) -> None:
    drawn = family_of("vq").graphs(vq)["decoder"].draw(3)["z"].reshape(3, 4, 8, 8)
    distances = torch.cdist(drawn.permute(0, 2, 3, 1).reshape(-1, 4), vq.codebook).sort(dim=-1).values
    assert distances[:, 0].max() < 1e-3
    assert distances[:, 1].min() > 0.05


def test_a_codebook_of_one_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="codes: found 1; allowed is an integer from 2 to 32768"):
        dataclasses.replace(TINY_VQ, codes=1)
