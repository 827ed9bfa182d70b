"""The kernels as TensorRT's plugins launch them.

A plugin's kernel takes its inputs' pointers, then 32-bit integers, then its outputs' pointers; what is no tensor is a
constant of the kernel. Each function here has that order, and does what the kernel does that it calls. Tiles are small
enough for `impasto.kernels.ptx`.
"""

from __future__ import annotations

import math

from impasto.kernels import filtered_lrelu as lrelu
from impasto.kernels import guidance_rescale, sampler_step
from impasto.kernels.filtered_lrelu import _filtered_lrelu_kernel
from impasto.kernels.jit import jit, tl
from impasto.kernels.modulated_conv import _convolution_kernel
from impasto.kernels.ptx import Launch
from impasto.kernels.sampler_row import COLUMNS
from impasto.kernels.sampler_step import _step_kernel
from impasto.kernels.tiles import Tile, power_of_two


@jit
def modulated_conv(
    x: tl.tensor,  # [N, H, W, I]
    weight: tl.tensor,  # as x [9, UP·UP·O, padded I]
    styles: tl.tensor,  # float32 [N, I]
    demodulation: tl.tensor,  # float32 [N, O]
    noise: tl.tensor,  # float32 [N, UP·H·UP·W]
    strength: tl.tensor,  # float32 [1]
    bias: tl.tensor,  # float32 [O]
    noise_stride: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    inputs: tl.tensor,
    padded_inputs: tl.tensor,
    outputs: tl.tensor,
    out: tl.tensor,  # as x [N, UP·H, UP·W, O]
    UP: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    CLAMP: tl.constexpr,
) -> None:
    _convolution_kernel(
        x,
        weight,
        styles,
        demodulation,
        noise,
        strength,
        bias,
        noise_stride,
        out,
        height,
        width,
        inputs,
        padded_inputs,
        outputs,
        9,
        UP,
        1,
        BLOCK_PIXELS,
        BLOCK_OUTPUTS,
        BLOCK_INPUTS,
        "tf32x3",
        False,
        CLAMP,
    )


@jit
def filtered_lrelu(
    p_x: tl.tensor,  # [N, C, height, width]
    p_bias: tl.tensor,  # as p_x [C]
    p_up: tl.tensor,  # float32 [UP_TAPS]
    p_down: tl.tensor,  # float32 [DOWN_TAPS]
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    left: tl.tensor,
    top: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    p_y: tl.tensor,  # as p_x [N, C, out_height, out_width]
    SLOPE: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    UP_TAPS: tl.constexpr,
    DOWN_TAPS: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
) -> None:
    _filtered_lrelu_kernel(
        p_x,
        p_y,
        p_bias,
        p_up,
        p_down,
        channels,
        height,
        width,
        out_height,
        out_width,
        left,
        top,
        0,
        tiles,
        columns,
        SLOPE,
        GAIN,
        CLAMP,
        UP,
        DOWN,
        UP_TAPS,
        DOWN_TAPS,
        False,
        KEPT,
        BLOCK_S,
        BLOCK_T,
        BLOCK_O,
    )


