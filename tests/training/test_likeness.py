from __future__ import annotations

import torch
from torch import Tensor

from impasto.training.encoder import Encoder
from impasto.training.likeness import layout_distance, stroke_distance, texture_distance


def stripes(direction: int, phase: int = 0) -> Tensor:
    """A picture [1, 3, 64, 64] of stripes across (2) or down (3), eight pixels from one to the next."""
    wave = torch.sin((torch.arange(64) + phase) * (2 * torch.pi / 8))
    shape = [1, 1, 1, 1]
    shape[direction] = 64
    return wave.reshape(shape).expand(1, 3, 64, 64).contiguous()


def test_equal_pictures_are_at_no_distance() -> None:
    picture = torch.rand(2, 3, 64, 64)
    features = [torch.randn(2, 8, 16, 16), torch.randn(2, 8, 4, 4)]
    assert layout_distance(picture, picture) == 0
    assert stroke_distance(picture, picture) == 0
    assert texture_distance(features, features) == 0


def test_strokes_are_told_apart_by_their_direction_and_not_by_their_place() -> None:
    moved = stroke_distance(stripes(2, phase=4), stripes(2))
    turned = stroke_distance(stripes(3), stripes(2))
    assert moved < 0.05 * turned


def test_layout_is_what_a_region_shows_and_not_its_strokes() -> None:
    left = torch.zeros(1, 3, 64, 64)
    left[..., :32] = 1.0
    assert layout_distance(stripes(2) * 0.1, torch.zeros(1, 3, 64, 64)) < 0.1 * layout_distance(left, left.flip(3))


def test_texture_is_the_mean_and_the_strength_of_features_in_a_region() -> None:
    features = 1.0 + 0.5 * torch.randn(1, 4, 32, 32)
    shuffled = features.roll(1, dims=3)
    assert texture_distance([features * 2], [features]) > 3 * texture_distance([shuffled], [features])


def test_the_encoder_learns_to_tell_pictures_apart() -> None:
    torch.manual_seed(0)
    encoder = Encoder(4, 8)
    pictures = torch.rand(6, 3, 64, 64) * torch.linspace(-1, 1, 6)[:, None, None, None]
    wanted = torch.linspace(-1, 1, 6)
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    for _ in range(60):
        loss = (encoder(pictures)[0][:, 0] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean, log_variance = encoder(pictures)
    assert mean.shape == log_variance.shape == (6, 4)
    assert (mean[:, 0] - wanted).abs().max() < 0.2
