"""The modulated convolutions of StyleGAN2's generators (config-f, up to 1024×1024), and what goes with them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from impasto.kernels import modulated_conv, modulated_conv_up, styles, tiles
from impasto.kernels.packing.spec import FLOATS, Constant, Spec, types

CLAMP = 256.0
"""What the official generators bound activations by."""
KINDS = {
    "fp16": (torch.float16, "tf32"),
    "bf16": (torch.bfloat16, "tf32"),
    "tf32": (torch.float32, "tf32"),
    "fp32": (torch.float32, "ieee"),
}
"""The type of the features, and how float32 is multiplied."""
EPILOGUE = types(_fp32="demodulation noise strength bias", i32="noise_stride")
NO_EPILOGUE: dict[str, Constant] = dict.fromkeys(("demodulation", "noise", "strength", "bias"))


def _styles() -> Iterator[Spec]:
    for inputs in (64, 128, 256, 512):
        yield Spec(
            "styles",
            f"styles_i{inputs}",
            f"styles of all layers, of up to {inputs} inputs each",
            "styles._styles_kernel",
            types(_fp32="ws weight bias out", _i32="rows", i32="num_ws features"),
            {"BLOCK_ROWS": inputs, "BLOCK_FEATURES": styles.BLOCK_FEATURES},
            ("layers", "n"),
            ("features",),
            styles.NUM_WARPS,
        )


def _demodulation() -> Spec:
    return Spec(
        "demodulation",
        "demodulation",
        "factors of a layer from its styles",
        "demodulation._demodulation_kernel",
        types(_fp32="styles squares out", i32="inputs outputs"),
        {"EPSILON": modulated_conv.EPSILON, "BLOCK_OUTPUTS": 16, "BLOCK_INPUTS": 128},
        ("ceil_div(outputs, 16)", "n"),
        ("inputs", "outputs"),
    )


def _channels(resolution: int) -> int:
    """Of a StyleGAN2 layer at a resolution, config-f."""
    return min(32768 // resolution, 512)


def _convolutions(kernel: str, up: int, resolutions: tuple[int, ...]) -> Iterator[Spec]:
    """The 3×3 convolutions of layers with inputs of these resolutions, and the sums of those that are split."""
    uses: dict[tuple[str, tiles.Tile, int], list[int]] = {}
    for kind, (dtype, precision) in KINDS.items():
        for side in resolutions:
            inputs, outputs = _channels(side), _channels(side * up)
            tile = tiles.tile_of(side * side, inputs, outputs, dtype, precision)
            programs = -(-side * side // tile.pixels) * -(-outputs // tile.outputs) * up * up
            splits = tiles.splits_of(side * side, programs, 9 * inputs // tile.inputs)
            uses.setdefault((kind, tile, splits), []).append(side)
    for (kind, tile, splits), sides in uses.items():
        x = "fp32" if kind == "tf32" else kind
        whole = splits == 1
        pixel_tiles = f"ceil_div(height * width, {tile.pixels})"
        constants: dict[str, Constant] = {
            "TAPS": 9,
            "UP": up,
            "SPLITS": splits,
            "BLOCK_PIXELS": tile.pixels,
            "BLOCK_OUTPUTS": tile.outputs,
            "BLOCK_INPUTS": tile.inputs,
            "PRECISION": KINDS[kind][1],
            "LINEAR": False,
            "CLAMP": CLAMP if whole else None,
        }
        yield Spec(
            kernel,
            f"{kernel}_{kind}_p{tile.pixels}_o{tile.outputs}_i{tile.inputs}_s{splits}",
            f"3×3 in {kind}{', up by two folded' if up == 2 else ''}{'' if whole else f', {splits} partial sums'}, "
            f"StyleGAN2's {', '.join(f'{side}×{side}' for side in sides)}",
            "modulated_conv._convolution_kernel",
            dict.fromkeys(("x", "weight"), f"*{x}")
            | {"styles": "*fp32", "out": f"*{x}" if whole else "*fp32"}
            | (EPILOGUE if whole else {"noise_stride": "i32"})
            | types(i32="height width inputs padded_inputs outputs"),
            constants if whole else constants | NO_EPILOGUE,
            (f"{pixel_tiles} * ceil_div(outputs, {tile.outputs})" + " * 4" * (up == 2), str(splits), "n"),
            ("noise_stride", "inputs", "outputs"),
            tile.warps,
            tile.stages,
            multiples={"padded_inputs": tile.inputs},
        )
    for x, splits in sorted({("fp32" if kind == "tf32" else kind, splits) for kind, _, splits in uses if splits > 1}):
        yield Spec(
            kernel,
            f"{kernel}_sums_{x}_s{splits}",
            f"adds {splits} partial sums, output in {x}",
            "epilogue._reduction_kernel",
            {"partial": "*fp32", "out": f"*{x}"} | EPILOGUE | types(i32="pixels outputs"),
            {"SPLITS": splits, "BLOCK_PIXELS": 16, "BLOCK_OUTPUTS": 64, "LINEAR": False, "CLAMP": CLAMP},
            ("ceil_div(pixels, 16) * ceil_div(outputs, 64)", "n"),
            ("noise_stride", "pixels", "outputs"),
        )


def _modulated_conv() -> Iterator[Spec]:
    yield from _convolutions("modulated_conv", 1, (4, 8, 16, 32, 64, 128, 256, 512, 1024))


def _modulated_conv_up() -> Iterator[Spec]:
    sides = (4, 8, 16, 32, 64, 128, 256, 512)
    folded = tuple(side for side in sides if modulated_conv_up.form_of(side, side) == "folded")
    yield from _convolutions("modulated_conv_up", 2, folded)
    uses: dict[tuple[str, tiles.Tile], list[int]] = {}
    for kind, (dtype, precision) in KINDS.items():
        for side in sides[len(folded) :]:
            pixels, inputs, outputs = (side + 1) ** 2, _channels(side), _channels(2 * side)
            tile = tiles.tile_of(pixels, inputs, outputs, dtype, precision)
            uses.setdefault((kind, tile), []).append(side)
    for (kind, tile), found in uses.items():
        x = "fp32" if kind == "tf32" else kind
        pixel_tiles = f"ceil_div((height + 1) * (width + 1), {tile.pixels})"
        yield Spec(
            "modulated_conv_up",
            f"modulated_conv_up_transposed_{kind}_p{tile.pixels}_o{tile.outputs}_i{tile.inputs}",
            f"transposed 3×3 in {kind}, StyleGAN2's {', '.join(f'{side}×{side}' for side in found)}",
            "modulated_conv_up._transposed_kernel",
            dict.fromkeys(("x", "weight", "out"), f"*{x}")
            | types(_fp32="styles", i32="height width inputs padded_inputs outputs"),
            {
                "BLOCK_PIXELS": tile.pixels,
                "BLOCK_OUTPUTS": tile.outputs,
                "BLOCK_INPUTS": tile.inputs,
                "PRECISION": KINDS[kind][1],
            },
            (f"4 * {pixel_tiles} * ceil_div(outputs, {tile.outputs})", "n"),
            ("inputs", "outputs"),
            tile.warps,
            tile.stages,
            multiples={"padded_inputs": tile.inputs},
        )
    for x in FLOATS:
        for outputs in (32, 64):
            columns = 512 // outputs
            yield Spec(
                "modulated_conv_up",
                f"modulated_conv_up_blur_{x}_o{outputs}",
                f"blur and epilogue after the transposed form, {x}, {outputs} outputs{' or more' * (outputs == 64)}",
                "modulated_conv_up._blur_kernel",
                dict.fromkeys(("sums", "out"), f"*{x}") | EPILOGUE | types(i32="height width outputs"),
                {"ROWS": 8, "BLOCK_COLUMNS": columns, "BLOCK_OUTPUTS": outputs, "LINEAR": False, "CLAMP": CLAMP},
                (f"ceil_div(height, 8) * ceil_div(width, {columns}) * ceil_div(outputs, {outputs})", "n"),
                ("noise_stride", "outputs"),
            )


def convolutions() -> Iterator[Spec]:
    """All of them."""
    yield from _styles()
    yield _demodulation()
    yield from _modulated_conv()
    yield from _modulated_conv_up()
