from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from impasto.kernels import philox, philox_normal
from impasto.kernels.jit import jit, tl
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 40

SEEDS = [0, 7, -1, 2**63 - 1, -(2**63), 5 * 2**32 + 3, 11]
STEPS = [0, 1, 2**32 - 1, 3, 2**31, 999, 4]
ROWS = [0, 2, 2**31, 2**32 - 1, 1, 0, 6]

# Seed 7, step 5: among the first four numbers of these rows one has the smallest or the largest u there is.
EXTREME_ROWS = [1861801, 13900530, 18868296, 22394558]


def _streams(count: int = len(SEEDS)) -> tuple[Tensor, Tensor, Tensor]:
    seeds, steps, rows = (torch.tensor(values[:count]) for values in (SEEDS, STEPS, ROWS))
    return seeds, steps, rows


def _words(seed: int, step: int, row: int, size: int) -> NDArray[np.uint32]:
    counter = np.zeros((4, -(-size // 4)), np.uint64)
    counter[0] = np.arange(counter.shape[1])
    counter[1:3] = [[step], [row]]
    return philox.words(counter, (seed & 0xFFFFFFFF, seed % 2**64 >> 32)).T.reshape(-1)[:size].astype(np.uint32)


@pytest.mark.parametrize("size", [1, 6, 1027])
def test_words_equal_those_of_numpy_bit_for_bit(size: int) -> None:
    found = philox_normal.philox_words(*_streams(), size).numpy().view(np.uint32)
    expected = [_words(seed, step, row, size) for seed, step, row in zip(SEEDS, STEPS, ROWS, strict=True)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 4 * philox_normal.BLOCK + 1), (7, 999)])
def test_normals_are_within_a_millionth_of_numpy(count: int, size: int) -> None:
    found = philox_normal.philox_normal(*_streams(count), size)
    assert found.shape == (count, size)
    assert found.dtype == torch.float32
    assert (found.double() - philox_normal.reference(*_streams(count), size)).abs().max() <= 1e-6


def test_the_smallest_and_the_largest_word_give_normals_within_a_millionth() -> None:
    count = len(EXTREME_ROWS)
    streams = torch.full((count,), 7), torch.full((count,), 5), torch.tensor(EXTREME_ROWS)
    radii = philox_normal.reference(*streams, 4).double().reshape(-1, 2).norm(dim=1)
    assert radii.max().item() == pytest.approx((2 * 25 * np.log(2)) ** 0.5)
    assert radii.min().item() == pytest.approx(2**-12)
    found = philox_normal.philox_normal(*streams, 4)
    assert (found.double() - philox_normal.reference(*streams, 4)).abs().max() <= 1e-6


@jit
def _parts_kernel(p_words: tl.tensor, p_out: tl.tensor, BLOCK: tl.constexpr) -> None:
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    words = tl.load(p_words + o).to(tl.uint32, bitcast=True)
    cosine, sine = philox_normal._cosine_and_sine(words)
    tl.store(p_out + 3 * o, philox_normal._radius(words))
    tl.store(p_out + 3 * o + 1, cosine)
    tl.store(p_out + 3 * o + 2, sine)


def test_radius_and_angle_are_exact_to_a_rounding_or_two_over_the_whole_range() -> None:
    ends = np.arange(2**13)
    drawn = np.concatenate([ends, np.arange(2**13, 2**24 - 2**13, 31)[: 2**19 - 2**14], 2**24 - 1 - ends])
    out = torch.empty(len(drawn), 3)
    words = torch.from_numpy((drawn << 8).astype(np.uint32).view(np.int32))
    _parts_kernel[(8,)](words, out, BLOCK=2**16)
    u = (drawn + 0.5) / 2**24
    expected = np.stack([np.sqrt(-2 * np.log(u)), np.cos(2 * np.pi * u), np.sin(2 * np.pi * u)], axis=1)
    radius, cosine, sine = np.abs(out.numpy() - expected).max(axis=0)
    # A card rounds an fma once: 3.6e-7 and 5.3e-8. Interpreters up to Triton 3.8 round it twice.
    assert radius < 5e-7
    assert max(cosine, sine) < 1e-7


def test_a_row_is_the_same_alone_in_a_batch_and_in_smaller_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, steps, rows = _streams()
    batch = philox_normal.philox_normal(seeds, steps, rows, 515)
    monkeypatch.setattr(philox_normal, "BLOCK", 16)
    for i in (0, 3, 6):
        one = slice(i, i + 1)
        alone = philox_normal.philox_normal(seeds[one], steps[one], rows[one], 515)
        assert torch.equal(alone[0], batch[i])
        assert torch.equal(philox_normal.philox_normal(seeds[one], steps[one], rows[one], 37)[0], batch[i, :37])


def test_steps_and_rows_may_be_32_bit_integers() -> None:
    seeds, steps, rows = _streams()
    expected = philox_normal.philox_normal(seeds, steps, rows, 33)
    # Wrapped to negative numbers: the same bits.
    assert torch.equal(philox_normal.philox_normal(seeds, steps.int(), rows.int(), 33), expected)


def test_bad_arguments_are_named() -> None:
    seeds, steps, rows = _streams()
    call = philox_normal.philox_normal
    with pytest.raises(ValueError, match=r"seeds: found torch.int32; allowed: torch.int64"):
        call(seeds.int(), steps, rows, 4)
    with pytest.raises(ValueError, match=r"seeds: found shape \[0\]; allowed: \[N\]"):
        call(seeds[:0], steps, rows, 4)
    with pytest.raises(ValueError, match=r"steps: found torch.float32; allowed: torch.int64, torch.int32"):
        call(seeds, steps.float(), rows, 4)
    with pytest.raises(ValueError, match=r"rows: found shape \[3\]; allowed: \[7\]"):
        call(seeds, steps, rows[:3], 4)
    with pytest.raises(ValueError, match=r"rows: found strides \(2,\); allowed: contiguous"):
        call(seeds, steps, torch.zeros(14, dtype=torch.int64)[::2], 4)
    with pytest.raises(ValueError, match=r"size: found 0; allowed: 1 to "):
        call(seeds, steps, rows, 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills_or_shared_memory(architecture: int) -> None:
    signature = dict.fromkeys(("p_seeds", "p_steps", "p_rows"), "*i64") | {"p_out": "*fp32", "size": "i32"}
    constants = {"WORDS": False, "BLOCK": philox_normal.BLOCK}
    found = compile_offline(
        philox_normal._philox_normal_kernel,
        signature,
        constants,
        architecture,
        divisible=("size",),
        num_warps=philox_normal.NUM_WARPS,
    )
    print(architecture, found)
    assert found.spilled == 0
    assert found.registers <= REGISTERS
    assert found.shared == 0
