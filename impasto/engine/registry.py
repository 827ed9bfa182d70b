"""Which engine runs a bundle: by family and backend."""

from __future__ import annotations

from impasto.engine.backend import BACKENDS as BACKENDS
from impasto.engine.backend import backends_of
from impasto.engine.picture import Engine
from impasto.errors import BackendUnavailable, BundleError
from impasto.export.bundle import Bundle
from impasto.generators.families import FAMILIES

DEFAULT_BACKEND = "onnxruntime"
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8")
"""In what the products of a model are computed."""


def open_engine(
    bundle: Bundle,
    *,
    backend: str | None = None,
    precision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Engine:
    """Open a bundle on a device ("cpu", "cuda", "cuda:1") with a backend (None: the usual one of the precision).

    `precision` is one of PRECISIONS (None: fp32). The torch backend has bf16, and fp16 on CUDA, of any StyleGAN2; the
    others have what `impasto export --precision` has made graphs of. `threads` bounds the CPU threads of one batch
    (None: all cores). BackendUnavailable if the backend, the precision or the device is not there; nothing falls back
    to another, but that "tensorrt" begins with one, named by the engine's `backend`, until its plans for this machine
    are built.
    """
    if backend is not None and backend not in BACKENDS:
        raise BackendUnavailable(f"backend: found {backend!r}; allowed is one of {', '.join(BACKENDS)}")
    precision = precision or PRECISIONS[0]
    if precision not in PRECISIONS:
        raise BackendUnavailable(f"precision: found {precision!r}; allowed is one of {', '.join(PRECISIONS)}")
    name = backend or _usual_backend(bundle.manifest.family, precision, device)
    if precision == "bf16" and device == "cpu" and name.startswith("onnxruntime"):
        remedy = "backend torch" if bundle.manifest.family == "stylegan2" else "precision fp16"
        raise BackendUnavailable(f"precision: onnxruntime has no bf16 convolutions on a CPU; remedy: {remedy}")
    if name == "tensorrt":
        return _open_tensorrt(bundle, precision, device, threads)
    return _open(bundle, name, precision, device, threads)


def _usual_backend(family: str, precision: str, device: str) -> str:
    """torch for 16 bits where it computes in them, onnxruntime for the rest."""
    in_halves = precision == "bf16" or (precision == "fp16" and device != "cpu")
    return "torch" if family == "stylegan2" and in_halves else DEFAULT_BACKEND


def _open_tensorrt(bundle: Bundle, precision: str, device: str, threads: int | None) -> Engine:
    """By the bundle's plans; while there are none for this machine they are built, and another backend serves."""
    from impasto.engine.planned import open_planned
    from impasto.export.plans import open_builder

    family = bundle.manifest.family
    if "tensorrt" not in backends_of(family):
        raise BackendUnavailable(f"backend: found 'tensorrt'; models of the family {family} run on onnxruntime")

    def opened(backend: str, precision: str, device: str) -> Engine:
        return _open(bundle, backend, precision, device, threads)

    return open_planned(bundle, precision, device, open_builder(device), opened)


def _open(bundle: Bundle, name: str, precision: str, device: str, threads: int | None) -> Engine:
    family = bundle.manifest.family
    if family == "null":
        from impasto.engine.null import NullEngine

        return NullEngine(bundle, device)
    if family == "stylegan2":
        from impasto.engine.stylegan2 import StyleGAN2Engine

        return StyleGAN2Engine(bundle, name, precision, device, threads)
    if family == "stylegan3":
        from impasto.engine.stylegan3 import StyleGAN3Engine

        return StyleGAN3Engine(bundle, name, precision, device, threads)
    if FAMILIES.get(family) == "latent":
        from impasto.engine.latent_generator import LatentGenerator

        return LatentGenerator(bundle, name, precision, device, threads)
    if FAMILIES.get(family) == "image_to_image":
        from impasto.engine.image_to_image import ImageToImageEngine

        return ImageToImageEngine(bundle, name, precision, device, threads)
    if family == "diffusion":
        from impasto.engine.diffusion import DiffusionEngine

        return DiffusionEngine(bundle, name, precision, device, threads)
    known = ", ".join(sorted([*FAMILIES, "diffusion", "null", "stylegan2", "stylegan3"]))
    raise BundleError(f"{bundle.path}: family: found {family!r}; this version runs {known}")
