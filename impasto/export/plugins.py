# No `from __future__ import annotations`: TensorRT reads the types of a plugin's arguments as objects.
"""Our kernels as plugins of TensorRT, each compiled into the plan that is built: running one needs no Python.

Importing this registers them with TensorRT. Shapes are symbolic in the batch; all else is known when a plan is built,
since our graphs leave nothing but the batch free, and a kernel's configuration never depends on it.
"""

import functools
from typing import Any

import tensorrt as trt
import tensorrt.plugin as trtp

from impasto.kernels import filtered_lrelu as lrelu
from impasto.kernels import plugin_kernels
from impasto.kernels.ptx import Launch, Ptx, compile_ptx, ptx_architecture

_TYPES = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.BF16: "bf16"}

_target: dict[str, int] = {}
_kernels: dict[str, Ptx] = {}
"""By configuration: layers of one shape share a kernel."""

Kernel = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]


@trtp.register("impasto::modulated_conv", lazy_register=trt.get_plugin_registry() is None)
def _modulated_conv_shapes(
    x: trtp.TensorDesc,
    weight: trtp.TensorDesc,
    styles: trtp.TensorDesc,
    demodulation: trtp.TensorDesc,
    noise: trtp.TensorDesc,
    strength: trtp.TensorDesc,
    bias: trtp.TensorDesc,
    up: int,
    clamp: float,
) -> trtp.TensorDesc:
    batch, height, width, _ = x.shape_expr
    return trtp.from_shape_expr((batch, height * up, width * up, bias.shape_expr[0]), x.dtype)


@trtp.aot_impl("impasto::modulated_conv")
def _modulated_conv(
    x: trtp.TensorDesc,
    weight: trtp.TensorDesc,
    styles: trtp.TensorDesc,
    demodulation: trtp.TensorDesc,
    noise: trtp.TensorDesc,
    strength: trtp.TensorDesc,
    bias: trtp.TensorDesc,
    up: int,
    clamp: float,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Kernel:
    batch, height, width, inputs = x.shape_expr
    features = bias.shape_expr[0]
    pixels = height.constant_value() * width.constant_value()
    shape = (pixels, inputs.constant_value(), features.constant_value())
    launch = plugin_kernels.conv_launch(*shape, up, clamp, _TYPES[x.dtype])
    constants = launch.constants
    tiles = -(-pixels // constants["BLOCK_PIXELS"]) * -(-shape[2] // constants["BLOCK_OUTPUTS"]) * up * up
    area = height * width * (up * up)
    return _kernel(launch, (tiles, 1, batch), area, height, width, inputs, weight.shape_expr[2], features)


@trtp.register("impasto::filtered_lrelu", lazy_register=trt.get_plugin_registry() is None)
def _filtered_lrelu_shapes(
    x: trtp.TensorDesc,
    bias: trtp.TensorDesc,
    up_taps: trtp.TensorDesc,
    down_taps: trtp.TensorDesc,
    up: int,
    down: int,
    left: int,
    right: int,
    top: int,
    bottom: int,
    slope: float,
    gain: float,
    clamp: float,
) -> trtp.TensorDesc:
    batch, channels, height, width = x.shape_expr
    taps = up_taps.shape_expr[0] + down_taps.shape_expr[0]
    out_height = _out_side(height, up, down, top + bottom + 1, taps)
    out_width = _out_side(width, up, down, left + right + 1, taps)
    return trtp.from_shape_expr((batch, channels, out_height, out_width), x.dtype)


@trtp.aot_impl("impasto::filtered_lrelu")
def _filtered_lrelu(
    x: trtp.TensorDesc,
    bias: trtp.TensorDesc,
    up_taps: trtp.TensorDesc,
    down_taps: trtp.TensorDesc,
    up: int,
    down: int,
    left: int,
    right: int,
    top: int,
    bottom: int,
    slope: float,
    gain: float,
    clamp: float,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Kernel:
    batch, channels, height, width = x.shape_expr
    out_height, out_width = outputs[0].shape_expr[2], outputs[0].shape_expr[3]
    taps = (up_taps.shape_expr[0].constant_value(), down_taps.shape_expr[0].constant_value())
    launch = plugin_kernels.lrelu_launch(up, down, *taps, slope, gain, clamp, _TYPES[x.dtype])
    kept = lrelu.tile(up, down, *taps).kept
    columns = trtp.cdiv(out_width, kept)
    tiles = trtp.cdiv(out_height, kept) * columns
    grid = (batch * channels * tiles, 1, 1)
    return _kernel(launch, grid, channels, height, width, out_height, out_width, left, top, tiles, columns)


@trtp.register("impasto::sampler_step", lazy_register=trt.get_plugin_registry() is None)
def _sampler_step_shapes(
    latent: trtp.TensorDesc,
    history: trtp.TensorDesc,
    saved: trtp.TensorDesc,
    rows: trtp.TensorDesc,
    places: trtp.TensorDesc,
    output: trtp.TensorDesc,
) -> tuple[trtp.TensorDesc, trtp.TensorDesc, trtp.TensorDesc, trtp.TensorDesc]:
    return latent.like(), history.like(), saved.like(), output.like()


@trtp.aot_impl("impasto::sampler_step")
def _sampler_step(
    latent: trtp.TensorDesc,
    history: trtp.TensorDesc,
    saved: trtp.TensorDesc,
    rows: trtp.TensorDesc,
    places: trtp.TensorDesc,
    output: trtp.TensorDesc,
    outputs: tuple[trtp.TensorDesc, trtp.TensorDesc, trtp.TensorDesc, trtp.TensorDesc],
    tactic: int,
) -> Kernel:
    batch, *sides = latent.shape_expr
    elements = functools.reduce(lambda product, side: product * side, sides)
    launch = plugin_kernels.step_launch(elements.constant_value(), _TYPES[output.dtype])
    return _kernel(launch, (trtp.cdiv(elements, launch.constants["BLOCK"]), batch, 1), elements)


def compile_for(capability: int) -> None:
    """Compile from now on for GPUs of a compute capability, times ten."""
    _target["architecture"] = ptx_architecture(capability)


def _compiled(launch: Launch) -> Ptx:
    architecture = _target["architecture"]
    key = f"{architecture} {launch}"
    if key not in _kernels:
        _kernels[key] = compile_ptx(launch, architecture)
    return _kernels[key]


def _out_side(side: Any, up: int, down: int, padding: int, taps: Any) -> Any:
    return (side * up + padding - taps) // down + 1


def _kernel(launch: Launch, grid: tuple[Any, Any, Any], *integers: Any) -> Kernel:
    """What TensorRT launches: the kernel, and of its arguments those that are neither inputs nor outputs."""
    ptx = _compiled(launch)
    parameters = trtp.KernelLaunchParams()
    parameters.grid_x, parameters.grid_y, parameters.grid_z = grid
    parameters.block_x, parameters.shared_mem = ptx.threads, ptx.shared
    extra = trtp.SymIntExprs(len(integers))
    for index, value in enumerate(integers):
        extra[index] = trtp.SymInt32(value)
    return ptx.symbol, ptx.text, parameters, extra
