"""Demodulation factors against float64, and compiled for each card."""

from __future__ import annotations

import pytest
import torch

from impasto.kernels import demodulation
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline


@pytest.mark.parametrize(("n", "inputs", "outputs"), [(1, 1, 1), (2, 128, 16), (7, 131, 33)])
def test_factors_are_those_of_float64(n: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(inputs)
    styles, squares = torch.randn(n, inputs), torch.rand(outputs, inputs)
    expected = demodulation.reference(styles.double(), squares.double())
    found = demodulation.demodulate(styles, squares)
    assert_close(found / expected.float(), torch.ones_like(expected), terms=inputs)


def test_row_is_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(1)
    styles, squares = torch.randn(7, 20), torch.rand(5, 20)
    alone = torch.cat([demodulation.demodulate(row[None], squares) for row in styles])
    assert torch.equal(demodulation.demodulate(styles, squares), alone)


def test_arguments_that_do_not_fit_are_refused() -> None:
    styles, squares = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"styles: found contiguous torch.float32 \(2, 3\); allowed is .* \(2, 5\)"):
        demodulation.demodulate(styles, torch.ones(4, 5))
    with pytest.raises(ValueError, match=r"squares: found non-contiguous torch.float32 \(3, 3\)"):
        demodulation.demodulate(styles, squares[:3].t())
    with pytest.raises(ValueError, match=r"styles: found contiguous torch.float16"):
        demodulation.demodulate(styles.half(), squares)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_within_its_limits(architecture: int) -> None:
    signature = {"styles": "*fp32", "squares": "*fp32", "out": "*fp32", "inputs": "i32", "outputs": "i32"}
    constants = {"EPSILON": 1e-8, "BLOCK_OUTPUTS": 16, "BLOCK_INPUTS": 128}
    found = compile_offline(
        demodulation._demodulation_kernel, signature, constants, architecture, divisible=("inputs", "outputs")
    )
    assert found.spilled == 0
    assert found.registers <= 80
    assert found.shared <= 1024
