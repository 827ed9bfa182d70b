"""Publish a bundle once more with a graph of lower precision beside those it has, measured against float32."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from impasto.errors import ExportError
from impasto.export.bundle import MANIFEST, WEIGHTS, Bundle, Lowered, list_bundles, new_bundle, write_manifest
from impasto.export.onnx import export_graph
from impasto.export.parity import Pictures, psnr, ssim
from impasto.export.precision import MIN_PSNR, Feeds, dense_convolutions, halve, quantise, without_bfloat16
from impasto.export.publish import load_generator
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_prenormalised import MIN_SIDE, prenormalised_synthesis

GRAPH = "synthesis"
MEASURED_SEEDS = range(64)
CALIBRATION_SEEDS = range(1_000_000, 1_000_032)
"""Others than those that are measured."""
MAX_PSNR = 200.0
"""What equal pictures count as: infinity is no JSON."""

Report = Callable[[str], None]


def add_precision(bundle: Bundle, models: Path, precision: str, report: Report = lambda stage: None) -> Path:
    """The bundle as its next free version, with the graph synthesis.PRECISION.onnx; returns the folder.

    Pictures of MEASURED_SEEDS with psi 1 go through the new graph and the float32 one. ExportError if one of them holds
    a number that is not finite or has fewer dB than MIN_PSNR, and then nothing is written; or if the bundle is not a
    StyleGAN2 of MIN_SIDE or more.
    """
    manifest = bundle.manifest
    if manifest.family != "stylegan2":
        raise ExportError(
            f"precision: found {precision!r} for family {manifest.family!r}; allowed is fp32: only stylegan2 keeps its "
            "values in the range of fewer bits"
        )
    if manifest.width < MIN_SIDE:
        raise ExportError(
            f"precision: found {precision!r} for pictures of {manifest.width}×{manifest.height}; allowed is fp32: "
            f"layers below {MIN_SIDE}×{MIN_SIDE} stay in it"
        )
    versions = list_bundles([models]).get(manifest.name, {})
    version = str(max([int(manifest.version), *(int(version) for version in versions)]) + 1)
    with new_bundle(models, manifest.name, version) as folder:
        for file in (MANIFEST, *manifest.files):
            shutil.copyfile(bundle.path / file, folder / file)
        report(f"{precision} graph")
        target = folder / f"{GRAPH}.{precision}.onnx"
        _write_graph(bundle, precision, target)
        report(f"{len(MEASURED_SEEDS)} pictures against fp32")
        lowered = _measure(bundle, target, precision)
        write_manifest(
            folder,
            manifest.model_copy(update={"version": version, "precisions": manifest.precisions | {precision: lowered}}),
        )
    return models / manifest.name / version


def _write_graph(bundle: Bundle, precision: str, target: Path) -> None:
    config = StyleGAN2Config(**bundle.manifest.config)
    generator = load_generator(config, bundle.path / WEIGHTS)
    frozen = prenormalised_synthesis(generator.synthesis, fold_up=precision == "int8")
    example = [torch.randn(2, config.num_ws, config.w_dim), torch.randn(2, config.noise_size)]
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        model = export_graph(frozen, example, ["ws", "noise"], ["image_float"], plain)
        # An up-sampling layer as one convolution gives its four phases at half the side.
        nodes = dense_convolutions(model, MIN_SIDE)
        if precision == "int8":
            quantise(plain, target, nodes, _requests(bundle, CALIBRATION_SEEDS))
        else:
            onnx.save(halve(model, precision, nodes), target)
    onnx.checker.check_model(target, full_check=True)


def _measure(bundle: Bundle, graph: Path, precision: str) -> Lowered:
    """Every picture's PSNR and SSIM against the bundle's own graph, on the CPU. ExportError if one is too far off."""
    exact = _session(str(bundle.path / f"{GRAPH}.onnx"))
    model: str | bytes = str(graph)
    if precision == "bf16":  # of which onnxruntime has no convolutions on a CPU
        model = without_bfloat16(onnx.load(graph)).SerializeToString()
    lower = _session(model)
    found_db, found_ssim = [], []
    for seed, feeds in zip(MEASURED_SEEDS, _requests(bundle, MEASURED_SEEDS), strict=True):
        picture, expected = _run(lower, feeds), _run(exact, feeds)
        if not np.isfinite(picture).all():
            raise ExportError(f"precision: {precision} overflows at seed {seed}: found NaN or infinity in the picture")
        found_db.append(min(psnr(picture, expected), MAX_PSNR))
        found_ssim.append(ssim(picture, expected))
    if min(found_db) < MIN_PSNR[precision]:
        raise ExportError(
            f"precision: {precision} has {min(found_db):.1f} dB against fp32 at seed {int(np.argmin(found_db))}; "
            f"allowed are {MIN_PSNR[precision]:g} or more"
        )
    return Lowered(
        psnr_db=min(found_db),
        mean_psnr_db=float(np.mean(found_db)),
        ssim=min(found_ssim),
        pictures=len(MEASURED_SEEDS),
        least_psnr_db=MIN_PSNR[precision],
    )


def _requests(bundle: Bundle, seeds: range) -> Iterator[Feeds]:
    """What the synthesis graph takes for each seed: psi 1, the stored noise, and classes in turn."""
    config = StyleGAN2Config(**bundle.manifest.config)
    mapping = _session(str(bundle.path / "mapping.onnx"))
    noise = load_generator(config, bundle.path / WEIGHTS).synthesis.constant_noise()[None].numpy()
    for number, seed in enumerate(seeds):
        z = np.random.RandomState(seed).randn(1, config.z_dim).astype(np.float32)
        feeds = {"z": z, "psi": np.ones((1, config.num_ws), np.float32)}
        if config.c_dim:
            feeds["c"] = np.eye(config.c_dim, dtype=np.float32)[[number % config.c_dim]]
        yield {"ws": _run(mapping, feeds), "noise": noise}


def _session(model: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feeds: Feeds) -> NDArray[np.float32]:
    result: Pictures = session.run(None, dict(feeds))[0]
    return result
