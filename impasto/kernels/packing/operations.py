"""Every kernel but the convolutions, with the types, constants and grid that its launcher uses.

Tiles come from the functions that the launchers ask, so that a packed kernel has the bits of the launched one. What is
listed as a multiple of 16 is one in ordinary models.
"""

from __future__ import annotations

from collections.abc import Iterator

from impasto.kernels import (
    ada_norm,
    bias_act,
    filtered_lrelu,
    geglu,
    group_norm_silu,
    guidance_rescale,
    philox_normal,
    sampler_step,
    to_image,
    to_rgb,
    upfirdn,
)
from impasto.kernels.packing.spec import FLOATS, Constant, Spec, types
from impasto.kernels.sampler_row import COLUMNS

LARGE = 1024 * 1024
"""Pixels of a picture that is larger than any tile."""


def _to_image() -> Iterator[Spec]:
    for x in FLOATS:
        for out in ("u8", "u16", "fp16"):
            for channels, layout in ((1, "channels-last pictures, C times the pixels"), (3, "3 planes")):
                block = to_image.block(channels)
                yield Spec(
                    "to_image",
                    f"to_image_{x}_{out}_c{channels}",
                    f"{x} to {out}, {layout}",
                    "to_image._to_image_kernel",
                    {"p_x": f"*{x}", "p_out": f"*{out}"}
                    | types(_i32="p_flags", i32="pixels", fp32="scale offset low high"),
                    {"CHANNELS": channels, "BLOCK": block},
                    (f"n * ceil_div(pixels, {block})",),
                    ("pixels",),
                    to_image.NUM_WARPS,
                )


def _bias_act() -> Iterator[Spec]:
    for x in FLOATS:
        for last, widths in ((True, (32, 64, 128, 256, 512)), (False, (16, 64, 256, 1024, bias_act.BLOCK))):
            for columns in widths:
                rows = bias_act.BLOCK // columns
                layout = "channels-last" if last else "planes"
                yield Spec(
                    "bias_act",
                    f"bias_act_{x}_{'last' if last else 'planes'}_{columns}",
                    f"{x}, {layout}, {columns} columns or the nearest number of them",
                    "bias_act._bias_act_kernel",
                    {"p_x": f"*{x}", "p_bias": "*fp32", "p_out": f"*{x}"}
                    | types(i32="rows columns channels", fp32="negative positive clamp"),
                    {"BIAS": True, "CHANNELS_LAST": last, "ROWS": rows, "COLUMNS": columns},
                    (f"ceil_div(rows, {rows}) * ceil_div(columns, {columns})",),
                    ("columns",),
                    bias_act.NUM_WARPS,
                )


def _philox_normal() -> Iterator[Spec]:
    for name, out, words in (("philox_normal", "*fp32", False), ("philox_words", "*i32", True)):
        yield Spec(
            "philox_normal",
            name,
            "random words" if words else "standard normal noise",
            "philox_normal._philox_normal_kernel",
            types(_i64="p_seeds p_steps p_rows") | {"p_out": out, "size": "i32"},
            {"WORDS": words, "BLOCK": philox_normal.BLOCK},
            (f"n * ceil_div(size, {4 * philox_normal.BLOCK})",),
            ("size",),
            philox_normal.NUM_WARPS,
        )


def _guidance_rescale() -> Iterator[Spec]:
    chunk = guidance_rescale.CHUNK
    for x in FLOATS:
        yield Spec(
            "guidance_rescale",
            f"guidance_statistics_{x}",
            f"statistics for a sampler step that rescales, model in {x}",
            "guidance_rescale._statistics_kernel",
            types(_fp32="p_rows p_statistics", _i64="p_places", i32="elements output_stride") | {"p_output": f"*{x}"},
            {"COLUMNS": len(COLUMNS), "CHUNK": chunk},
            (f"ceil_div(elements, {chunk})", "n"),
            ("elements", "output_stride"),
            guidance_rescale.NUM_WARPS,
            enable_fp_fusion=False,
        )


def _sampler_step() -> Iterator[Spec]:
    tensors = types(_fp32="p_latent p_history p_saved p_rows", _i64="p_places")
    sizes = types(i32="elements output_stride input_stride")
    constants = {"COLUMNS": len(COLUMNS), "CHUNK": guidance_rescale.CHUNK, "BLOCK": sampler_step.BLOCK}
    for x in FLOATS:
        for partials in (0, 4, 16, 64, 256):
            reach = f"rescales rows of up to {partials * guidance_rescale.CHUNK} elements"
            statistics = {"p_statistics": "*fp32"} if partials else {}
            without: dict[str, Constant] = {"p_noise": None} if partials else {"p_noise": None, "p_statistics": None}
            yield Spec(
                "sampler_step",
                f"sampler_step_{x}_rescale{partials}" if partials else f"sampler_step_{x}",
                f"model in {x}, noise from seeds, {reach if partials else 'no row rescales'}",
                "sampler_step._step_kernel",
                tensors | {"p_output": f"*{x}", "p_input": f"*{x}"} | statistics | sizes,
                constants | {"PARTIALS": partials or 1} | without,
                (f"ceil_div(elements, {sampler_step.BLOCK})", "n"),
                tuple(sizes),
                sampler_step.NUM_WARPS,
                enable_fp_fusion=False,
                most={"elements": partials * guidance_rescale.CHUNK} if partials else {},
            )


