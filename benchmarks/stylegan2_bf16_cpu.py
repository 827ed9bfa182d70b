"""StyleGAN2 on a CPU in bfloat16 (backend torch, oneDNN) against float32 (backend onnxruntime).

    python -m benchmarks.stylegan2_bf16_cpu            256² at batch 1 and 8

Both sides get the same weights, ws and noise and all cores. Before any time is taken the bfloat16 pictures of several
seeds must reach WANTED_PSNR against the float32 ones, and each row of a batch must be what it is alone. PSNR is that of
the pictures as they come out, peak to peak 2, not clamped. Runs alternate, medians are compared.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import typer

from benchmarks.report import interleaved, show, write
from benchmarks.stylegan2_cpu import random_bundle
from impasto.engine.picture import Floats, PictureRequest
from impasto.engine.registry import open_engine
from impasto.engine.stylegan2 import StyleGAN2Engine
from impasto.export.bundle import Bundle

RESOLUTION, CHANNEL_BASE = 256, 16384
BATCHES = (1, 8)
WANTED_PSNR, WANTED_RATIO = 45.0, 1.5
SEEDS = range(8)
"""Of the pictures that are compared, each by itself."""


@dataclasses.dataclass(frozen=True)
class Engines:
    """The same model twice."""

    bf16: StyleGAN2Engine
    fp32: StyleGAN2Engine


def main(runs: int = 7) -> None:
    """Compare at every batch size, with `runs` runs of each side."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = random_bundle(RESOLUTION, CHANNEL_BASE, Path(folder))
        engines = Engines(_opened(bundle, "torch", "bf16"), _opened(bundle, "onnxruntime", "fp32"))
        worst = _worst_psnr(engines)
        rows = [_measure(engines, batch, runs) | {"worst PSNR dB": worst} for batch in BATCHES]
    show(f"StyleGAN2 {RESOLUTION}² on this CPU, ms a picture", rows)
    print(write("stylegan2_bf16_cpu", rows, runs=runs, wanted_ratio=WANTED_RATIO, wanted_psnr=WANTED_PSNR))


def _opened(bundle: Bundle, backend: str, precision: str) -> StyleGAN2Engine:
    engine = open_engine(bundle, backend=backend, precision=precision)
    assert isinstance(engine, StyleGAN2Engine)
    engine.warm_up()
    return engine


def _pictures(engine: StyleGAN2Engine, seeds: range) -> Floats:
    """[N, 3, H, W], made as one batch."""
    return np.stack([pixels.image_float for pixels in engine.run([PictureRequest(seed=seed) for seed in seeds])])


def _worst_psnr(engines: Engines) -> float:
    """The least PSNR of all pictures; stops where it is too little, or where a row's bytes depend on its batch."""
    found, expected = _pictures(engines.bf16, SEEDS), _pictures(engines.fp32, SEEDS)
    alone = np.concatenate([_pictures(engines.bf16, range(seed, seed + 1)) for seed in SEEDS])
    if found.tobytes() != alone.tobytes():
        raise SystemExit("rows of a batch differ from the same rows alone; no time is taken")
    errors = np.square(found.astype(np.float64) - expected).mean(axis=(1, 2, 3))
    worst = 10 * math.log10(2.0**2 / float(errors.max()))
    if worst < WANTED_PSNR:
        raise SystemExit(f"PSNR is {worst:.1f} dB; wanted are {WANTED_PSNR:g}. No time is taken.")
    return worst


def _measure(engines: Engines, batch: int, runs: int) -> dict[str, Any]:
    seeds = range(batch)
    ways: dict[str, Callable[[], object]] = {
        "bf16": lambda: _pictures(engines.bf16, seeds),
        "fp32": lambda: _pictures(engines.fp32, seeds),
    }
    seconds = interleaved(ways, runs)
    bf16_ms, fp32_ms = (median(seconds[name]) / batch * 1e3 for name in ("bf16", "fp32"))
    return {
        "batch": batch,
        "torch bf16 ms": bf16_ms,
        "onnxruntime fp32 ms": fp32_ms,
        "ratio": fp32_ms / bf16_ms,
        "wanted": WANTED_RATIO,
    }


if __name__ == "__main__":
    typer.run(main)
