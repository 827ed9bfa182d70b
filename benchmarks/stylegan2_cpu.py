"""StyleGAN2 on a CPU: the onnxruntime engine against the textbook grouped convolution in eager torch.

    python -m benchmarks.stylegan2_cpu            256² at batch 1 and 8, 1024² at batch 1

Both sides get the same weights, ws and noise and both cores; the pictures must agree within 1e-4 before any time is
taken. Runs alternate, medians are compared.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import typer

from benchmarks.report import interleaved, show, write
from benchmarks.textbook_stylegan2 import textbook_synthesis
from impasto.engine.onnxruntime import OnnxRuntimeBackend, available_cores
from impasto.export.bundle import Bundle, open_bundle
from impasto.export.parity import TOLERANCE
from impasto.export.publish import load_generator, publish_stylegan2
from impasto.generators.stylegan2 import StyleGAN2
from impasto.generators.stylegan2_config import StyleGAN2Config


@dataclasses.dataclass(frozen=True)
class Case:
    """One generator size, one batch, and the ratio that it must reach."""

    resolution: int
    channel_base: int
    batch: int
    wanted: float


CASES = (Case(256, 16384, 1, 2.0), Case(256, 16384, 8, 4.0), Case(1024, 32768, 1, 2.0))


def main(runs: int = 7, largest: int = 1024) -> None:
    """Measure every case up to the resolution `largest`, with `runs` runs of each side."""
    torch.set_num_threads(available_cores())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if case.resolution <= largest:
                bundle = random_bundle(case.resolution, case.channel_base, Path(folder))
                rows.append(_measure(case, bundle, runs))
                show("onnxruntime against textbook eager torch, ms a picture", rows[-1:])
    show("StyleGAN2 on this CPU, ms a picture", rows)
    print(write("stylegan2_cpu", rows, runs=runs))


def random_bundle(resolution: int, channel_base: int, models: Path) -> Bundle:
    """A bundle of random weights, trained-like: noise and biases are not zero."""
    path = models / f"random{resolution}" / "1"
    if not path.exists():
        torch.manual_seed(0)
        config = StyleGAN2Config(resolution, channel_base=channel_base)
        generator = StyleGAN2(config)
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                if name.endswith(("noise_strength", "bias")):
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        publish_stylegan2(config, generator.state_dict(), f"random{resolution}", models)
    return open_bundle(path)


def _measure(case: Case, bundle: Bundle, runs: int) -> dict[str, Any]:
    generator = load_generator(StyleGAN2Config(**bundle.manifest.config), bundle.path / "weights.safetensors")
    backend = OnnxRuntimeBackend(bundle, "fp32", "cpu", None)
    random = np.random.RandomState(1)
    ws = random.randn(case.batch, generator.config.num_ws, generator.config.w_dim).astype(np.float32)
    noise = generator.synthesis.constant_noise()[None].expand(case.batch, -1).contiguous()

    def fast() -> np.ndarray:
        return backend.run("synthesis", {"ws": ws, "noise": noise.numpy()})

    @torch.inference_mode()
    def textbook() -> np.ndarray:
        return textbook_synthesis(generator, torch.from_numpy(ws), noise).numpy()

    difference = float(np.abs(fast() - textbook()).max())
    if difference > TOLERANCE:
        raise SystemExit(
            f"{case}: the pictures differ by {difference:.3g}; allowed is {TOLERANCE:g}. No time is taken."
        )
    seconds = interleaved({"onnxruntime": fast, "textbook": textbook}, runs)
    fast_ms, textbook_ms = (median(seconds[name]) / case.batch * 1e3 for name in ("onnxruntime", "textbook"))
    return {
        "resolution": case.resolution,
        "batch": case.batch,
        "onnxruntime ms": fast_ms,
        "textbook ms": textbook_ms,
        "ratio": textbook_ms / fast_ms,
        "wanted": case.wanted,
        "max difference": difference,
    }


if __name__ == "__main__":
    typer.run(main)
