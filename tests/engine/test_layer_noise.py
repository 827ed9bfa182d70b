from __future__ import annotations

import numpy as np

from impasto.engine.layer_noise import Noise
from impasto.kernels import philox


def test_each_row_has_the_noise_of_its_mode_and_seed() -> None:
    stored = np.arange(1, 8, dtype=np.float32)
    rows = Noise(("const", "random", "none", "random"), (5, 5, 5, 2**32 - 1), stored).rows()
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[0], stored)
    np.testing.assert_array_equal(rows[1], philox.normal(5, 7))
    np.testing.assert_array_equal(rows[2], np.zeros(7))
    np.testing.assert_array_equal(rows[3], philox.normal(2**32 - 1, 7))
