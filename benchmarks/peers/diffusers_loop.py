"""diffusers' own pipeline on a diffusion bundle's graph, as a loop without a server. Run in a process of its own.

    python -m benchmarks.peers.diffusers_loop BUNDLE SECONDS BATCH PICTURES.npy

Writes the pictures of seeds 0, 1, .. of one batch, uint8 [N, H, W, 3], and prints JSON: images, seconds, ms a batch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class OnnxDenoiser(nn.Module):
    """The bundle's graph where the pipeline has its network, as others run diffusers on onnxruntime."""

    dtype = torch.float32

    def __init__(self, graph: Path, side: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=side, in_channels=3)
        self.device = torch.device("cpu")
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def forward(self, sample: Tensor, timestep: Tensor) -> SimpleNamespace:
        """The model's output of sample [N, C, H, W], all rows at one timestep."""
        timesteps = np.full(len(sample), float(timestep), self._timestep_dtype)
        (output,) = self._session.run(None, {"sample": sample.numpy(), "timestep": timesteps})
        return SimpleNamespace(sample=torch.from_numpy(output))

    @property
    def _timestep_dtype(self) -> type[np.generic]:
        kinds = {put.name: put.type for put in self._session.get_inputs()}
        return np.int64 if kinds["timestep"] == "tensor(int64)" else np.float32


def pipeline_of(bundle: Path) -> Any:
    """A DDPMPipeline of the bundle's graph and schedule, with its sampler, DPM-Solver++(2M)."""
    import diffusers

    manifest = json.loads((bundle / "manifest.json").read_bytes())
    denoiser = OnnxDenoiser(bundle / "denoiser.onnx", manifest["height"])
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(manifest["config"]["scheduler"])
    pipeline = diffusers.DDPMPipeline(denoiser, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline: Any, batch: int, steps: int) -> NDArray[np.uint8]:
    """Of seeds 0 to `batch` - 1, uint8 [N, H, W, 3] by Impasto's rounding."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(batch)]
    made = pipeline(batch_size=batch, generator=generators, num_inference_steps=steps, output_type="np").images
    values: NDArray[np.float32] = np.clip((made * 2 - 1) * 127.5 + 128, 0, 255)
    return values.astype(np.uint8)


def main(arguments: Sequence[str]) -> None:
    """Make the pictures, then loop for the seconds."""
    bundle, seconds, batch, out = Path(arguments[0]), float(arguments[1]), int(arguments[2]), arguments[3]
    steps = json.loads((bundle / "manifest.json").read_bytes())["defaults"]["steps"]
    pipeline = pipeline_of(bundle)
    np.save(out, pictures(pipeline, batch, steps))
    times: list[float] = []
    began = time.perf_counter()
    while (start := time.perf_counter()) < began + seconds:
        pictures(pipeline, batch, steps)
        times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"images": len(times) * batch, "seconds": time.perf_counter() - began, "batch_ms": times}))


if __name__ == "__main__":
    main(sys.argv[1:])
