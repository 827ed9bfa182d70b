"""What a generation is asked for: the same parameters in-process and over gRPC, checked as far as needs no model."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from typing import Literal, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from impasto.denoising import Denoising, DenoisingParameters, denoising
from impasto.errors import InvalidRequest
from impasto.images.pixels import Bytes, Floats
from impasto.input_pictures import PictureLike, check_pictures, pixels_of

OutputFormat = Literal["uint8", "float32", "png", "jpeg", "webp"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
NoiseMode = Literal["const", "random", "none"]
NOISE_MODES: tuple[NoiseMode, ...] = get_args(NoiseMode)
MAX_SEED = 2**32 - 1
MAX_COUNT = 100_000
MAX_CODE = 2**32 - 1
IMAGE_SEED = 0
"""That of a request with an image and no seed."""


class Parameters(DenoisingParameters, total=False):
    """The keywords of every `generate`: one of seeds, z, ws and codes, or an image; the rest has the model's default.

    seeds: one picture a seed, each from 0 to 2³² − 1; with `count`, that many from a single seed on.
    z: one latent [z_dim] or several [N, z_dim].  ws: [num_ws, w_dim] or [N, num_ws, w_dim]; psi does not apply.
    codes: of a VQ model, indices into its codebook, [h, w] or [N, h, w].
    label: class index of a conditional model, or class_vector [c_dim], for all pictures.
    psi: truncation, 1 none, 0 the average picture; psi_cutoff: only the first layers, that many of num_ws.
    noise_mode: "const", "random" (from the seed) or "none".
    style_mix: (seed, first, last): the styles of layers first to last, both included, from another seed.
    rotation: degrees counter-clockwise, and translation: (x, y) in picture widths, right and down, of StyleGAN3 models.
    image: what an image-to-image model translates, a VAE reconstructs, a diffusion model starts from: a path, the bytes
    of a PNG, JPEG or WebP file, uint8 [H, W, 3] or a Picture; without seeds it is one picture, of seed 0.
    image_to, blend: of a VAE, a second picture and how far to go towards it: 0 is image, 1 is image_to.
    format: "uint8" pictures (the default), "float32" for `image_float`, or files: "png", "jpeg", "webp".
    quality: of JPEG and WebP files, 1 to 100; 100 is lossless WebP.
    What diffusion models take besides: `impasto.denoising.DenoisingParameters`.
    """

    seeds: int | Iterable[int] | None
    count: int | None
    z: ArrayLike | None
    ws: ArrayLike | None
    codes: ArrayLike | None
    label: int | None
    class_vector: ArrayLike | None
    psi: float | None
    psi_cutoff: int | None
    noise_mode: NoiseMode | None
    style_mix: tuple[int, int, int] | None
    rotation: float | None
    translation: tuple[float, float] | None
    image: PictureLike | None
    image_to: PictureLike | None
    blend: float | None
    format: OutputFormat
    quality: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """The parameters in one form: seeds spelt out, latents as float32 [N, …], numbers as a message carries them.

    Pictures are uint8 [H, W, 3].
    """

    seeds: tuple[int, ...] = ()
    z: Floats | None = None
    ws: Floats | None = None
    codes: NDArray[np.int64] | None = None
    label: int | None = None
    class_vector: Floats | None = None
    psi: float | None = None
    psi_cutoff: int | None = None
    noise_mode: NoiseMode | None = None
    style_mix: tuple[int, int, int] | None = None
    rotation: float | None = None
    translation: tuple[float, float] | None = None
    image: Bytes | None = None
    image_to: Bytes | None = None
    blend: float | None = None
    format: OutputFormat = "uint8"
    quality: int = 0
    denoising: Denoising | None = None

    @property
    def count(self) -> int:
        """How many pictures were asked for."""
        latents = (rows for rows in (self.z, self.ws, self.codes) if rows is not None)
        return len(next(latents, self.seeds))


def generation(**parameters: Unpack[Parameters]) -> Generation:
    """Check what can be checked without the model, and bring it into one form. InvalidRequest names the field."""
    if unknown := sorted(parameters.keys() - Parameters.__annotations__.keys()):
        raise TypeError(f"generate() got an unexpected keyword argument {unknown[0]!r}")
    given = [name for name in ("seeds", "z", "ws", "codes") if parameters.get(name) is not None]
    if not given and parameters.get("image") is not None:
        parameters["seeds"], given = IMAGE_SEED, ["seeds"]
    if len(given) != 1:
        raise InvalidRequest("seeds", " and ".join(given) or "none", "exactly one of seeds, z, ws and codes")
    output = parameters.get("format", "uint8")
    if output not in OUTPUT_FORMATS:
        raise InvalidRequest("format", output, f"one of {', '.join(OUTPUT_FORMATS)}")
    noise_mode = parameters.get("noise_mode")
    if noise_mode is not None and noise_mode not in NOISE_MODES:
        raise InvalidRequest("noise_mode", noise_mode, f"one of {', '.join(NOISE_MODES)}")
    quality = parameters.get("quality", 0)
    if not 0 <= quality <= 100:
        raise InvalidRequest("quality", quality, "1 to 100, or 0 for the default")
    psi, vector, mix = parameters.get("psi"), parameters.get("class_vector"), parameters.get("style_mix")
    rotation, translation = parameters.get("rotation"), parameters.get("translation")
    image, image_to = _pixels("image", parameters.get("image")), _pixels("image_to", parameters.get("image_to"))
    blend = parameters.get("blend")
    blend = None if blend is None else _single(blend)
    check_pictures(image, image_to, blend)
    return Generation(
        seeds=_seeds(parameters.get("seeds"), parameters.get("count")),
        z=_latents("z", parameters.get("z"), 2),
        ws=_latents("ws", parameters.get("ws"), 3),
        codes=_codes(parameters.get("codes")),
        label=_optional("label", parameters.get("label")),
        class_vector=None if vector is None else np.ascontiguousarray(vector, np.float32).reshape(-1),
        psi=None if psi is None else _single(psi),
        psi_cutoff=_optional("psi_cutoff", parameters.get("psi_cutoff")),
        noise_mode=noise_mode,
        style_mix=None if mix is None else _style_mix(mix),
        rotation=None if rotation is None else _single(rotation),
        translation=None if translation is None else _translation(translation),
        image=image,
        image_to=image_to,
        blend=blend,
        format=output,
        quality=quality,
        denoising=denoising(parameters, image),
    )


def check_seed(field: str, seed: int) -> None:
    """Raise InvalidRequest unless the seed is one that numpy's RandomState takes."""
    if not 0 <= seed <= MAX_SEED:
        raise InvalidRequest(field, seed, f"an integer from 0 to {MAX_SEED}")


