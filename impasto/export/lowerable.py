"""What of a bundle there can be in lower precision, by family: the graph, its products, and rows to measure it over."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from impasto.errors import ExportError
from impasto.export.bundle import WEIGHTS, Bundle
from impasto.export.onnx import export_graph
from impasto.export.precision import HALVES, dense_convolutions, products, widened
from impasto.export.publish import load_generator
from impasto.export.quantise import Feeds
from impasto.generators.families import family_of
from impasto.generators.stylegan2_config import StyleGAN2Config
from impasto.generators.stylegan2_prenormalised import MIN_SIDE, prenormalised_synthesis
from impasto.generators.stylegan3_config import StyleGAN3Config
from impasto.generators.stylegan3_transform import picture_transform

GRAPHS: Mapping[str, str] = {
    "stylegan2": "synthesis",
    "stylegan3": "synthesis",
    "gan": "decoder",
    "vae": "decoder",
    "vq": "decoder",
    "residual": "translator",
    "spade": "painter",
    "diffusion": "denoiser",
}
"""Of each family the graph that the time goes into."""
EIGHT_BITS = ("int8", "fp8")
ON_EIGHT_BITS = ("stylegan2",)
"""Families whose values are brought into the range of 8 bits."""
TIMESTEPS, PIXELS = 1000.0, 1024.0
"""What a denoiser takes at most as a timestep, and as a size in pixels."""


@dataclasses.dataclass(frozen=True)
class Lowerable:
    """A float32 graph to make another of, and what its pictures are compared over.

    `model` is equal to the bundle's own `graph`. `nodes` are the names of its products that are lowered. `rows` gives
    inputs for each seed, one row each. `output` is what is compared: "image_float", or GRAPH.OUTPUT of what is no
    picture, which is taken over its largest number.
    """

    graph: str
    model: onnx.ModelProto
    nodes: tuple[str, ...]
    rows: Callable[[range], Iterator[Feeds]]
    output: str = "image_float"


def lowerable(bundle: Bundle, precision: str) -> Lowerable:
    """What of the bundle can be in a precision of `precision.MIN_PSNR`; ExportError says what can be, if it cannot."""
    manifest = bundle.manifest
    _require(manifest.family, precision)
    if manifest.family == "stylegan2":
        if manifest.width < MIN_SIDE:
            raise ExportError(
                f"precision: found {precision!r} for pictures of {manifest.width}×{manifest.height}; allowed is fp32: "
                f"layers below {MIN_SIDE}×{MIN_SIDE} stay in it"
            )
        return _stylegan2(bundle, fold_up=precision in EIGHT_BITS)
    graph = GRAPHS[manifest.family]
    model = widened(onnx.load(bundle.path / f"{graph}.onnx"))
    nodes = tuple(products(model))
    if manifest.family == "stylegan3":
        return Lowerable(graph, model, nodes, functools.partial(_stylegan3_rows, bundle))
    if manifest.family == "diffusion":
        return Lowerable(graph, model, nodes, functools.partial(_denoiser_rows, bundle, model), "denoiser.output")
    return Lowerable(graph, model, nodes, functools.partial(_family_rows, bundle, graph))


def _require(family: str, precision: str) -> None:
    able = ON_EIGHT_BITS if precision in EIGHT_BITS else tuple(GRAPHS)
    if family in able:
        return
    allowed = ", ".join(("fp32", *(HALVES if family in GRAPHS else ())))
    raise ExportError(
        f"precision: found {precision!r} for family {family!r}; allowed is {allowed}: there is {precision} of "
        f"{', '.join(able)}"
    )


def _stylegan2(bundle: Bundle, *, fold_up: bool) -> Lowerable:
    config = StyleGAN2Config(**bundle.manifest.config)
    generator = load_generator(config, bundle.path / WEIGHTS)
    frozen = prenormalised_synthesis(generator.synthesis, fold_up=fold_up)
    example = [torch.randn(2, config.num_ws, config.w_dim), torch.randn(2, config.noise_size)]
    with tempfile.TemporaryDirectory() as scratch:
        model = export_graph(frozen, example, ["ws", "noise"], ["image_float"], Path(scratch) / "plain.onnx")
    noise = generator.synthesis.constant_noise()[None].numpy()

    def rows(seeds: range) -> Iterator[Feeds]:
        """psi 1, and the stored noise."""
        for ws in _styles(bundle, config, seeds):
            yield {"ws": ws, "noise": noise}

    # An up-sampling layer as one convolution gives its four phases at half the side, and the first stays in float32.
    return Lowerable(GRAPHS["stylegan2"], model, tuple(dense_convolutions(model, MIN_SIDE)), rows)


def _stylegan3_rows(bundle: Bundle, seeds: range) -> Iterator[Feeds]:
    """psi 1, the pictures as they stand."""
    transform = picture_transform(0.0, (0.0, 0.0))[None]
    for ws in _styles(bundle, StyleGAN3Config(**bundle.manifest.config), seeds):
        yield {"ws": ws, "transform": transform}


def _styles(bundle: Bundle, config: StyleGAN2Config | StyleGAN3Config, seeds: range) -> Iterator[NDArray[np.float32]]:
    """ws [1, num_ws, w_dim] of each seed, the classes in turn."""
    mapping = onnxruntime.InferenceSession(bundle.path / "mapping.onnx", providers=["CPUExecutionProvider"])
    for number, seed in enumerate(seeds):
        z = np.random.RandomState(seed).randn(1, config.z_dim).astype(np.float32)
        feeds = {"z": z, "psi": np.ones((1, config.num_ws), np.float32)}
        if config.c_dim:
            feeds["c"] = np.eye(config.c_dim, dtype=np.float32)[[number % config.c_dim]]
        yield mapping.run(None, feeds)[0]


def _family_rows(bundle: Bundle, graph: str, seeds: range) -> Iterator[Feeds]:
    """The rows that the family itself draws of these numbers: latents of seeds, pictures of noise, maps of labels."""
    family = family_of(bundle.manifest.family)
    generator = family.load(family.config(**bundle.manifest.config), load_file(bundle.path / WEIGHTS))
    drawn = family.graphs(generator)[graph].draw(seeds.stop)
    for row in seeds:
        yield {name: values[row : row + 1].numpy() for name, values in drawn.items()}


def _denoiser_rows(bundle: Bundle, model: onnx.ModelProto, seeds: range) -> Iterator[Feeds]:
    """Noise at any timestep, of texts of noise, the classes in turn."""
    config = bundle.manifest.config
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:] for value in model.graph.input
    }
    shapes["sample"][1:] = config["latent"][1:]
    for number, seed in enumerate(seeds):
        random = np.random.RandomState(seed)
        feeds: dict[str, NDArray[Any]] = {}
        for name, shape in shapes.items():
            if name == "class_labels":
                feeds[name] = np.array([number % config["classes"]], np.int64)
            elif name in ("timestep", "time_ids"):
                most = TIMESTEPS if name == "timestep" else PIXELS
                feeds[name] = (most * random.rand(1, *shape)).astype(np.float32)
            else:
                feeds[name] = random.randn(1, *shape).astype(np.float32)
        yield feeds
