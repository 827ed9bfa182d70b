from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impasto.engine.tiling import Tiling

TILINGS = st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(4, 20), st.integers(1, 20)).map(
    lambda drawn: Tiling(drawn[0] * drawn[1], drawn[0] * min(drawn[2], drawn[1] // 2), drawn[0])
)


@settings(max_examples=150)
@given(tiling=TILINGS, multiples=st.integers(2, 300))
def test_tiles_cover_a_side_with_weights_that_add_up_to_one(tiling: Tiling, multiples: int) -> None:
    length = multiples * tiling.multiple
    total = np.zeros(length, np.float64)
    spans = tiling.spans(length)
    for span in spans:
        assert span.stop - span.start == min(tiling.tile, length) == len(span.weights)
        assert span.start % tiling.multiple == 0
        assert (span.weights >= 0).all()
        total[span.start : span.stop] += span.weights
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert spans[0].start == 0
    assert spans[-1].stop == length
    for before, after in itertools.pairwise(spans):
        assert before.stop - after.start >= tiling.overlap


@settings(max_examples=100)
@given(tiling=TILINGS, multiples=st.integers(2, 200))
def test_the_edge_of_a_tile_counts_for_nothing_but_at_the_pictures_own(tiling: Tiling, multiples: int) -> None:
    spans = tiling.spans(multiples * tiling.multiple)
    left_out = tiling.overlap // 4
    for before, after in itertools.pairwise(spans):
        assert not before.weights[len(before.weights) - left_out :].any()
        assert not after.weights[:left_out].any()
    assert spans[0].weights[0] == spans[-1].weights[-1] == 1.0


@pytest.mark.parametrize(("height", "width"), [(64, 64), (13, 64), (1, 1), (200, 70), (65, 1)])
def test_padding_reflects_up_to_the_multiple(height: int, width: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    padded = Tiling(64, 32, 4).padded(picture)
    assert padded.shape == (max(-(-height // 4) * 4, 8), max(-(-width // 4) * 4, 8), 3)
    assert np.array_equal(padded[:height, :width], picture)
    if padded.shape[0] > height > 1:
        assert np.array_equal(padded[height, :width], picture[height - 2])


def test_samples_are_combs_that_together_are_the_picture() -> None:
    tiling = Tiling(128, 32, 4)
    rows, columns = np.mgrid[:300, :200].astype(np.uint16)
    picture = np.stack([rows // 2, rows % 2, columns], axis=-1).astype(np.uint8)
    samples = list(tiling.samples(picture))
    # Bands 0, 3 / 1, 4 / 2 of 64 rows, and 0, 2 / 1, 3 of 64 columns, the last of either narrower.
    assert [sample.shape[:2] for sample in samples] == [
        *((128, 128), (128, 72)),
        *((108, 128), (108, 72)),
        *((64, 128), (64, 72)),
    ]
    taken = samples[0][:, 0, 0].astype(int) * 2 + samples[0][:, 0, 1]
    assert taken.tolist() == [*range(64), *range(192, 256)]
    pixels = np.concatenate([sample.reshape(-1, 3) for sample in samples])
    assert len(np.unique(pixels, axis=0)) == len(pixels) == 300 * 200


@given(tiling=TILINGS, height=st.integers(1, 900), width=st.integers(1, 900))
@settings(max_examples=60)
def test_samples_take_every_pixel_once_in_sizes_that_a_network_takes(tiling: Tiling, height: int, width: int) -> None:
    padded = tiling.padded(np.zeros((height, width, 1), np.uint8))
    samples = list(tiling.samples(padded))
    assert sum(sample.size for sample in samples) == padded.size
    for sample in samples:
        assert all(side % tiling.multiple == 0 for side in sample.shape[:2])
        assert min(sample.shape[:2]) >= 2 * tiling.multiple
        assert max(sample.shape[:2]) <= tiling.tile


@pytest.mark.parametrize("values", [(64, 0, 4), (64, 36, 4), (66, 32, 4), (64, 30, 4), (12, 4, 4), (0, 0, 0)])
def test_a_tiling_that_leaves_gaps_is_refused(values: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Tiling(*values)