@jit
def sampler_step_kernel(
    p_latent: tl.tensor,  # float32 [N, E]
    p_history: tl.tensor,  # float32 [N, 3, E]
    p_saved: tl.tensor,  # float32 [N, E]
    p_rows: tl.tensor,  # float32 [N, COLUMNS]
    p_places: tl.tensor,  # int64 [N, 5]
    p_output: tl.tensor,  # [M, E]
    elements: tl.tensor,
    p_next_latent: tl.tensor,  # float32 [N, E]
    p_next_history: tl.tensor,  # float32 [N, 3, E]
    p_next_saved: tl.tensor,  # float32 [N, E]
    p_input: tl.tensor,  # as p_output [M, E]
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # A plan's tensors are written once: the state goes to its new place and is changed there.
    row = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = o < elements
    tl.store(p_next_latent + row * elements + o, tl.load(p_latent + row * elements + o, mask=mask), mask=mask)
    tl.store(p_next_saved + row * elements + o, tl.load(p_saved + row * elements + o, mask=mask), mask=mask)
    for past in tl.static_range(3):
        place = (row * 3 + past) * elements + o
        tl.store(p_next_history + place, tl.load(p_history + place, mask=mask), mask=mask)
    tl.debug_barrier()  # what a thread stored, another of the program may load
    _step_kernel(
        p_next_latent,
        p_next_history,
        p_next_saved,
        p_rows,
        p_places,
        p_output,
        p_input,
        None,
        None,
        elements,
        elements,
        elements,
        COLUMNS,
        CHUNK,
        1,
        BLOCK,
    )


def conv_tile(pixels: int, inputs: int, outputs: int, dtype: str) -> Tile:
    """The tile of a convolution whose samples have so many input pixels; `dtype` is "fp16", "bf16" or "fp32"."""
    wide = dtype == "fp32"
    return Tile(
        16 if pixels <= 16 else 64,
        power_of_two(outputs, 16, 64),
        power_of_two(inputs, 16, 16 if wide else 64),
        4,
        3 if wide else 2,
    )


def conv_launch(pixels: int, inputs: int, outputs: int, up: int, clamp: float, dtype: str) -> Launch:
    """A modulated 3×3 convolution. `clamp` is 0 where there is none."""
    tile = conv_tile(pixels, inputs, outputs, dtype)
    sizes = {
        "noise_stride": pixels * up * up,
        "height": 1,
        "width": 1,
        "inputs": inputs,
        "padded_inputs": 16,
        "outputs": outputs,
    }
    return Launch(
        modulated_conv,
        {"x": f"*{dtype}", "weight": f"*{dtype}"}
        | dict.fromkeys(("styles", "demodulation", "noise", "strength", "bias"), "*fp32")
        | dict.fromkeys(sizes, "i32")
        | {"out": f"*{dtype}"},
        {
            "UP": up,
            "BLOCK_PIXELS": tile.pixels,
            "BLOCK_OUTPUTS": tile.outputs,
            "BLOCK_INPUTS": tile.inputs,
            "CLAMP": clamp or None,
        },
        tuple(name for name, value in sizes.items() if value % 16 == 0),
        tile.warps,
        tile.stages,
    )


def lrelu_launch(
    up: int, down: int, up_taps: int, down_taps: int, slope: float, gain: float, clamp: float, dtype: str
) -> Launch:
    """A filtered leaky ReLU. `clamp` is 0 where there is none."""
    tile = lrelu.tile(up, down, up_taps, down_taps)
    sizes = ("channels", "height", "width", "out_height", "out_width", "left", "top", "tiles", "columns")
    return Launch(
        filtered_lrelu,
        dict.fromkeys(("p_x", "p_bias"), f"*{dtype}")
        | dict.fromkeys(("p_up", "p_down"), "*fp32")
        | dict.fromkeys(sizes, "i32")
        | {"p_y": f"*{dtype}"},
        {
            "SLOPE": slope,
            "GAIN": gain,
            "CLAMP": clamp or math.inf,
            "UP": up,
            "DOWN": down,
            "UP_TAPS": up_taps,
            "DOWN_TAPS": down_taps,
            "KEPT": tile.kept,
            "BLOCK_S": tile.samples,
            "BLOCK_T": lrelu.PIXELS,
            "BLOCK_O": tile.outputs,
        },
        num_warps=tile.warps,
    )


def step_launch(elements: int, dtype: str) -> Launch:
    """A sampler step; `dtype` is the model's. Noise comes from the seeds, and no row may rescale."""
    states = ("p_latent", "p_history", "p_saved", "p_rows")
    return Launch(
        sampler_step_kernel,
        dict.fromkeys(states, "*fp32")
        | {"p_places": "*i64", "p_output": f"*{dtype}", "elements": "i32"}
        | dict.fromkeys(("p_next_latent", "p_next_history", "p_next_saved"), "*fp32")
        | {"p_input": f"*{dtype}"},
        {"COLUMNS": len(COLUMNS), "CHUNK": guidance_rescale.CHUNK, "BLOCK": sampler_step.BLOCK},
        ("elements",) if elements % 16 == 0 else (),
        sampler_step.NUM_WARPS,
        enable_fp_fusion=False,
    )
