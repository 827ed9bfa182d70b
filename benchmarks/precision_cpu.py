"""The demo model in every precision on this CPU, one picture at a time.

    python -m benchmarks.precision_cpu            starry, 128×128

The graphs are made as `impasto export` makes them, which measures each against float32 over 64 seeds and refuses one
that is too far off. Then all precisions make the same pictures in turns, and medians are compared.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import typer

from benchmarks.report import interleaved, show, write
from impasto.engine.picture import Engine, PictureRequest
from impasto.engine.registry import open_engine
from impasto.export.bundle import Bundle, find_bundle, model_directories, open_bundle
from impasto.export.precision import MIN_PSNR
from impasto.export.publish_precision import add_precision

BATCHES = (1, 8)


def main(model: str = "starry", runs: int = 15) -> None:
    """Compare at every batch size, with `runs` runs of each precision."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as engines:
        bundle = open_bundle(find_bundle(model, model_directories()))
        for precision in MIN_PSNR:
            bundle = open_bundle(add_precision(bundle, Path(folder), precision))
        opened = {precision: open_engine(bundle, precision=precision) for precision in ("fp32", *MIN_PSNR)}
        for engine in opened.values():
            engines.callback(engine.close)
            engine.warm_up()
        rows = [row for batch in BATCHES for row in _measure(opened, bundle, batch, runs)]
    show(f"{model} on this CPU", rows)
    print(write("precision_cpu", rows, model=model, runs=runs))


def _measure(engines: dict[str, Engine], bundle: Bundle, batch: int, runs: int) -> list[dict[str, Any]]:
    requests = [PictureRequest(seed=seed) for seed in range(batch)]
    ways: dict[str, Callable[[], object]] = {
        name: functools.partial(engine.run, requests) for name, engine in engines.items()
    }
    seconds = {name: median(times) / batch for name, times in interleaved(ways, runs).items()}
    return [
        {
            "precision": name,
            "backend": engine.backend,
            "batch": batch,
            "ms a picture": seconds[name] * 1e3,
            "times fp32": seconds["fp32"] / seconds[name],
            "least PSNR dB": "-" if name == "fp32" else f"{bundle.manifest.precisions[name].psnr_db:.1f}",
            "least SSIM": "-" if name == "fp32" else f"{bundle.manifest.precisions[name].ssim:.4f}",
        }
        for name, engine in engines.items()
    ]


if __name__ == "__main__":
    typer.run(main)