def _seeds(seeds: int | Iterable[int] | None, count: int | None) -> tuple[int, ...]:
    if seeds is None:
        if count is not None:
            raise InvalidRequest("count", count, "none unless there is exactly one seed")
        return ()
    listed = [_seed("seeds", seed) for seed in (seeds if isinstance(seeds, Iterable) else [seeds])]
    if not listed:
        raise InvalidRequest("seeds", "an empty list", "one seed or more")
    if count is None:
        return tuple(listed)
    if len(listed) != 1:
        raise InvalidRequest("count", count, f"none unless there is exactly one seed; there are {len(listed)}")
    if not 1 <= count <= MAX_COUNT:
        raise InvalidRequest("count", count, f"1 to {MAX_COUNT}")
    _seed("seeds", listed[0] + count - 1)
    return tuple(range(listed[0], listed[0] + count))


def _seed(field: str, seed: int) -> int:
    number = _integer(field, seed)
    check_seed(field, number)
    return number


def _integer(field: str, value: int) -> int:
    """An int of any kind (numpy's too) as a plain one that fits 64 bits."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidRequest(field, value, "an integer") from None
    if not -(2**63) <= number < 2**63:
        raise InvalidRequest(field, number, "an integer of 64 bits")
    return number


def _optional(field: str, value: int | None) -> int | None:
    return None if value is None else _integer(field, value)


def _style_mix(mix: tuple[int, int, int]) -> tuple[int, int, int]:
    if len(mix) != 3:
        raise InvalidRequest("style_mix", mix, "(seed, first layer, last layer)")
    seed, first, last = mix
    return _seed("style_mix", seed), _integer("style_mix", first), _integer("style_mix", last)


def _translation(translation: tuple[float, float]) -> tuple[float, float]:
    if len(translation) != 2:
        raise InvalidRequest("translation", translation, "(x, y)")
    x, y = translation
    return _single(x), _single(y)


def _pixels(field: str, picture: PictureLike | None) -> Bytes | None:
    return None if picture is None else pixels_of(field, picture)


def _single(value: float) -> float:
    """The value as a float32 has it, which is what a message carries."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _latents(field: str, values: ArrayLike | None, ndim: int) -> Floats | None:
    """float32 with `ndim` axes, the first over pictures; a single latent gets that axis."""
    if values is None:
        return None
    latents = np.asarray(values, np.float32, order="C")
    if latents.ndim == ndim - 1:
        latents = latents[None]
    if latents.ndim != ndim or len(latents) == 0:
        allowed = "[z_dim] or [N, z_dim]" if ndim == 2 else "[num_ws, w_dim] or [N, num_ws, w_dim]"
        raise InvalidRequest(field, f"shape {list(latents.shape)}", allowed)
    return latents


def _codes(values: ArrayLike | None) -> NDArray[np.int64] | None:
    """int64 [N, h, w]; those of a single picture get the first axis."""
    if values is None:
        return None
    codes = np.asarray(values)
    if codes.ndim == 2:
        codes = codes[None]
    if codes.dtype.kind not in "iu" or codes.ndim != 3 or codes.size == 0:
        raise InvalidRequest("codes", f"{codes.dtype} {list(codes.shape)}", "integers [h, w] or [N, h, w]")
    if codes.min() < 0 or codes.max() > MAX_CODE:
        raise InvalidRequest("codes", f"{codes.min()} to {codes.max()}", f"integers from 0 to {MAX_CODE}")
    return codes.astype(np.int64)
