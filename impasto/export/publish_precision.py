"""Publish a bundle once more with a graph of lower precision beside those it has, measured against float32."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from impasto.errors import ExportError
from impasto.export.bundle import MANIFEST, Bundle, Lowered, list_bundles, new_bundle, write_manifest
from impasto.export.graph_file import save_graph
from impasto.export.lowerable import Lowerable, lowerable
from impasto.export.parity import psnr, ssim
from impasto.export.precision import HALVES, MIN_PSNR, computed_wide, halve
from impasto.export.quantise import Feeds, largest_inputs, to_float8, to_int8

MEASURED_SEEDS = range(64)
CALIBRATION_SEEDS = range(1_000_000, 1_000_032)
"""Others than those that are measured."""
RANKING_SEEDS = CALIBRATION_SEEDS[:4]
MAX_PSNR = 200.0
"""What equal pictures count as: infinity is no JSON."""

Report = Callable[[str], None]


class _TooFar(ExportError):
    """A picture has fewer dB than MIN_PSNR."""


def add_precision(bundle: Bundle, models: Path, precision: str, report: Report = lambda stage: None) -> Path:
    """The bundle as its next free version, with the graph NAME.PRECISION.onnx; returns the folder.

    What it makes of MEASURED_SEEDS is compared with what the float32 graph makes. ExportError if one of these pictures
    holds a number that is not finite or has fewer dB than MIN_PSNR, and then nothing is written; or if there is nothing
    of the bundle's family in this precision. Where fp8 is too far off, the convolutions that add most to the difference
    stay in float32, at most half of them; the manifest names them.
    """
    manifest = bundle.manifest
    report(f"{precision} graph")
    source = lowerable(bundle, precision)
    versions = list_bundles([models]).get(manifest.name, {})
    version = str(max([int(manifest.version), *(int(version) for version in versions)]) + 1)
    with new_bundle(models, manifest.name, version) as folder:
        for file in (MANIFEST, *manifest.files):
            shutil.copyfile(bundle.path / file, folder / file)
        target = folder / f"{source.graph}.{precision}.onnx"
        if precision == "fp8":
            lowered = _write_float8(bundle, source, target, report)
        else:
            if precision == "int8":
                to_int8(source.model, target, source.nodes, source.rows(CALIBRATION_SEEDS))
            else:
                save_graph(halve(source.model, precision, source.nodes), target)
            lowered = _measure(bundle, source, target, precision, report)
        onnx.checker.check_model(target, full_check=True)
        write_manifest(
            folder,
            manifest.model_copy(update={"version": version, "precisions": manifest.precisions | {precision: lowered}}),
        )
    return models / manifest.name / version


def _write_float8(bundle: Bundle, source: Lowerable, target: Path, report: Report) -> Lowered:
    """Write the graph with as many convolutions in E4M3 as its pictures allow; what is measured of it."""
    largest = largest_inputs(source.model, source.nodes, source.rows(CALIBRATION_SEEDS))
    lowered, kept = dict(largest), list[str]()
    while True:
        save_graph(to_float8(source.model, lowered), target)
        try:
            found = _measure(bundle, source, target, "fp8", report)
        except _TooFar:
            if 2 * len(kept) >= len(largest) - 1:
                raise
            worst = next(name for name in _by_error(source, largest) if name in lowered)
            del lowered[worst]
            kept.append(_layer(source.model, worst))
            report(f"{kept[-1]} stays in fp32")
            continue
        return found.model_copy(update={"kept": tuple(kept)})


def _by_error(source: Lowerable, largest: Mapping[str, float]) -> Sequence[str]:
    """The convolutions, first that which alone in E4M3 changes pictures most."""
    rows = list(source.rows(RANKING_SEEDS))
    exact = _session(source.model)

    def error(name: str) -> float:
        lower = _session(to_float8(source.model, {name: largest[name]}))
        return -sum(psnr(_run(lower, feeds, source), _run(exact, feeds, source)) for feeds in rows)

    return sorted(largest, key=error, reverse=True)


def _measure(bundle: Bundle, source: Lowerable, graph: Path, precision: str, report: Report) -> Lowered:
    """Every picture's PSNR and SSIM against the bundle's own graph, on the CPU. ExportError if one is too far off."""
    report(f"{len(MEASURED_SEEDS)} pictures against fp32")
    exact = _session(bundle.path / f"{source.graph}.onnx")
    lower = _session(computed_wide(onnx.load(graph)) if precision in HALVES else graph)
    found_db, found_ssim = [], []
    for seed, feeds in zip(MEASURED_SEEDS, source.rows(MEASURED_SEEDS), strict=True):
        picture, expected = _run(lower, feeds, source), _run(exact, feeds, source)
        if not np.isfinite(picture).all():
            raise ExportError(f"precision: {precision} overflows at seed {seed}: found NaN or infinity in the picture")
        scale = np.float32(1.0) if source.output == "image_float" else np.abs(expected).max()
        decibels = min(psnr(picture / scale, expected / scale), MAX_PSNR)
        if decibels < MIN_PSNR[precision]:
            raise _TooFar(
                f"precision: {precision} has {decibels:.1f} dB against fp32 at seed {seed}; "
                f"allowed are {MIN_PSNR[precision]:g} or more"
            )
        found_db.append(decibels)
        found_ssim.append(ssim(picture / scale, expected / scale))
    return Lowered(
        output=source.output,
        psnr_db=min(found_db),
        mean_psnr_db=float(np.mean(found_db)),
        ssim=min(found_ssim),
        pictures=len(MEASURED_SEEDS),
        least_psnr_db=MIN_PSNR[precision],
    )


def _layer(model: onnx.ModelProto, node: str) -> str:
    """The name of a convolution's layer: that of its weight."""
    (weight,) = (each.input[1] for each in model.graph.node if each.name == node)
    return weight.removesuffix(".weight").removesuffix("_weight")


def _session(graph: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(graph, Path):
            path = graph
        else:
            save_graph(graph, path := Path(scratch) / "graph.onnx")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feeds: Feeds, source: Lowerable) -> NDArray[np.float32]:
    result: NDArray[np.float32] = session.run([source.output.rpartition(".")[2]], dict(feeds))[0]
    return result
