"""Which kernels are looked at, and at which shapes."""

from __future__ import annotations

import torch

from benchmarks.gpu import generator, layers, pointwise, steps
from benchmarks.gpu.case import Suite

RESOLUTIONS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
CHANNELS = {resolution: min(32768 // resolution, 512) for resolution in RESOLUTIONS}
"""Of StyleGAN2's configuration f at 1024²."""
FLOAT32 = (torch.float32,)

LAYERS = (
    Suite(
        "modulated_conv",
        layers.plain,
        checked=((20, 24, 5, 3, 3), (40, 70, 9, 8, 3), (3, 66, 33, 32, 1)),
        timed=tuple((CHANNELS[side], CHANNELS[side], side, side, 3) for side in RESOLUTIONS),
    ),
    Suite(
        "modulated_conv_up",
        layers.up,
        checked=((20, 24, 3, 4), (40, 66, 9, 7)),
        timed=tuple((CHANNELS[side], CHANNELS[2 * side], side, side) for side in RESOLUTIONS[:-1]),
    ),
)
"""All modulated layers of one generator: what is timed of them can be summed."""

GENERATOR = Suite("stylegan2", generator.synthesis, checked=((16, 128),), timed=((1024, 32768),))
COMPILED = (*LAYERS, GENERATOR)
"""What torch.compile rivals in every whole run."""

SUITES = (
    *LAYERS,
    Suite(
        "to_rgb",
        layers.rgb,
        checked=((5, 4, 6), (150, 2, 10)),
        timed=((512, 64, 64), (128, 256, 256), (32, 1024, 1024)),
    ),
    Suite(
        "styles",
        layers.affines,
        checked=((1, 3, 5), (3, 45, 33)),
        timed=((26, 512, 512),),
        dtypes=FLOAT32,
        timed_dtype=torch.float32,
    ),
    Suite(
        "demodulation",
        layers.demodulate,
        checked=((5, 3), (150, 33)),
        timed=((512, 512),),
        dtypes=FLOAT32,
        timed_dtype=torch.float32,
    ),
    Suite(
        "upfirdn",
        pointwise.resample,
        checked=((3, 5, 4, "NCHW"), (5, 4, 7, "NHWC")),
        timed=((128, 256, 256, "NHWC"), (32, 512, 512, "NHWC"), (3, 512, 512, "NCHW")),
    ),
    Suite(
        "filtered_lrelu",
        pointwise.filtered,
        checked=((3, 5, 4, "separable"), (2, 37, 33, "separable"), (2, 9, 14, "radial")),
        timed=((512, 148, 148, "separable"), (128, 532, 532, "separable"), (512, 148, 148, "radial")),
    ),
    Suite(
        "bias_act",
        pointwise.bias_activation,
        checked=((3, 5, 4, "NCHW"), (5, 3, 7, "NHWC")),
        timed=((64, 512, 512, "NHWC"), (64, 1024, 1024, "NHWC"), (64, 1024, 1024, "NCHW")),
    ),
    Suite(
        "to_image",
        pointwise.pixels,
        checked=((3, 5, 7), (1, 33, 35)),
        timed=((3, 1024, 1024), (3, 4096, 4096)),
        timed_dtype=torch.float32,
    ),
    Suite(
        "philox_normal",
        pointwise.noise,
        checked=((1,), (1027,)),
        timed=((4 * 128 * 128,), (4096 * 4096,)),
        dtypes=FLOAT32,
        timed_dtype=torch.float32,
    ),
    Suite(
        "sampler_step",
        steps.step,
        checked=tuple((sampler, 4, 15, 19) for sampler in ("dpmpp_2m", "euler_ancestral", "everything")),
        timed=tuple((sampler, 4, side, side) for sampler in ("dpmpp_2m", "euler_ancestral") for side in (128, 1024)),
    ),
    Suite(
        "guidance_rescale",
        steps.step,
        checked=(("ddim_rescaled", 4, 15, 19), ("ddim_rescaled", 1, 64, 65)),
        timed=(("ddim_rescaled", 4, 128, 128), ("ddim_rescaled", 4, 1024, 1024)),
    ),
    Suite(
        "group_norm_silu",
        pointwise.group_norm,
        checked=((6, 5, 4, "NCHW"), (96, 5, 3, "NHWC"), (10, 33, 17, "NHWC")),
        timed=((128, 512, 512, "NHWC"), (128, 512, 512, "NCHW"), (512, 64, 64, "NHWC")),
    ),
    Suite("geglu", pointwise.gated, checked=((3, 5), (2, 257)), timed=((4096, 2560), (16384, 2560))),
    GENERATOR,
    Suite("ada_norm", pointwise.adaptive_norm, checked=((3, 5), (2, 1152)), timed=((4096, 1152), (16384, 3072))),
)
