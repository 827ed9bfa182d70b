from __future__ import annotations

import numpy as np
import pytest

from impasto.kernels import philox

# The known-answer vectors that come with the paper's own code: counter, key, result.
VECTORS = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_words_are_those_of_the_paper(counter: list[int], key: tuple[int, int], expected: list[int]) -> None:
    found = philox.words(np.array(counter, np.uint64)[:, None], key)
    assert found[:, 0].tolist() == expected


def test_noise_is_standard_normal() -> None:
    values = philox.normal(seed=3, size=400_000).astype(np.float64)
    assert abs(values.mean()) < 0.005
    assert abs(values.std() - 1.0) < 0.005
    assert abs((values**3).mean()) < 0.02
    assert abs((values**4).mean() - 3.0) < 0.05
    assert np.isfinite(values).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 130, 131_073 * 4 + 1])
def test_a_value_depends_on_its_index_and_not_on_how_many_are_drawn(size: int) -> None:
    values = philox.normal(seed=11, size=size)
    assert values.shape == (size,)
    np.testing.assert_array_equal(values, philox.normal(seed=11, size=size + 7)[:size])


def test_seed_step_and_row_each_give_other_noise() -> None:
    rows = [
        philox.normal(1, 64),
        philox.normal(2, 64),
        philox.normal(1 + 2**32, 64),
        philox.normal(1, 64, step=1),
        philox.normal(1, 64, row=1),
    ]
    assert len({row.tobytes() for row in rows}) == len(rows)
