"""Which engine runs a bundle: by family and backend."""

from __future__ import annotations

from impasto.engine.picture import Engine
from impasto.errors import BackendUnavailable, BundleError
from impasto.export.bundle import Bundle

BACKENDS = ("onnxruntime", "torch")
DEFAULT_BACKEND = "onnxruntime"
PRECISIONS = ("fp32", "bf16", "fp16")
"""In what the convolutions of a model are computed."""


def open_engine(
    bundle: Bundle,
    *,
    backend: str | None = None,
    precision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Engine:
    """Open a bundle on a device ("cpu", "cuda", "cuda:1") with a backend (None: onnxruntime, which computes in fp32).

    `precision` is one of PRECISIONS (None: fp32), of which a CPU has fp32 and bf16; but for fp32 only the torch backend
    has them, and is then the one meant by None. `threads` bounds the CPU threads of one batch (None: all cores).
    BackendUnavailable if the backend, the precision or the device is not there; nothing falls back to another.
    """
    family = bundle.manifest.family
    if backend is not None and backend not in BACKENDS:
        raise BackendUnavailable(f"backend: found {backend!r}; allowed is one of {', '.join(BACKENDS)}")
    precision = precision or PRECISIONS[0]
    if precision not in PRECISIONS:
        raise BackendUnavailable(f"precision: found {precision!r}; allowed is one of {', '.join(PRECISIONS)}")
    if family == "null":
        from impasto.engine.null import NullEngine

        return NullEngine(bundle, device)
    if family == "stylegan2":
        from impasto.engine.stylegan2 import StyleGAN2Engine

        name = backend or (DEFAULT_BACKEND if precision == PRECISIONS[0] else "torch")
        return StyleGAN2Engine(bundle, name, precision, device, threads)
    if family == "stylegan3":
        from impasto.engine.stylegan3 import StyleGAN3Engine

        name = backend or (DEFAULT_BACKEND if precision == PRECISIONS[0] else "torch")
        return StyleGAN3Engine(bundle, name, precision, device, threads)
    if family == "diffusion":
        from impasto.engine.diffusion import DiffusionEngine

        if precision != PRECISIONS[0]:
            raise BackendUnavailable(f"precision: found {precision!r}; diffusion models run in {PRECISIONS[0]}")
        return DiffusionEngine(bundle, backend or DEFAULT_BACKEND, device, threads)
    known = "diffusion, null, stylegan2 and stylegan3"
    raise BundleError(f"{bundle.path}: family: found {family!r}; this version runs {known}")
