"""Styles of all layers against float64, and compiled for each card."""

from __future__ import annotations

import pytest
import torch

from impasto.kernels import styles
from impasto.kernels.styles import Affine
from tests.kernels.closeness import assert_close
from tests.kernels.offline import ARCHITECTURES, compile_offline


def _layers(features: int, sizes: tuple[int, ...]) -> list[Affine]:
    torch.manual_seed(features)
    return [
        Affine(torch.randn(size, features), torch.randn(size), index=len(sizes) - 1 - index, normalise=index % 2 == 0)
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(("n", "features", "sizes"), [(1, 1, (1,)), (2, 32, (16, 16, 5)), (7, 45, (3, 33, 1, 17))])
def test_styles_are_those_of_float64(n: int, features: int, sizes: tuple[int, ...]) -> None:
    layers = _layers(features, sizes)
    ws = torch.randn(n, len(sizes), features)
    found = styles.styles(ws, styles.pack(layers))
    assert [part.shape for part in found] == [(n, size) for size in sizes]
    for part, layer in zip(found, layers, strict=True):
        assert part.is_contiguous()
        assert_close(part, styles.reference(ws.double(), layer), terms=features)
        assert (part.abs().amax(1) == 1.0).all() or not layer.normalise


def test_row_is_the_same_alone_and_in_a_batch() -> None:
    layers = styles.pack(_layers(20, (5, 12)))
    ws = torch.randn(7, 2, 20)
    together = styles.styles(ws, layers)
    for index, row in enumerate(ws):
        for part, alone in zip(together, styles.styles(row[None], layers), strict=True):
            assert torch.equal(part[index : index + 1], alone)


def test_ws_that_do_not_fit_are_refused() -> None:
    layers = styles.pack(_layers(3, (4,)))
    with pytest.raises(ValueError, match=r"ws: found contiguous torch.float32 \(2, 1, 5\); allowed is .* \(2, 1, 3\)"):
        styles.styles(torch.ones(2, 1, 5), layers)
    with pytest.raises(ValueError, match=r"ws: found 2 dimensions; allowed: 3"):
        styles.styles(torch.ones(2, 3), layers)
    with pytest.raises(ValueError, match=r"ws: found contiguous torch.float16"):
        styles.styles(torch.ones(2, 1, 3).half(), layers)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles_within_its_limits(architecture: int) -> None:
    signature = dict.fromkeys(("ws", "weight", "bias", "out"), "*fp32") | {"rows": "*i32"}
    signature |= dict.fromkeys(("num_ws", "features"), "i32")
    found = compile_offline(
        styles._styles_kernel,
        signature,
        {"BLOCK_ROWS": 512, "BLOCK_FEATURES": styles.BLOCK_FEATURES},
        architecture,
        divisible=("features",),
        num_warps=styles.NUM_WARPS,
    )
    assert found.spilled == 0
    assert found.registers <= 216
    assert found.shared <= 8192
