"""Which engine runs a bundle: by family and backend."""

from __future__ import annotations

from impasto.engine.picture import Engine
from impasto.errors import BackendUnavailable, BundleError
from impasto.export.bundle import Bundle

BACKENDS = ("onnxruntime", "torch")
DEFAULT_BACKEND = "onnxruntime"


def open_engine(
    bundle: Bundle, *, backend: str | None = None, device: str = "cpu", threads: int | None = None
) -> Engine:
    """Open a bundle on a device ("cpu", "cuda", "cuda:1") with a backend (None: onnxruntime).

    `threads` bounds the CPU threads of one batch (None: all cores). BackendUnavailable if the backend or the device
    is not there; nothing falls back to another.
    """
    family = bundle.manifest.family
    if backend is not None and backend not in BACKENDS:
        raise BackendUnavailable(f"backend: found {backend!r}; allowed is one of {', '.join(BACKENDS)}")
    if family == "null":
        from impasto.engine.null import NullEngine

        return NullEngine(bundle, device)
    if family == "stylegan2":
        from impasto.engine.stylegan2 import StyleGAN2Engine

        return StyleGAN2Engine(bundle, backend or DEFAULT_BACKEND, device, threads)
    raise BundleError(f"{bundle.path}: family: found {family!r}; this version runs null and stylegan2")
