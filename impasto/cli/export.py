"""`impasto export`: a model's graphs anew, in lower precision, and as TensorRT's plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from impasto.cli.bundles import Destination
from impasto.cli.terminal import console, stages

if TYPE_CHECKING:
    from impasto.export.bundle import Lowered

Hardware = Literal["this gpu", "same compute capability", "ampere and later"]
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


def export(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    models: Destination = None,
    precision: Annotated[str, typer.Option(help=f"Of the graphs: {', '.join(PRECISIONS)}.")] = PRECISIONS[0],
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Build TensorRT's plans for this GPU.")] = False,
    plugins: Annotated[bool, typer.Option("--plugins", help="With our kernels in the plans.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Plans whose weights can be swapped.")] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Plans that later minor versions of TensorRT load too.")
    ] = False,
    hardware: Annotated[Hardware, typer.Option(help="GPUs that the plans run on.")] = "this gpu",
    device: Annotated[str, typer.Option(help="GPU to build plans for: cuda or cuda:N.")] = "cuda",
    model_version: Annotated[str, typer.Option(help="Version of the model; the highest unless given.")] = "",
) -> None:
    """Make a model's graphs anew from its weights, or add one of lower precision; as the next free version.

    A graph of lower precision is measured against fp32 over 64 seeds and refused below 45 dB (fp16), 40 (bf16) or 30
    (int8, fp8, which are of StyleGAN2 alone). Use it with --precision of generate and serve. With --tensorrt the plans
    are built of the version that is there, or of the next one where it has no graph of that precision.
    """
    from impasto.errors import InvalidRequest

    if precision not in PRECISIONS:
        raise InvalidRequest("precision", precision, ", ".join(PRECISIONS))
    of_plans = {"plugins": plugins, "refit": refit, "version-compatible": version_compatible}
    of_plans["hardware"] = hardware != "this gpu"
    if not tensorrt and (stray := [f"--{name}" for name, given in of_plans.items() if given]):
        raise InvalidRequest("tensorrt", f"{' '.join(stray)} without it", f"{' '.join(stray)} beside --tensorrt")
    remarks: list[str] = []
    with stages(f"export {model}") as report:
        report("reading")
        import torch  # noqa: F401 - first: what lacks it lacks the extra `torch`, which brings all that is needed

        from impasto.export.bundle import find_bundle, model_directories, open_bundle, own_models
        from impasto.export.plan_store import BuildOptions
        from impasto.export.plans import build_plans, missing_plans, open_builder, plugin_graphs
        from impasto.export.publish import export_again
        from impasto.export.publish_precision import add_precision

        builder = open_builder(device) if tensorrt else None
        bundle = open_bundle(find_bundle(model, model_directories(models), model_version))
        if plugins and not plugin_graphs(bundle, precision):
            found = f"{bundle.manifest.family} in {precision}"
            raise InvalidRequest("plugins", found, "stylegan2 or stylegan3 in fp32 or fp16")
        if precision == PRECISIONS[0]:
            if not tensorrt:
                bundle = open_bundle(export_again(bundle, own_models(models), report), verify=False)
        else:
            if precision in bundle.manifest.precisions:
                remarks.append(f"version {bundle.manifest.version} has its {precision} graph already")
            else:
                bundle = open_bundle(add_precision(bundle, own_models(models), precision, report))
            remarks.append(_measured(precision, bundle.manifest.precisions[precision]))
        made = [bundle.path]
        if builder is not None:
            options = BuildOptions(plugins, refit, version_compatible, hardware)
            if not missing_plans(bundle, precision, options, builder.target):
                remarks.append(f"its plans in {precision} for {builder.target.gpu} are there already")
            made = build_plans(bundle, precision, builder, options, report)
    for remark in remarks:
        console().print(remark)
    for path in made:
        typer.echo(path)


def _measured(precision: str, found: Lowered) -> str:
    kept = f"; in fp32 stay {', '.join(found.kept)}" if found.kept else ""
    of = "" if found.output == "image_float" else f" of {found.output}"
    return f"{precision} against fp32: at least {found.psnr_db:.1f} dB and an SSIM of {found.ssim:.4f}{of}{kept}"
