"""Diffusion models in steps: a batch of rows, each with its own sampler, step, guidance, prompt and seed.

A picture's state lives in a slot. One step runs the denoiser on the rows that are asked for, two model rows for a
guided one, then the sampler's row (`impasto.sampling`) on each. The first noise of a seed is
philox.normal(seed, C·h·w, row=1), that of call k philox.normal(seed, C·h·w, step=k). Needs no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from impasto.denoising import Denoising
from impasto.engine.backend import named
from impasto.engine.conditioning import Conditioner
from impasto.engine.noise import NoiseStream, PhiloxNoise, TorchNoise
from impasto.engine.picture import (
    Floats,
    PictureRequest,
    Pixels,
    check_seed,
    fingerprint,
    refuse_fields,
    refuse_pictures,
)
from impasto.engine.sessions import Array, Sessions
from impasto.engine.sizes import Size, Sizes
from impasto.engine.slot_memory import SlotMemory, SlotView
from impasto.engine.stepwise import Ready, SlotPool, Stepped, StepRow, Work, run_steps
from impasto.errors import BackendUnavailable, InvalidRequest
from impasto.export.bundle import Bundle
from impasto.export.plans import graph_files
from impasto.images.pixels import Bytes
from impasto.kernels.sampler_row import COLUMNS, PLACE_COLUMNS, Place, place_table, table
from impasto.sampling import Plan, from_diffusers, options_for, plan
from impasto.sampling.step import step

CPU_ROWS_A_CORE = 2
"""Model rows a core in the largest batch on a CPU, where a larger one gains nothing and keeps a new request waiting."""
DEFAULT_STRENGTH = 0.8
WHITE, GREY = 128, 128
"""The least of a mask's values that count as white, and what a model made to inpaint sees there."""
SLOTS_A_ROW = 4
"""Slots for each model row of the largest batch: what waits between its steps costs memory only."""
CACHED_PLANS = 128
_REFUSED = (
    ("z", "z"),
    ("ws", "ws"),
    ("c", "class_vector"),
    ("psi", "psi"),
    ("cutoff", "psi_cutoff"),
    ("noise_mode", "noise_mode"),
    ("mix", "style_mix"),
    ("rotation", "rotation"),
    ("translation", "translation"),
)
"""What only other models take: the attribute of a PictureRequest, and the field as callers know it."""
_GUIDANCE, _RESCALE, _NOISE, _INPUT = (COLUMNS.index(name) for name in ("guidance", "rescale", "noise", "input"))
_STEP = PLACE_COLUMNS.index("step")

log = logging.getLogger(__name__)


class _Settings(NamedTuple):
    """What decides a plan."""

    sampler: str
    steps: int
    eta: float | None
    strength: float | None
    """None where nothing of an image goes in."""


class _Walk(NamedTuple):
    """A plan as the step takes it."""

    calls: int
    rows: Floats
    timesteps: tuple[Floats, ...]
    plan: Plan


class _Kept(NamedTuple):
    """What stays of an image that is inpainted: where `mask` [1, h, w] is 0, `image` under as much of `noise`."""

    mask: Floats
    image: Floats
    noise: Floats


class _Running(NamedTuple):
    """A picture under way, in its `slot` of the `memory` for its size. `rows` are those of the walk with its guidance.

    `indices` are its rows among the model's inputs and outputs, the second one the unconditional half of a guided
    picture, and `feeds` what the denoiser takes there but for the timestep. `extra` are channels beside the latent's:
    the mask and the latent of what it leaves, for a model made to inpaint.
    """

    slot: int
    memory: SlotView
    indices: tuple[int, ...]
    walk: _Walk
    rows: Floats
    feeds: list[dict[str, Array]]
    noise: NoiseStream
    extra: Floats | None
    kept: _Kept | None

    @property
    def latent(self) -> Floats:
        """[C, h, w], where it is."""
        latent: Floats = self.memory.state.latent[self.slot]
        return latent


