"""What to try first with a new bundle."""

from __future__ import annotations

import shlex
from pathlib import Path

from impasto.export.bundle import Manifest, TensorSpec, find_bundle, model_directories, open_bundle
from impasto.generators.families import FAMILIES

PICTURE, MASK, PROMPT = "PICTURE.png", "MASK.png", "a lighthouse at night"


def trial(bundle: Path, models: Path | None) -> list[str]:
    """The command that makes a first picture of the bundle in `models`, and what the files are that it asks for."""
    manifest = open_bundle(bundle, verify=False).manifest
    inputs = {spec.name: spec for spec in manifest.inputs}
    words, files = ["impasto", "generate", manifest.name], []
    if _needs_picture(manifest):
        words += ["--image", PICTURE]
        files.append(f"{PICTURE}: {_described(inputs['image'])}")
    if _needs_mask(manifest):
        words += ["--mask", MASK]
        files.append(f"{MASK}: white where the picture is made anew, of the same size")
    if "prompt" in inputs:
        words += ["--prompt", PROMPT]
    if find_bundle(manifest.name, model_directories(models)) != bundle:
        words += ["--model-version", manifest.version]
    if models:
        words += ["--models", str(models)]
    return [f"try it: {shlex.join(words)}", *files]


def _needs_picture(manifest: Manifest) -> bool:
    by_seed = any(spec.name == "seed" for spec in manifest.inputs)
    return FAMILIES.get(manifest.family) == "image_to_image" or not by_seed or _needs_mask(manifest)


def _needs_mask(manifest: Manifest) -> bool:
    """Whether it is a diffusion model that only inpaints: one that takes more channels than its latent has."""
    config = manifest.config
    return manifest.family == "diffusion" and config.get("sample_channels", 0) > config["latent"][0]


def _described(image: TensorSpec) -> str:
    _, height, width, _ = image.shape
    return image.meaning if width < 0 else f"{image.meaning}; {width}×{height} pixels"
