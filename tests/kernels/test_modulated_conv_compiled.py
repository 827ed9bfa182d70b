"""The convolution compiled for each card: nothing spilled, limits of registers and shared memory, tensor cores used."""

from __future__ import annotations

import pytest
import torch

from impasto.kernels import epilogue, modulated_conv
from impasto.kernels.tiles import tile_of
from tests.kernels.modulated_case import EPILOGUE_SIGNATURE, TENSOR_CORES, TRITON_NAMES
from tests.kernels.offline import ARCHITECTURES, SHARED_LIMIT, compile_offline

# (pixels, channels, type, precision, splits, up): (registers, shared memory in bytes), the most on any card.
LIMITS = {
    (65536, 128, torch.float16, "tf32", 1, 1): (176, 83_000),
    (65536, 64, torch.float16, "tf32", 1, 1): (136, 58_000),
    (65536, 64, torch.bfloat16, "tf32", 1, 1): (136, 58_000),
    (16, 512, torch.float16, "tf32", 16, 1): (80, 32_000),
    (4096, 128, torch.float32, "tf32", 1, 1): (176, 58_000),
    (256, 512, torch.float32, "tf32", 4, 1): (88, 29_000),
    (4096, 128, torch.float32, "ieee", 1, 1): (96, 9_000),
    (64, 512, torch.float16, "tf32", 1, 2): (136, 59_000),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", LIMITS, ids=str)
def test_compiles_within_its_limits(case: tuple[int, int, torch.dtype, str, int, int], architecture: int) -> None:
    pixels, channels, dtype, precision, splits, up = case
    tile = tile_of(pixels, channels, channels, dtype, precision)
    name = f"*{TRITON_NAMES[dtype]}"
    integers = dict.fromkeys(("height", "width", "inputs", "padded_inputs", "outputs"), "i32")
    pointers = {"x": name, "weight": name, "styles": "*fp32", "out": name if splits == 1 else "*fp32"}
    constants = {
        "TAPS": 9,
        "UP": up,
        "SPLITS": splits,
        "BLOCK_PIXELS": tile.pixels,
        "BLOCK_OUTPUTS": tile.outputs,
        "BLOCK_INPUTS": tile.inputs,
        "PRECISION": precision,
        "LINEAR": False,
        "CLAMP": 256.0,
    }
    found = compile_offline(
        modulated_conv._convolution_kernel,
        pointers | EPILOGUE_SIGNATURE | integers,
        constants,
        architecture,
        divisible=("noise_stride", "inputs", "padded_inputs", "outputs"),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    registers, shared = LIMITS[case]
    assert found.spilled == 0
    assert found.registers <= registers
    assert found.shared <= min(shared, SHARED_LIMIT[architecture])
    if precision == "ieee":
        assert found.matrix == ()
    else:
        # Sixteen pixels are too few for the wider instructions.
        assert found.matrix == (TENSOR_CORES[architecture] if pixels > 16 else "HMMA",)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sum_of_splits_compiles_within_its_limits(architecture: int) -> None:
    found = compile_offline(
        epilogue._reduction_kernel,
        {"partial": "*fp32", "out": "*fp16", "pixels": "i32", "outputs": "i32"} | EPILOGUE_SIGNATURE,
        {"SPLITS": 16, "BLOCK_PIXELS": 16, "BLOCK_OUTPUTS": 64, "LINEAR": False, "CLAMP": 256.0},
        architecture,
        divisible=("noise_stride", "pixels", "outputs"),
    )
    assert found.spilled == 0
    assert found.registers <= 64
    assert found.shared == 0
