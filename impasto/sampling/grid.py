"""Which noise levels a sampler goes through: timesteps, their spacing, and the curves of sigma.

Each grid is a function (schedule, steps, options) -> levels, falling, of which the last is where the result is. They
are those of diffusers' schedulers; a sigma is rounded to float32, as it is there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from impasto.errors import InvalidRequest
from impasto.sampling.options import SamplerOptions
from impasto.sampling.schedule import NoiseLevel, NoiseSchedule

Levels = tuple[NoiseLevel, ...]
Array = NDArray[np.float64]

RHO = 7.0
CLEAN = NoiseLevel(0.0, 1.0, 0.0)


def discrete(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Levels:
    """Whole timesteps at the training's own levels; the end is clean."""
    timesteps = np.round(_spaced(schedule, steps, options))
    return (*(schedule.level(int(t)) for t in timesteps), CLEAN)


def repeated(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Levels:
    """`discrete` with the second level twice: plms takes its first step in two calls."""
    levels = discrete(schedule, steps, options)
    return levels if steps == 1 else levels[:2] + levels[1:]


def distilled(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Levels:
    """Every so many of the timesteps that a latent consistency model was distilled at; the end is clean."""
    count = options.original_steps
    if count > schedule.train_steps:
        raise InvalidRequest("original_steps", count, f"up to the model's {schedule.train_steps} timesteps")
    timesteps = np.arange(count, 0, -1) * (schedule.train_steps // count) - 1
    timesteps = timesteps[np.floor(np.linspace(0, count, steps, endpoint=False)).astype(int)]
    return (*(schedule.level(int(t)) for t in timesteps), CLEAN)


def exploding(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Levels:
    """Timesteps with fractions; a curve of sigma goes between the levels of the first and the last."""
    ratios = schedule.ratios()
    timesteps = _spaced(schedule, steps, options)
    sigmas = np.interp(timesteps, np.arange(len(ratios)), ratios)
    if options.sigmas != "interpolated":
        sigmas = _curve(float(sigmas[0]), float(sigmas[-1]), steps, options)
        timesteps = np.array([timestep_of(sigma, ratios) for sigma in sigmas])
    return _of_ratios(timesteps, sigmas, float(ratios[0]) if options.final_sigma == "sigma_min" else 0.0)


def multistep(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Levels:
    """Whole timesteps, as many as steps out of one more; a curve of sigma goes over the training's whole range."""
    if schedule.is_flow:
        sigmas = np.flip(1.0 - np.linspace(1.0, 1.0 / schedule.train_steps, steps + 1))[:-1]
        return _of_flow(schedule, _shifted(sigmas, options), whole=True)
    return _multistep(schedule, steps, options, rounded=schedule.beta_schedule != "squaredcos_cap_v2")


def unipc(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Levels:
    """`multistep`, but where diffusers differs: a flow starts at σ = 1, less a little for its logarithm."""
    if schedule.is_flow:
        sigmas = _shifted(np.linspace(1.0, 1.0 / schedule.train_steps, steps + 1)[:-1], options)
        sigmas[0] = min(sigmas[0], 1.0 - 1e-6)
        return _of_flow(schedule, sigmas, whole=True)
    levels = _multistep(schedule, steps, options, rounded=True)
    if options.final_sigma == "sigma_min" and options.sigmas != "interpolated":
        return (*levels[:-1], levels[-2])
    return levels


def flow(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Levels:
    """Sigmas of a flow model, shifted; `shift`, but not `mu`, moves the lowest one twice, as it does in diffusers."""
    if options.spacing == "leading":
        raise InvalidRequest("spacing", "leading", "linspace, trailing with sampler flow_euler")
    if options.spacing == "trailing":
        low = 1.0 / steps
    else:
        low = 1.0 / schedule.train_steps
        low = low if options.mu is not None else float(_shifted(np.array([low]), options)[0])
    sigmas = _shifted(np.linspace(1.0, low, steps), options)
    if options.sigmas != "interpolated":
        sigmas = _curve(float(sigmas[0]), float(sigmas[-1]), steps, options)
    return _of_flow(schedule, sigmas, whole=False)


def timestep_of(sigma: float, ratios: NDArray[np.float32]) -> float:
    """The timestep, with its fraction, whose sigma/alpha is `sigma`, by its logarithm; within the training's."""
    return float(np.interp(math.log(sigma), np.log(ratios), np.arange(len(ratios))))


def _spaced(schedule: NoiseSchedule, steps: int, options: SamplerOptions) -> Array:
    """Timesteps [steps], falling; of linspace with their fractions."""
    train = schedule.train_steps
    match options.spacing:
        case "leading":
            return _leading(train, steps, train // steps, options)
        case "trailing":
            return _trailing(train, steps)
        case _:
            return np.linspace(0, train - 1, steps)[::-1]


def _leading(train: int, steps: int, stride: int, options: SamplerOptions) -> Array:
    timesteps = np.arange(steps)[::-1] * stride + options.steps_offset
    if timesteps[0] >= train:
        most = options.steps_offset - (int(timesteps[0]) - train + 1)
        raise InvalidRequest("steps_offset", options.steps_offset, f"up to {most} with {steps} steps")
    return timesteps.astype(np.float64)


def _trailing(train: int, steps: int) -> Array:
    # The slice drops the timestep -1 that the rounding of the stride adds at some step counts, 61 for one.
    return np.arange(train, 0, -train / steps).round()[:steps] - 1


def _multistep(schedule: NoiseSchedule, steps: int, options: SamplerOptions, *, rounded: bool) -> Levels:
    train, ratios = schedule.train_steps, schedule.ratios()
    match options.spacing:
        case "leading":
            timesteps = _leading(train, steps + 1, train // (steps + 1), options)[:-1]
        case "trailing":
            timesteps = _trailing(train, steps)
        case _:
            timesteps = np.linspace(0, train - 1, steps + 1).round()[::-1][:-1]
    sigmas = np.interp(timesteps, np.arange(train), ratios)
    if options.sigmas != "interpolated":
        sigmas = _curve(float(ratios[-1]), float(ratios[0]), steps, options)
        timesteps = np.array([timestep_of(sigma, ratios) for sigma in sigmas])
        timesteps = timesteps.round() if rounded and options.sigmas == "karras" else np.trunc(timesteps)
    return _of_ratios(timesteps, sigmas, float(ratios[0]) if options.final_sigma == "sigma_min" else 0.0)


def _curve(most: float, least: float, steps: int, options: SamplerOptions) -> Array:
    if options.sigmas == "exponential":
        return np.exp(np.linspace(math.log(most), math.log(least), steps))
    return np.asarray(np.linspace(most ** (1 / RHO), least ** (1 / RHO), steps) ** RHO)


def _shifted(sigmas: Array, options: SamplerOptions) -> Array:
    shift = options.shift if options.mu is None else math.exp(options.mu)
    return np.asarray(shift * sigmas / (1.0 + (shift - 1.0) * sigmas))


def _of_ratios(timesteps: Array, sigmas: Array, final: float) -> Levels:
    levels = zip(timesteps, _float32(sigmas), strict=True)
    return (*(NoiseLevel.of_ratio(float(t), s) for t, s in levels), NoiseLevel.of_ratio(0.0, *_float32([final])))


def _of_flow(schedule: NoiseSchedule, sigmas: Array, *, whole: bool) -> Levels:
    timesteps = sigmas * schedule.train_steps
    levels = zip(np.trunc(timesteps) if whole else _float32(timesteps), _float32(sigmas), strict=True)
    return (*(NoiseLevel(float(t), 1.0 - s, s) for t, s in levels), CLEAN)


def _float32(values: Array | list[float]) -> list[float]:
    return [float(value) for value in np.asarray(values, np.float32)]
