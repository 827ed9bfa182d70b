"""GEGLU against float64."""

from __future__ import annotations

import pytest
import torch

from impasto.kernels import geglu
from impasto.kernels.arguments import FLOATS
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline

REGISTERS = 40


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(2,), (1, 2), (7, 6), (1, 5, 74), (2, 3, 514), (0, 4)], ids=str)
def test_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(shape[-1])
    x = (torch.randn(shape) * 3.0).to(dtype)
    found = geglu.geglu(x)
    assert found.dtype == dtype
    if x.numel():
        assert_close(found, geglu.reference(x.double()))
    else:
        assert found.shape == (0, 2)


def test_the_second_half_is_the_gate_and_the_gelu_is_exact() -> None:
    found = geglu.geglu(torch.tensor([[10.0, 1.0, -1.0, 2.0], [1.0, 1.0, -100.0, 100.0]]))
    # Φ(-1) = 0.1586553 and Φ(2) = 0.9772499; the tanh form gives 1.954598 for the second.
    expected = torch.tensor([[-1.586553, 1.954500], [0.0, 100.0]])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_row_is_the_same_alone_and_in_a_full_batch() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 2 * 131)
    batch = geglu.geglu(x)
    for row in (0, 3, 6):
        assert torch.equal(batch[row : row + 1], geglu.geglu(x[row : row + 1]))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"x: found shape \[2, 3\]; allowed: an even last axis, 2 or more"):
        geglu.geglu(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"x: found strides \(1, 4\); allowed: contiguous"):
        geglu.geglu(torch.randn(4, 4).t())
    with pytest.raises(ValueError, match=r"x: found torch.int32; allowed: torch.float32, torch.float16, "):
        geglu.geglu(torch.zeros(4, 4, dtype=torch.int32))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_without_spills(architecture: int) -> None:
    signature = {"p_x": "*bf16", "p_y": "*bf16", "rows": "i32", "width": "i32", "columns": "i32"}
    constants = {"BLOCK_R": 8, "BLOCK_D": 128}
    found = compile_offline(geglu._geglu_kernel, signature, constants, architecture, divisible=("width",))
    assert found.spilled == 0
    assert found.registers <= REGISTERS
    assert found.shared == 0
