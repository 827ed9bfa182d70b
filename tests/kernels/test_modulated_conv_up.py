"""Both forms of the up-sampling convolution, with the whole epilogue, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels import epilogue, modulated_conv_up, upfirdn
from impasto.kernels.modulated_conv import pack_weight
from impasto.kernels.tiles import tile_of
from tests.kernels import bfloat16
from tests.kernels.closeness import assert_close
from tests.kernels.modulated_case import DTYPES, EPILOGUE_SIGNATURE, TENSOR_CORES, TRITON_NAMES, Case, make_case
from tests.kernels.offline import ARCHITECTURES, SHARED_LIMIT, compile_offline

FORMS = ("folded", "transposed")


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    bfloat16.repair(monkeypatch)


def _run(case: Case, form: str, *, precision: str = "tf32") -> Tensor:
    weight = pack_weight(case.weight, case.x.dtype, up=form)
    return modulated_conv_up.modulated_conv_up(case.x, weight, case.styles, case.epilogue, precision=precision)


SHAPES = [(1, 1, 1, 1, 1), (7, 3, 1, 3, 5), (2, 40, 66, 5, 4)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "inputs", "outputs", "height", "width"), SHAPES)
def test_folded_is_that_of_float64(
    n: int, inputs: int, outputs: int, height: int, width: int, dtype: torch.dtype
) -> None:
    case = make_case(n, inputs, outputs, height, width, dtype, up=2)
    found = _run(case, "folded")
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, case.expected("folded"), terms=9 * inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "inputs", "outputs", "height", "width"), SHAPES)
def test_transposed_is_that_of_float64_with_each_pass_rounded_once(
    n: int, inputs: int, outputs: int, height: int, width: int, dtype: torch.dtype
) -> None:
    case = make_case(n, inputs, outputs, height, width, dtype, up=2)
    weight = pack_weight(case.weight, dtype, up="transposed")
    sums = modulated_conv_up._transposed(case.x, weight, case.styles, "tf32")
    scaled = case.x.double() * case.styles.double()[:, :, None, None]
    exact = functional.conv_transpose2d(scaled, case.weight.double().transpose(0, 1), stride=2)
    assert_close(sums, exact, terms=4 * inputs)

    blurred = upfirdn.reference(sums.double(), upfirdn.binomial_filter(torch.float64), padding=(1, 1), gain=4.0)
    found = _run(case, "transposed")
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, epilogue.reference(blurred, case.epilogue), terms=16)


@pytest.mark.parametrize("form", FORMS)
def test_float32_is_that_of_float64(form: str) -> None:
    case = make_case(1, 20, 3, 3, 4, torch.float32, up=2)
    for precision in ("tf32", "ieee"):
        assert_close(_run(case, form, precision=precision), case.expected(form), terms=180)


@pytest.mark.parametrize("form", FORMS)
def test_row_is_the_same_alone_and_in_a_batch(form: str) -> None:
    case = make_case(7, 5, 3, 2, 1, torch.float16, up=2)
    alone = torch.cat([_run(case.row(index), form) for index in range(7)])
    assert torch.equal(_run(case, form), alone)


def test_small_layers_are_folded() -> None:
    assert modulated_conv_up.form_of(8, 8) == "folded"
    assert modulated_conv_up.form_of(8, 9) == "transposed"


def test_arguments_that_do_not_fit_are_refused() -> None:
    case = make_case(2, 4, 3, 5, 6, torch.float16, up=2)
    run = modulated_conv_up.modulated_conv_up
    with pytest.raises(
        ValueError, match=r'weight: found one packed for up=None; allowed are "transposed" and "folded"'
    ):
        run(case.x, pack_weight(case.weight, torch.float16), case.styles, case.epilogue)
    for form in FORMS:
        weight = pack_weight(case.weight, torch.float16, up=form)
        with pytest.raises(ValueError, match="x: found strides"):
            run(case.x.contiguous(), weight, case.styles, case.epilogue)
        with pytest.raises(ValueError, match=r"noise: found .* \(2, 5, 6\); allowed .* \(2, 10, 12\)"):
            run(case.x, weight, case.styles, make_case(2, 4, 3, 5, 6, torch.float16).epilogue)


# (pixels, channels, type): (registers, shared memory in bytes), the most on any card.
LIMITS = {(65536, 128, torch.float16): (176, 83_000), (4096, 512, torch.float32): (208, 58_000)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", LIMITS, ids=lambda case: f"{case[1]}-{case[2]}")
def test_products_compile_within_their_limits(case: tuple[int, int, torch.dtype], architecture: int) -> None:
    pixels, channels, dtype = case
    tile = tile_of(pixels, channels, channels, dtype, "tf32")
    name = f"*{TRITON_NAMES[dtype]}"
    pointers = {"x": name, "weight": name, "styles": "*fp32", "out": name}
    found = compile_offline(
        modulated_conv_up._transposed_kernel,
        pointers | dict.fromkeys(("height", "width", "inputs", "padded_inputs", "outputs"), "i32"),
        {
            "BLOCK_PIXELS": tile.pixels,
            "BLOCK_OUTPUTS": tile.outputs,
            "BLOCK_INPUTS": tile.inputs,
            "PRECISION": "tf32",
        },
        architecture,
        divisible=("inputs", "padded_inputs", "outputs"),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    registers, shared = LIMITS[case]
    assert found.spilled == 0
    assert found.registers <= registers
    assert found.shared <= min(shared, SHARED_LIMIT[architecture])
    assert found.matrix == (TENSOR_CORES[architecture],)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blur_compiles_within_its_limits(architecture: int) -> None:
    found = compile_offline(
        modulated_conv_up._blur_kernel,
        {"sums": "*fp16", "out": "*fp16", "height": "i32", "width": "i32", "outputs": "i32"} | EPILOGUE_SIGNATURE,
        {"ROWS": 8, "BLOCK_COLUMNS": 8, "BLOCK_OUTPUTS": 64, "LINEAR": False, "CLAMP": 256.0},
        architecture,
        divisible=("noise_stride", "outputs"),
    )
    assert found.spilled == 0
    assert found.registers <= 96
    assert found.shared == 0
