"""Diffusion on a CPU: our engine against diffusers' own pipeline, the same weights, seeds, sampler and batch.

    python -m benchmarks.diffusion_cpu

The network is that of the demo model starry-ddpm with random weights, which cost as much as trained ones; diffusers
saves it, and `impasto import` reads it. First checked: that both make the same pictures of the same seeds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import typer
from diffusers import DDIMPipeline, DDIMScheduler

from benchmarks.report import interleaved, show, write
from impasto.denoising import Denoising
from impasto.engine.onnxruntime import available_cores
from impasto.engine.picture import PictureRequest
from impasto.engine.registry import open_engine
from impasto.export.bundle import open_bundle
from impasto.export.publish_diffusion import publish_diffusion
from impasto.generators.diffusers_folder import read_pipeline
from impasto.training.diffusion import DiffusionPlan, build_schedule, build_unet

BATCHES = (1, 4)
TOLERANCE = 1e-4


def main(steps: int = 20, runs: int = 5) -> None:
    """Time both at STEPS steps of DDIM, the median of RUNS."""
    torch.set_num_threads(available_cores())
    torch.manual_seed(0)
    scheduler = DDIMScheduler.from_config(build_schedule().config)
    pipeline = DDIMPipeline(build_unet(DiffusionPlan()).eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(Path(folder) / "pipeline")
        path = publish_diffusion(read_pipeline(Path(folder) / "pipeline"), "bench", Path(folder) / "models")
        engine = open_engine(open_bundle(path))
        engine.warm_up()
        rows = [_row(engine, pipeline, batch, steps, runs) for batch in BATCHES]
        engine.close()
    show(f"64×64 pixel diffusion, {steps} steps of DDIM", rows)
    print(write("diffusion_cpu", rows, steps=steps, runs=runs))


def _row(engine: Any, pipeline: Any, batch: int, steps: int, runs: int) -> dict[str, Any]:
    wanted = Denoising(steps=steps, sampler="ddim", noise="torch")
    requests = [PictureRequest(seed, denoising=wanted) for seed in range(batch)]

    def diffusers() -> np.ndarray:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(batch)]
        made = pipeline(batch, generators, num_inference_steps=steps, output_type="np")
        return np.asarray(made.images)

    def impasto() -> np.ndarray:
        pictures = [pixels.image_float.transpose(1, 2, 0) for pixels in engine.run(requests)]
        return np.clip(np.stack(pictures) / 2 + 0.5, 0, 1)

    difference = float(np.abs(diffusers() - impasto()).max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"the pictures differ by {difference:.3g}; allowed is {TOLERANCE:g}")
    ways: dict[str, Callable[[], object]] = {"diffusers": diffusers, "impasto": impasto}
    seconds = {way: median(taken) for way, taken in interleaved(ways, runs).items()}
    return {
        "batch": batch,
        "diffusers pictures/s": batch / seconds["diffusers"],
        "impasto pictures/s": batch / seconds["impasto"],
        "times": seconds["diffusers"] / seconds["impasto"],
        "difference": difference,
    }


if __name__ == "__main__":
    typer.run(main)
