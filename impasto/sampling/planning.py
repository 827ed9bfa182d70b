"""One request's walk through a sampler, worked out before it starts: a row a model call."""

from __future__ import annotations

import dataclasses
import itertools
import math

from impasto.errors import InvalidRequest
from impasto.kernels.sampler_row import HISTORY, Row
from impasto.sampling.course import Call, Course
from impasto.sampling.options import SamplerOptions
from impasto.sampling.registry import REGISTRY, Sampler
from impasto.sampling.schedule import NoiseLevel, NoiseSchedule

SAMPLERS = tuple(REGISTRY)
"""Names of the samplers."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a request does at each of its model calls.

    The latent at the start is noise_scale·n + image_scale·x, with n standard normal and x the latent of the image that
    is to be changed; after the last row it is the latent of the picture.
    """

    rows: tuple[Row, ...]
    """A row a model call, float64; `input` is for the call after it, 1 in the last row."""
    timesteps: tuple[float, ...]
    """What the model is told at each call."""
    first_input: float
    """What the first model input is multiplied by."""
    noise_scale: float
    image_scale: float
    """0 without an image."""
    denoised: tuple[tuple[float, float], ...]
    """p and q of the image x₀ = p·x + q·m that is likely at each call, from its latent and its (guided) output."""
    levels: tuple[tuple[float, float], ...]
    """a and s of the latent a·x₀ + s·n after each call: how much noise what is kept of an image gets, to inpaint."""

    @property
    def calls(self) -> int:
        """Model calls, one a row; heun and dpmpp_sde make two a step, plms one more than its steps."""
        return len(self.rows)

    def guided(self, scale: float, rescale: float = 0.0) -> Plan:
        """The plan with classifier-free guidance; for rows that have an unconditional half.

        InvalidRequest unless `scale` is finite and `rescale` is 0 to 1.
        """
        if not math.isfinite(scale):
            raise InvalidRequest("guidance_scale", scale, "finite")
        if not 0.0 <= rescale <= 1.0:
            raise InvalidRequest("guidance_rescale", rescale, "0 to 1")
        rows = tuple(dataclasses.replace(row, guidance=scale, rescale=rescale) for row in self.rows)
        return dataclasses.replace(self, rows=rows)


def plan(
    sampler: str,
    schedule: NoiseSchedule,
    steps: int,
    options: SamplerOptions = SamplerOptions(),  # noqa: B008  (frozen)
    *,
    strength: float | None = None,
) -> Plan:
    """The plan of a sampler by name. InvalidRequest names what is unknown, out of range, or not this sampler's.

    With a `strength`, above 0 to 1, it starts from an image with as much noise as remains after the first
    (1 − strength)·steps steps, as diffusers' image-to-image pipelines do; without, from noise alone.
    """
    kind = _kind(sampler)
    _check(sampler, kind, schedule, steps, options)
    options = dataclasses.replace(options, spacing=options.spacing or kind.spacing)
    start = 0 if strength is None else _start(schedule, steps, strength)
    calls = kind.calls(Course(schedule, options, steps, kind.grid(schedule, steps, options)[start:]))
    first, *later = [_scales(kind, call.level) for call in calls]
    inputs = [call.level.alpha if kind.exploding else 1.0 for call in calls]
    prediction = schedule.prediction
    return Plan(
        rows=_joined(calls, inputs),
        timesteps=tuple(call.level.timestep for call in calls),
        first_input=inputs[0],
        noise_scale=_noise_scale(kind, options, calls[0].level) if strength is None else first[1],
        image_scale=0.0 if strength is None else first[0],
        denoised=tuple(_image(kind, call.level, prediction) for call in calls),
        levels=(*later, (1.0, 0.0)),
    )


def options_for(sampler: str, options: SamplerOptions) -> SamplerOptions:
    """Of a model's options, those that the sampler takes, as diffusers keeps a configuration across schedulers."""
    kind = _kind(sampler)
    return options.only(kind.takes | kind.takes_of_flow)


def _kind(sampler: str) -> Sampler:
    if sampler not in REGISTRY:
        raise InvalidRequest("sampler", sampler, ", ".join(SAMPLERS))
    return REGISTRY[sampler]


def _check(name: str, kind: Sampler, schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> None:
    if schedule.prediction not in kind.predictions:
        suits = [other for other, kind in REGISTRY.items() if schedule.prediction in kind.predictions]
        raise InvalidRequest(
            "sampler", name, f"one for a model that predicts {schedule.prediction}: {', '.join(suits)}"
        )
    for field in options.changed():
        if field not in kind.taken(schedule):
            raise InvalidRequest(
                field, getattr(options, field), f"to leave it out: sampler {name} has no use for it here"
            )
    most = kind.most_steps(schedule, options)
    if not 1 <= steps <= most:
        raise InvalidRequest("steps", steps, f"1 to {most} with sampler {name}")


def _start(schedule: NoiseSchedule, steps: int, strength: float) -> int:
    """The step of the grid to start at. The pipelines of flow models round the other way than those before them."""
    if not 0.0 < strength <= 1.0:
        raise InvalidRequest("strength", strength, "above 0, up to 1")
    start = int(steps - steps * strength) if schedule.is_flow else steps - int(steps * strength)
    if start >= steps:
        raise InvalidRequest("strength", strength, f"at least {1 / steps:.3g} with {steps} steps")
    return start


def _noise_scale(kind: Sampler, options: SamplerOptions, first: NoiseLevel) -> float:
    """The noise of a start without an image: leading spacing counts an image of variance 1 in, as diffusers does."""
    if not kind.exploding:
        return 1.0
    return math.hypot(first.ratio, 1.0) if options.spacing == "leading" else first.ratio


def _scales(kind: Sampler, level: NoiseLevel) -> tuple[float, float]:
    """a and s of the state a·x₀ + s·n at a level."""
    return (1.0, level.ratio) if kind.exploding else (level.alpha, level.sigma)


def _image(kind: Sampler, level: NoiseLevel, prediction: str) -> tuple[float, float]:
    of_state, of_output = level.image(prediction)
    return of_state * (level.alpha if kind.exploding else 1.0), of_output


def _joined(calls: list[Call], inputs: list[float]) -> tuple[Row, ...]:
    pushed = itertools.accumulate((int(call.row.push) for call in calls), initial=0)
    return tuple(
        dataclasses.replace(call.row, head=float(count % HISTORY), input=scale)
        for call, count, scale in zip(calls, pushed, [*inputs[1:], 1.0], strict=False)
    )
