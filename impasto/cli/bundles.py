"""`impasto import`, `impasto export` and `impasto models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from impasto.cli.terminal import Json, Models, console, print_json, print_table, stages

if TYPE_CHECKING:
    from impasto.export.bundle import Manifest

SHORT_DIGEST = 12
Destination = Annotated[
    Path | None,
    typer.Option(
        "--models",
        help="Model directory to write to.",
        show_default="$IMPASTO_MODELS, else the user's data folder",
        metavar="DIR",
    ),
]


PRECISIONS = ("fp32", "fp16", "bf16", "int8")
WeightsPrecision = Literal["fp32", "fp16"]


def import_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="StyleGAN2 or 3 .pkl (official), .pt (rosinality), .pth (DCGAN of pytorch/examples, CycleGAN), "
            ".safetensors (of `impasto train`), or a diffusers folder."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    models: Destination = None,
    version: Annotated[str, typer.Option(help="Its version, in digits.")] = "1",
    weights: Annotated[WeightsPrecision, typer.Option(help="Precision that the weights are kept in.")] = "fp32",
    licence: Annotated[str, typer.Option(help="Its licence, which the bundle's manifest tells.")] = "unknown",
) -> None:
    """Turn a checkpoint into a bundle: weights, graphs, parity with torch, manifest. Runs no code from the file."""
    with stages(f"import {checkpoint.name}") as report:
        report("reading")
        import torch  # first: what lacks it lacks the extra `torch`, which brings all that is needed

        from impasto.export.bundle import own_models

        publish = _diffusers_folder if checkpoint.is_dir() else _single_file
        path = publish(
            checkpoint,
            name=name,
            models=own_models(models),
            version=version,
            weights_dtype={"fp32": torch.float32, "fp16": torch.float16}[weights],
            licence=licence,
            report=report,
        )
    typer.echo(path)
    console().print(f"try it: impasto generate {name}" + (f" --models {models}" if models else ""))


def _single_file(checkpoint: Path, **options: Any) -> Path:
    from impasto.export.bundle import sha256_of
    from impasto.export.publish import publish_checkpoint
    from impasto.generators.checkpoints import read_checkpoint

    read = read_checkpoint(checkpoint)
    provenance = {
        "file": checkpoint.name,
        "sha256": sha256_of(checkpoint),
        "source": read.source,
        "details": read.details,
    }
    return publish_checkpoint(read, provenance=provenance, **options)


def _diffusers_folder(checkpoint: Path, **options: Any) -> Path:
    from impasto.export.bundle import sha256_of
    from impasto.export.publish_diffusion import publish_diffusion
    from impasto.generators.diffusers_folder import read_pipeline

    pipeline = read_pipeline(checkpoint)
    files = [file for component in pipeline.components.values() for file in component.weights.files]
    provenance = {
        "folder": checkpoint.resolve().name,
        "sha256": {f"{file.parent.name}/{file.name}": sha256_of(file) for file in files},
        "source": pipeline.class_name,
    }
    return publish_diffusion(pipeline, provenance=provenance, **options)


def export(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    models: Destination = None,
    precision: Annotated[str, typer.Option(help=f"Of the graphs: {', '.join(PRECISIONS)}.")] = PRECISIONS[0],
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Build TensorRT's plans for this GPU.")] = False,
    plugins: Annotated[bool, typer.Option("--plugins", help="With our kernels in the plans.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Plans whose weights can be swapped.")] = False,
    device: Annotated[str, typer.Option(help="GPU to build plans for: cuda or cuda:N.")] = "cuda",
    model_version: Annotated[str, typer.Option(help="Version of the model; the highest unless given.")] = "",
) -> None:
    """Make a model's graphs anew from its weights, or add one of lower precision; as the next free version.

    A graph of lower precision is measured against fp32 over 64 seeds and refused below 45 dB (fp16), 40 (bf16) or 30
    (int8). Use it with --precision of generate and serve. With --tensorrt the plans are built of the version that is
    there, or of the next one where it has no graph of that precision.
    """
    from impasto.errors import InvalidRequest

    if precision not in PRECISIONS:
        raise InvalidRequest("precision", precision, ", ".join(PRECISIONS))
    if not tensorrt and (plugins or refit):
        raise InvalidRequest("plugins, refit", "one of them", "them beside --tensorrt")
    with stages(f"export {model}") as report:
        report("reading")
        import torch  # noqa: F401  (as above)

        from impasto.export.bundle import find_bundle, model_directories, open_bundle, own_models
        from impasto.export.plans import build_plans, open_builder
        from impasto.export.publish import export_again
        from impasto.export.publish_precision import add_precision

        builder = open_builder(device) if tensorrt else None
        bundle = open_bundle(find_bundle(model, model_directories(models), model_version))
        made = [bundle.path]
        if precision == PRECISIONS[0] and not tensorrt:
            made = [export_again(bundle, own_models(models), report)]
        elif precision not in (PRECISIONS[0], *bundle.manifest.precisions):
            made = [add_precision(bundle, own_models(models), precision, report)]
        if builder is not None:
            from impasto.export.plan_store import BuildOptions

            options = BuildOptions(plugins=plugins, refit=refit)
            made = build_plans(open_bundle(made[0]), precision, builder, options, report)
    if precision != PRECISIONS[0] and not tensorrt:
        found = open_bundle(made[0], verify=False).manifest.precisions[precision]
        console().print(f"{precision} against fp32: at least {found.psnr_db:.1f} dB and an SSIM of {found.ssim:.4f}")
    for path in made:
        typer.echo(path)


def list_models(models: Models = None, as_json: Json = False) -> None:
    """List the models there are, where, and what runs them."""
    from impasto.export.bundle import list_bundles, model_directories

    rows = [
        _row(name, version, path)
        for name, versions in list_bundles(model_directories(models)).items()
        for version, path in versions.items()
    ]
    if as_json:
        print_json(rows)
        return
    columns = ("name", "version", "family", "size", "digest", "backends", "licence", "path")
    print_table(columns, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["name"], row["version"], row["error"]]
    size = f"{row['width']}×{row['height']}"
    digest, backends = row["digest"][:SHORT_DIGEST], ",".join(row["backends"]) or "-"
    return [row["name"], row["version"], row["family"], size, digest, backends, row["licence"], row["path"]]


def _row(name: str, version: str, path: Path) -> dict[str, Any]:
    from impasto.errors import BundleError
    from impasto.export.bundle import open_bundle

    row: dict[str, Any] = {"name": name, "version": version, "path": str(path)}
    try:
        manifest = open_bundle(path, verify=False).manifest
    except BundleError as error:
        return row | {"error": str(error)}
    return row | {
        "family": manifest.family,
        "width": manifest.width,
        "height": manifest.height,
        "digest": manifest.digest,
        "backends": _backends(manifest),
        "buckets": list(manifest.buckets),
        "licence": manifest.licence,
    }


def _backends(manifest: Manifest) -> list[str]:
    """The backends that find what they need in the bundle."""
    graphs = any(file.endswith(".onnx") for file in manifest.files)
    weights = any(file.endswith(".safetensors") for file in manifest.files)
    return ["onnxruntime"] * graphs + ["torch"] * weights