class DiffusionEngine:
    """Runs a bundle's denoiser, text encoder, encoder and decoder. A StepEngine; see there for threads."""

    lanes = 0

    def __init__(self, bundle: Bundle, backend: str, precision: str, device: str, threads: int | None) -> None:
        if backend != "onnxruntime":
            raise BackendUnavailable(f"backend: found {backend!r}; diffusion models run on onnxruntime")
        self.manifest = bundle.manifest
        self.digest = bundle.manifest.digest
        self.backend = named(backend, precision)
        self.device = device
        config = bundle.manifest.config
        self._sizes = Sizes.of(bundle.manifest)
        self._usual_latent: tuple[int, ...] = tuple(config["latent"])
        self._schedule, self._sampler, self._options = from_diffusers(config["scheduler"])
        self._defaults = bundle.manifest.defaults
        paths = {graph: bundle.path / file for graph, file in graph_files(bundle, precision).items()}
        seldom = [graph for graph in paths if graph != "denoiser"]
        self._sessions = Sessions(paths, device, threads, bundle.manifest.buckets, shared=seldom)
        self.buckets = self._sessions.buckets(CPU_ROWS_A_CORE)
        self.slots = SLOTS_A_ROW * self.buckets[-1]
        self.decode_batch = 1 if device == "cpu" else 2
        self._conditioner = Conditioner(bundle.path, config, self._sessions)
        self._preview = config.get("preview")
        self._channels = int(config.get("sample_channels", self._usual_latent[0]))
        self._inpaints = self._channels == 2 * self._usual_latent[0] + 1
        self._scale = int(config.get("scale") or 1)
        self._memory = SlotMemory(self.slots, 2 * self.slots, self._shape(self._sizes.most))
        self._outputs: dict[int, Floats] = {}
        self._places = place_table(Place(-1) for _ in range(self.slots))
        self._running: dict[int, _Running] = {}
        self._lock = threading.Lock()
        self._pool = SlotPool(self.slots)
        self._walk = functools.lru_cache(CACHED_PLANS)(self._make_walk)

    def check(self, request: PictureRequest) -> None:
        refuse_fields(request, _REFUSED, "nothing; this is a diffusion model")
        if request.seed is None:
            raise InvalidRequest("seeds", "none", "one or more")
        check_seed("seeds", request.seed)
        refuse_pictures(request, "image_to", "blend")
        self._conditioner.check(request)
        wanted = request.denoising or Denoising()
        wanted.check(request.image)
        settings = self._settings(request)
        self._walk(settings)
        scale = self._guidance(request)
        if not self._conditioner.can_guide:
            for field in ("guidance_scale", "guidance_rescale"):
                if getattr(wanted, field) is not None:
                    raise InvalidRequest(field, getattr(wanted, field), "nothing; this model has nothing to guide by")
        elif wanted.guidance_rescale and scale <= 1.0:
            raise InvalidRequest("guidance_rescale", wanted.guidance_rescale, "nothing without guidance")
        if wanted.noise == "torch" and settings.sampler == "dpmpp_sde":
            raise InvalidRequest("noise", "torch", "impasto with sampler dpmpp_sde, whose noise is a Brownian path")
        self._check_pictures(wanted, request.image)
        shape = self._shape(self._sizes.asked(wanted, request.image))
        if wanted.latent is not None and wanted.latent.shape != (1, *shape):
            raise InvalidRequest("latent", f"shape {list(wanted.latent.shape[1:])}", f"{list(shape)}")

    def describe(self, request: PictureRequest) -> dict[str, Any]:
        wanted = request.denoising or Denoising()
        settings = self._settings(request)
        parameters: dict[str, Any] = {"sampler": settings.sampler, "steps": settings.steps}
        if self._sizes.sides is not None:
            parameters |= self._sizes.asked(wanted, request.image)._asdict()
        if self._conditioner.prompts is not None:
            parameters["prompt"] = wanted.prompt or ""
            if wanted.negative_prompt is not None:
                parameters["negative_prompt"] = wanted.negative_prompt
        if self._conditioner.classes:
            parameters["class"] = request.label or 0
        if self._conditioner.can_guide:
            parameters["guidance_scale"] = _shortest(self._guidance(request))
        if wanted.guidance_rescale:
            parameters["guidance_rescale"] = _shortest(wanted.guidance_rescale)
        if settings.eta is not None:
            parameters["eta"] = _shortest(settings.eta)
        if request.image is not None:
            parameters |= {"strength": self._strength(wanted), "image": fingerprint(request.image)}
        if wanted.mask is not None:
            parameters["mask"] = fingerprint(wanted.mask)
        if wanted.latent is not None:
            parameters["latent"] = fingerprint(wanted.latent)
        if wanted.noise == "torch":
            parameters["noise"] = "torch"
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "seed": request.seed,
            "parameters": parameters,
        }

    def work(self, request: PictureRequest) -> Work:
        shape = self._shape(self._sizes.asked(request.denoising, request.image))
        return Work(self._walk(self._settings(request)).calls, self._model_rows(request), shape)

    def start(self, slot: int, request: PictureRequest) -> None:
        wanted, image, seed = request.denoising or Denoising(), request.image, request.seed or 0
        walk, guided = self._walk(self._settings(request)), self._model_rows(request) == 2
        size = self._sizes.asked(wanted, image)
        memory = self._memory.view(self._shape(size))
        noise: NoiseStream = TorchNoise(seed) if wanted.noise == "torch" else PhiloxNoise(seed)
        first, encoded = self._beginning(request, walk.plan, noise, memory.shape)
        latent = np.float32(walk.plan.noise_scale) * first
        if encoded is not None:
            latent += np.float32(walk.plan.image_scale) * encoded
        extra = kept = None
        if image is not None and wanted.mask is not None:
            mask = self._latent_mask(wanted.mask)
            if self._inpaints:
                hidden = np.where(wanted.mask.mean(axis=-1, keepdims=True) >= WHITE, np.uint8(GREY), image)
                extra = np.concatenate([mask, self._encode(hidden, noise)])
            elif encoded is not None:
                kept = _Kept(mask, encoded, first)
        rows = walk.rows
        if guided:
            rows = walk.rows.copy()
            rows[:, _GUIDANCE], rows[:, _RESCALE] = self._guidance(request), wanted.guidance_rescale or 0.0
        conditions = self._conditioner.conditions(request, size, guided)
        indices = (slot, self.slots + slot)[: len(conditions)]
        self._places[slot] = place_table([Place(slot, slot, indices[1] if guided else -1, seed)])[0]
        feeds = [
            {"sample": memory.inputs[index : index + 1], **condition}
            for index, condition in zip(indices, conditions, strict=True)
        ]
        self._running[slot] = row = _Running(slot, memory, indices, walk, rows, feeds, noise, extra, kept)
        row.latent[...] = latent
        _write_input(row, walk.plan.first_input)

    def step(self, rows: Sequence[StepRow]) -> dict[int, Floats]:
        with self._lock:
            running = [(self._running[row.slot], row.call) for row in rows]
            self._denoise(running)
            wanted = [(self._running[row.slot], row.call) for row in rows if row.preview]
            previews = {state.slot: self._denoised(state, call) for state, call in wanted}
            self._update([(state, call) for state, call in running if isinstance(state.noise, PhiloxNoise)])
            for state, call in running:
                if not isinstance(state.noise, PhiloxNoise):
                    drawn = state.noise.of_call(state.memory.shape) if state.rows[call, _NOISE] else None
                    self._update([(state, call)], None if drawn is None else drawn[None])
                if state.kept is not None:
                    self._restore(state, call, state.kept)
            return previews

    def latent(self, slot: int) -> Floats:
        return self._running[slot].latent.copy()

    def decode(self, latents: Sequence[Floats]) -> list[Pixels]:
        if "decoder" not in self._sessions:
            return [Pixels(chw=latent) for latent in latents]
        with self._lock:
            decoded = [
                outputs
                for _, same_size in itertools.groupby(latents, np.shape)
                for outputs in self._sessions.run("decoder", [{"latent": latent[None]} for latent in same_size])
            ]
        return [Pixels(chw=outputs["image_float"][0]) for outputs in decoded]

    def preview(self, latent: Floats) -> Pixels:
        if not self._preview:
            return Pixels(chw=latent)
        matrix = np.array(self._preview["matrix"], np.float32)
        bias = np.array(self._preview["bias"], np.float32)[:, None, None]
        colours: Floats = np.einsum("chw,cr->rhw", latent, matrix) + bias
        return Pixels(chw=colours.repeat(self._scale, axis=1).repeat(self._scale, axis=2))

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        made = {event.index: event.pixels for event in self.run_steps(requests) if isinstance(event, Ready)}
        return [made[index] for index in range(len(requests))]

    def run_steps(self, requests: Sequence[PictureRequest]) -> Iterator[Stepped | Ready]:
        return run_steps(self, self._pool, requests)

    def warm_up(self) -> None:
        """Run every graph once, and hold rows of the denoiser side by side to the bytes of each alone."""
        for size in dict.fromkeys((self._sizes.usual, self._sizes.least)):
            self._compare_batches(size)
        self.decode([np.zeros(self._usual_latent, np.float32)])
        if "encoder" in self._sessions:
            usual = self._sizes.usual
            self._encode(np.zeros((usual.height, usual.width, 3), np.uint8), PhiloxNoise(0))

    def close(self) -> None:
        self._sessions.close()

    def _compare_batches(self, size: Size) -> None:
        rng = np.random.default_rng(0)
        condition = self._conditioner.conditions(PictureRequest(seed=0), size, guided=False)[0]
        timestep, shape = np.full(1, 500.0, np.float32), (1, self._channels, *self._shape(size)[1:])
        rows = [
            {"sample": rng.standard_normal(shape).astype(np.float32), "timestep": timestep, **condition}
            for _ in range(max(self._sessions.batches))
        ]
        alone = [self._sessions.run("denoiser", [row])[0]["output"] for row in rows]
        for count in self._sessions.batches:
            together = self._sessions.run("denoiser", rows[:count])
            if any(row["output"].tobytes() != same.tobytes() for row, same in zip(together, alone, strict=False)):
                log.warning("model %s: a batch of %d changed a row's bytes; rows run alone", self.manifest.name, count)
                self._sessions.one_at_a_time()
                break

    def _shape(self, size: Size) -> tuple[int, ...]:
        """That of the latent, [C, h, w]."""
        return self._sizes.latent(self._usual_latent, size)

    def _settings(self, request: PictureRequest) -> _Settings:
        wanted = request.denoising or Denoising()
        strength = None if request.image is None else self._strength(wanted)
        if wanted.mask is not None and strength == 1.0:  # what is painted anew then starts from noise alone
            strength = None
        return _Settings(
            wanted.sampler or self._defaults.get("sampler", self._sampler),
            wanted.steps or int(self._defaults["steps"]),
            wanted.eta,
            strength,
        )

    def _strength(self, wanted: Denoising) -> float:
        """How much of the image is made anew."""
        if wanted.strength is None:
            return DEFAULT_STRENGTH if wanted.mask is None else 1.0
        # The number that was asked for: of 0.7 as a float32, 10 steps would leave 6, and not 7.
        return _shortest(wanted.strength)

    def _make_walk(self, settings: _Settings) -> _Walk:
        options = options_for(settings.sampler, self._options)
        if settings.eta is not None:
            options = dataclasses.replace(options, eta=settings.eta)
        walk = plan(settings.sampler, self._schedule, settings.steps, options, strength=settings.strength)
        timesteps = tuple(np.array([timestep], np.float32) for timestep in walk.timesteps)
        # The rows are in the table: the plan's own would take ten times the memory.
        return _Walk(walk.calls, table(walk.rows), timesteps, dataclasses.replace(walk, rows=()))

    def _guidance(self, request: PictureRequest) -> float:
        if not self._conditioner.can_guide:
            return 1.0
        wanted = request.denoising.guidance_scale if request.denoising else None
        return float(self._defaults.get("guidance_scale", 1.0)) if wanted is None else wanted

    def _model_rows(self, request: PictureRequest) -> int:
        """Rows of the model's batch at each call: two where guidance counts, which is above 1, as in diffusers."""
        return 2 if self._guidance(request) > 1.0 else 1

    def _check_pictures(self, wanted: Denoising, image: Bytes | None) -> None:
        if self._inpaints and (image is None or wanted.mask is None):
            raise InvalidRequest("image, mask", "not both", "both; this model only inpaints")
        if image is not None and "decoder" in self._sessions and "encoder" not in self._sessions:
            raise InvalidRequest("image", "a picture", "nothing; this model's bundle has no encoder")
        self._sizes.check(wanted, image)

    def _beginning(
        self, request: PictureRequest, walk: Plan, noise: NoiseStream, shape: tuple[int, ...]
    ) -> tuple[Floats, Floats | None]:
        """The noise to start from, and the latent of the image where some of it goes in."""
        encoded = None
        if request.image is not None and (walk.image_scale or not self._inpaints):
            encoded = self._encode(request.image, noise)
        given = request.denoising.latent if request.denoising else None
        return noise.first(shape) if given is None else given[0], encoded

    def _encode(self, image: Bytes, noise: NoiseStream) -> Floats:
        """The latent of a picture [H, W, 3]."""
        values = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1.0)
        if "encoder" not in self._sessions:
            return values
        with self._lock:
            found = self._sessions.run("encoder", [{"image_float": values[None]}])[0]
        mean: Floats = found["mean"][0]
        drawn = noise.posterior(mean.shape)
        if drawn is not None:
            mean = mean + found["std"][0] * drawn
        return mean

    def _latent_mask(self, mask: Bytes) -> Floats:
        """1 where the picture is made anew, 0 where it stays: [1, h, w], each the nearest pixel to its corner."""
        white: NDArray[np.bool_] = mask[None, :: self._scale, :: self._scale].mean(axis=-1) >= WHITE
        return white.astype(np.float32)

    def _denoise(self, running: Sequence[tuple[_Running, int]]) -> None:
        indices: list[int] = []
        feeds: list[dict[str, Array]] = []
        for state, call in running:
            for feed in state.feeds:
                feed["timestep"] = state.walk.timesteps[call]
                if state.extra is not None:
                    feed["sample"] = np.concatenate([state.memory.inputs[state.slot], state.extra])[None]
            indices += state.indices
            feeds += state.feeds
        outputs = self._sessions.run("denoiser", feeds)
        self._outputs = {index: row["output"][0] for index, row in zip(indices, outputs, strict=True)}

    def _update(self, running: Sequence[tuple[_Running, int]], noise: Floats | None = None) -> None:
        """Take the sampler's step of these rows, which are of one size."""
        if not running:
            return
        memory = running[0][0].memory
        coefficients = np.concatenate([state.rows[call] for state, call in running]).reshape(len(running), -1)
        places = self._places[[state.slot for state, _ in running]]
        places[:, _STEP] = [call for _, call in running]
        step(memory.state, coefficients, places, self._outputs, memory.inputs, noise=noise)

    def _denoised(self, state: _Running, call: int) -> Floats:
        """What the picture's latent is likely to be: x₀ from the latent and the output of this call."""
        state_part, output_part = state.walk.plan.denoised[call]
        rows = [self._outputs[index] for index in state.indices]
        output = rows[0] if len(rows) == 1 else rows[1] + state.rows[call, _GUIDANCE] * (rows[0] - rows[1])
        denoised: Floats = np.float32(state_part) * state.latent + np.float32(output_part) * output
        return denoised

    def _restore(self, state: _Running, call: int, kept: _Kept) -> None:
        """Put back what stays of the image, noised as far as the latent is after this call."""
        image_part, noise_part = state.walk.plan.levels[call]
        latent = state.latent
        original = np.float32(image_part) * kept.image + np.float32(noise_part) * kept.noise
        latent[...] = kept.mask * latent + (1 - kept.mask) * original
        _write_input(state, float(state.rows[call, _INPUT]))


def _write_input(state: _Running, scale: float) -> None:
    for index in state.indices:
        np.multiply(state.latent, np.float32(scale), out=state.memory.inputs[index])


def _shortest(value: float) -> float:
    """The shortest number that is this float32: the same text whether it came as 0.7 or over the wire."""
    return float(str(np.float32(value)))
