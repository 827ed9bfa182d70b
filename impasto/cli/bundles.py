"""`impasto import` and `impasto models`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from impasto.cli.terminal import Json, Models, console, print_json, print_table, stages

if TYPE_CHECKING:
    from impasto.export.bundle import Manifest

SHORT_DIGEST = 12
LONG_CLASSES = 60
"""Characters from which the names of classes are for `--json` alone."""
Destination = Annotated[
    Path | None,
    typer.Option(
        "--models",
        help="Model directory to write to.",
        show_default="$IMPASTO_MODELS, else the user's data folder",
        metavar="DIR",
    ),
]


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

        from impasto.export.bundle import ZOO, own_models

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
    from impasto.cli.trial import trial

    typer.echo(path)
    if (ZOO / name).is_dir():
        console().print(f"note: from now on {name} is this model, and not the one that comes with impasto")
    for line in trial(path, models):
        console().print(line)


def _single_file(checkpoint: Path, **options: Any) -> Path:
    from impasto.export.bundle import sha256_of
    from impasto.export.class_names import read_class_names
    from impasto.export.publish import publish_checkpoint
    from impasto.generators.checkpoints import OWN, read_checkpoint

    read = read_checkpoint(checkpoint)
    provenance = {
        "file": checkpoint.name,
        "sha256": sha256_of(checkpoint),
        "source": read.source,
        "details": read.details,
    }
    names = read_class_names(checkpoint) if read.source == OWN else ()
    return publish_checkpoint(read, provenance=provenance, class_names=names, **options)


def _diffusers_folder(checkpoint: Path, **options: Any) -> Path:
    from impasto.export.bundle import sha256_of
    from impasto.generators.diffusers_folder import read_pipeline

    pipeline = read_pipeline(checkpoint)
    from impasto.export.publish_diffusion import publish_diffusion

    files = [file for component in pipeline.components.values() for file in component.weights.files]
    provenance = {
        "folder": checkpoint.resolve().name,
        "sha256": {f"{file.parent.name}/{file.name}": sha256_of(file) for file in files},
        "source": pipeline.class_name,
    }
    return publish_diffusion(pipeline, provenance=provenance, **options)


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
    columns = ["name", "version", "family", "size", "digest", "backends", "licence", "path"]
    if any(row.get("class_names") for row in rows):
        columns.insert(columns.index("digest"), "classes")
    print_table(columns, [_cells(row, columns) for row in rows])


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    if "error" in row:
        return [row["name"], row["version"], row["error"]]
    shown = {"digest": row["digest"][:SHORT_DIGEST], "backends": ",".join(row["backends"]) or "-"}
    shown["classes"] = ", ".join(row["class_names"]) or "-"
    if len(shown["classes"]) > LONG_CLASSES:
        shown["classes"] = f"{row['num_classes']} names"
    return [shown.get(column) or row[column] for column in columns]


def _row(name: str, version: str, path: Path) -> dict[str, Any]:
    from impasto.engine.backend import backends_of
    from impasto.errors import BundleError
    from impasto.export.bundle import open_bundle

    row: dict[str, Any] = {"name": name, "version": version, "path": str(path)}
    try:
        manifest = open_bundle(path, verify=False).manifest
    except BundleError as error:
        return row | {"error": str(error)}
    return row | {
        "family": manifest.family,
        "size": _size(manifest),
        "width": manifest.width,
        "height": manifest.height,
        "digest": manifest.digest,
        "backends": list(backends_of(manifest.family)),
        "buckets": list(manifest.buckets),
        "num_classes": manifest.num_classes,
        "class_names": list(manifest.class_names),
        "licence": manifest.licence,
    }


def _size(manifest: Manifest) -> str:
    """That of the model's pictures in pixels; "any" where each has the size of the one that it is made of."""
    free = any(spec.name == "image" and -1 in spec.shape[1:] for spec in manifest.outputs)
    return "any" if free else f"{manifest.width}×{manifest.height}"
