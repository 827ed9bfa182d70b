"""The options of `impasto generate` that only diffusion models take."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

PANEL = "Diffusion"
# As impasto.sampling has them, whose import would take longer than showing the help.
SAMPLERS = (
    "ddpm",
    "ddim",
    "euler",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_sde",
    "unipc",
    "plms",
    "lcm",
    "flow_euler",
)


class NoiseSource(enum.StrEnum):
    """What becomes of a seed."""

    impasto = "impasto"
    torch = "torch"


def _option(help: str, **settings: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=PANEL, **settings)


Prompt = Annotated[str | None, _option("What to paint.", metavar="TEXT")]
NegativePrompt = Annotated[str | None, _option("What to stay clear of.", metavar="TEXT")]
Steps = Annotated[int | None, _option("Steps from noise to picture, 1 to 1000.", metavar="N")]
Sampler = Annotated[str | None, _option(f"One of {', '.join(SAMPLERS)}.", metavar="NAME")]
GuidanceScale = Annotated[float | None, _option("Classifier-free guidance; 1: none.", metavar="X")]
GuidanceRescale = Annotated[float | None, _option("Back to the unguided contrast: 0 to 1, wholly.", metavar="X")]
Eta = Annotated[float | None, _option("Noise between the steps of ddim: 0 to 1.", metavar="X")]
Width = Annotated[int | None, _option("Pixels, where the model makes several sizes.", metavar="N")]
Height = Annotated[int | None, _option("Pixels; unless given the image's, else the model's.", metavar="N")]
Strength = Annotated[float | None, _option("How much of the image is made anew: above 0 to 1.", metavar="X")]
Mask = Annotated[Path | None, _option("White where the image is made anew.", metavar="FILE")]
Source = Annotated[NoiseSource | None, _option("What becomes of a seed: Impasto's noise, or torch's as in diffusers.")]
PreviewEvery = Annotated[
    int | None,
    _option(
        "Show how pictures look every so many model calls: FILE.preview.png until the end; 0: never.",
        metavar="K",
        show_default="a tenth of --steps on a terminal",
    ),
]