def _group_norm_silu() -> Iterator[Spec]:
    for width in (4, 8, 16, 32, 64, 128):
        yield Spec(
            "group_norm_silu",
            f"group_norm_groups_w{width}",
            f"second launch, groups of up to {width} channels",
            "group_norm_silu._group_kernel",
            types(_fp32="p_moments p_statistics", i32="pixels channels groups width chunk chunks", fp32="count eps"),
            {"BLOCK_K": max(1, group_norm_silu.TILE // width), "BLOCK_G": width},
            ("n * groups",),
            ("pixels", "channels", "chunk"),
            8,
            most={"width": width},
            computed={"chunks": "ceil_div(pixels, chunk)", "count": "pixels * width"},
        )
    for x in FLOATS:
        for last, pixels in ((True, LARGE), (False, 64), (False, 256), (False, LARGE)):
            unit, moving = ("channel_stride", "pixel_stride") if last else ("pixel_stride", "channel_stride")
            stride = "channels" if last else "pixels"
            block_p, block_c = group_norm_silu.tile(pixels, 64, last)
            columns = f"ceil_div(channels, {block_c})"
            layout = "channels-last" if last else f"planes of {'512 or more' if pixels == LARGE else pixels} pixels"
            suffix = f"{x}_last" if last else f"{x}_planes_{block_p}"
            constants: dict[str, Constant] = {unit: 1, "BLOCK_P": block_p, "BLOCK_C": block_c}
            yield Spec(
                "group_norm_silu",
                f"group_norm_chunks_{suffix}",
                f"first launch, {x}, {layout}",
                "group_norm_silu._chunk_kernel",
                types(_fp32="p_moments", i32=f"pixels channels {moving} chunk chunks") | {"p_x": f"*{x}"},
                constants,
                ("n * chunks", columns),
                ("pixels", "channels", "chunk", moving),
                computed={moving: stride, "chunks": "ceil_div(pixels, chunk)"},
            )
            for activate in (True, False):
                yield Spec(
                    "group_norm_silu",
                    f"group_norm_{'silu' if activate else 'linear'}_{suffix}",
                    f"third launch, {x}, {layout}, {'SiLU' if activate else 'without SiLU'}",
                    "group_norm_silu._apply_kernel",
                    dict.fromkeys(("p_x", "p_y", "p_weight", "p_bias"), f"*{x}")
                    | types(_fp32="p_statistics", i32=f"pixels channels groups width {moving} tiles"),
                    constants | {"ACTIVATE": activate},
                    ("n * tiles", columns),
                    ("pixels", "channels", moving),
                    computed={moving: stride, "tiles": f"ceil_div(pixels, {block_p})"},
                )


def _geglu() -> Iterator[Spec]:
    block_d = 128
    block_r = geglu.TILE // block_d
    for x in FLOATS:
        yield Spec(
            "geglu",
            f"geglu_{x}",
            f"{x}, {block_d} outputs or more",
            "geglu._geglu_kernel",
            dict.fromkeys(("p_x", "p_y"), f"*{x}") | types(i32="rows width columns"),
            {"BLOCK_R": block_r, "BLOCK_D": block_d},
            (f"ceil_div(rows, {block_r}) * columns",),
            ("width",),
            computed={"columns": f"ceil_div(width, {block_d})"},
        )


def _ada_norm() -> Iterator[Spec]:
    for x in FLOATS:
        for channels in (512, 1024, 2048, 4096):
            block_r, block_c, num_warps = ada_norm.configuration(channels)
            sizes = types(i32="rows channels scale_stride shift_stride tiles", fp32="eps")
            yield Spec(
                "ada_norm",
                f"ada_norm_{x}_{channels}",
                f"{x}, up to {channels} channels",
                "ada_norm._ada_norm_kernel",
                dict.fromkeys(("p_x", "p_y", "p_scale", "p_shift"), f"*{x}") | sizes,
                {"BLOCK_R": block_r, "BLOCK_C": block_c},
                ("n * tiles",),
                ("channels", "scale_stride", "shift_stride"),
                num_warps,
                most={"channels": block_c},
                computed={"tiles": f"ceil_div(rows, {block_r})"},
            )


def _upfirdn() -> Iterator[Spec]:
    sizes = types(i32="height width channels out_width out_pixels before tiles", fp32="gain", _fp32="p_taps")
    taps = len(upfirdn.BINOMIAL)
    for x in FLOATS:
        for last in (True, False):
            block_p, block_c = upfirdn.tile(LARGE, 64, last)
            for way, up, down in (("up", 2, 1), ("blur", 1, 1), ("down", 1, 2)):
                yield Spec(
                    "upfirdn",
                    f"upfirdn_{x}_{'last' if last else 'planes'}_{way}",
                    f"{x}, {'channels-last' if last else 'planes'}, up {up}, down {down}, {taps} taps",
                    "upfirdn._upfirdn_kernel",
                    dict.fromkeys(("p_x", "p_y"), f"*{x}") | sizes,
                    {
                        "CHANNELS_LAST": last,
                        "UP": up,
                        "DOWN": down,
                        "TAPS": taps,
                        "BLOCK_P": block_p,
                        "BLOCK_C": block_c,
                    },
                    ("n * tiles", f"ceil_div(channels, {block_c})"),
                    ("channels",) if last else ("height", "width", "out_width", "out_pixels"),
                    computed={"tiles": f"ceil_div(out_pixels, {block_p})"},
                )


def _filtered_lrelu() -> Iterator[Spec]:
    sizes = types(
        _fp32="p_bias p_up p_down",
        i32="channels height width out_height out_width left top pairs tiles columns",
        fp32="slope gain clamp",
    )
    down, down_taps = 2, 12
    for x in FLOATS:
        for up, up_taps in ((2, 12), (4, 24)):
            tile = filtered_lrelu.tile(up, down, up_taps, down_taps)
            columns = f"ceil_div(out_width, {tile.kept})"
            for paired in (False, True):
                yield Spec(
                    "filtered_lrelu",
                    f"filtered_lrelu_{x}_up{up}{'_radial' if paired else ''}",
                    f"{x}, up {up}, down {down}, {up_taps} and {down_taps} taps"
                    f"{', a sum of separable filters for down-sampling' if paired else ''}",
                    "filtered_lrelu._filtered_lrelu_kernel",
                    dict.fromkeys(("p_x", "p_y"), f"*{x}") | sizes,
                    {
                        "UP": up,
                        "DOWN": down,
                        "UP_TAPS": up_taps,
                        "DOWN_TAPS": down_taps,
                        "PAIRED": paired,
                        "KEPT": tile.kept,
                        "BLOCK_S": tile.samples,
                        "BLOCK_T": filtered_lrelu.PIXELS,
                        "BLOCK_O": tile.outputs,
                    },
                    ("n * channels * tiles",),
                    num_warps=tile.warps,
                    computed=({} if paired else {"pairs": "0"})
                    | {"tiles": f"ceil_div(out_height, {tile.kept}) * {columns}", "columns": columns},
                )


def _to_rgb() -> Iterator[Spec]:
    parameters = types(_fp32="p_y p_weight p_styles p_bias", fp32="clamp")
    sizes = types(i32="inputs outputs height width pixel_stride tiles")
    for x in FLOATS:
        for inputs in (32, 64, 128):
            for skip in (True, False):
                block_p, block_i = to_rgb.tile(LARGE, inputs, True)
                constants: dict[str, Constant] = {"input_stride": 1, "BLOCK_P": block_p, "BLOCK_I": block_i}
                yield Spec(
                    "to_rgb",
                    f"to_rgb_{x}_i{inputs}{'_skip' if skip else ''}",
                    f"{x}, channels-last, {inputs} inputs{' or more' if inputs == 128 else ''}"
                    f"{', adds the picture so far' if skip else ''}",
                    "to_rgb._to_rgb_kernel",
                    {"p_x": f"*{x}"} | parameters | sizes | ({"p_skip": "*fp32"} if skip else {}),
                    constants | ({} if skip else {"p_skip": None}),
                    ("n * tiles",),
                    ("inputs", "pixel_stride"),
                    computed={"pixel_stride": "inputs", "tiles": f"ceil_div(height * width, {block_p})"},
                )


def operations() -> Iterator[Spec]:
    """All of them."""
    yield from _to_image()
    yield from _bias_act()
    yield from _philox_normal()
    yield from _guidance_rescale()
    yield from _sampler_step()
    yield from _group_norm_silu()
    yield from _geglu()
    yield from _ada_norm()
    yield from _upfirdn()
    yield from _filtered_lrelu()
    yield from _to_rgb()
