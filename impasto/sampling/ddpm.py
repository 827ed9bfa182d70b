"""The samplers that step between the training's own noise levels: ddpm, ddim, lcm and plms.

Written for x = α·x₀ + σ·n at this call, with a dash for the next one; y₀ is the predicted image, but the model's output
in plms.
"""

from __future__ import annotations

import itertools
import math

from impasto.errors import InvalidRequest
from impasto.kernels.sampler_row import Row
from impasto.sampling.course import Call, Course
from impasto.sampling.grid import CLEAN
from impasto.sampling.schedule import NoiseLevel

ADAMS_BASHFORTH = (
    (1.0,),
    (1 / 2, 1 / 2),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of plms's outputs, the latest first, at its calls 0, 1, 2, 3 and all later ones."""
LCM_SIGMA = 0.5
"""Standard deviation of the data in lcm's boundary condition."""


def ddpm(course: Course) -> list[Call]:
    """Ho et al. 2020, eq. 6 and 7: x' = √a·σ'²/σ²·x + α'·β/σ²·y₀ + d·n with a = (α/α')² and β = 1 − a.

    d² is β·σ'²/σ² ("fixed_small") or β ("fixed_large"); no noise at timestep 0.
    """
    calls = []
    for now, after in itertools.pairwise(course.levels):
        kept = (now.alpha / after.alpha) ** 2
        share = (1.0 - kept) / now.sigma**2
        spread = share * (now.sigma if course.options.variance == "fixed_large" else after.sigma) ** 2
        row = Row(
            **course.image(now),
            state=math.sqrt(kept) * (after.sigma / now.sigma) ** 2,
            current=after.alpha * share,
            noise=math.sqrt(spread) if now.timestep > 0 else 0.0,
            clamp=course.options.clip,
            push=0.0,
        )
        calls.append(Call(now, row))
    return calls


def ddim(course: Course) -> list[Call]:
    """Song et al. 2021, eq. 12 and 16: x' = α'·y₀ + √(σ'² − d²)·n̂ + d·n, d = η·σ'/σ·√(1 − (α/α')²).

    n̂ is the noise that the model predicts, which `clip` leaves as it is.
    """
    calls = []
    for now in course.levels[:-1]:
        after = _earlier(course, now, clean=True)
        spread = course.options.eta * after.sigma / now.sigma * math.sqrt(1.0 - (now.alpha / after.alpha) ** 2)
        kept = math.sqrt(max(after.sigma**2 - spread**2, 0.0))
        of_state, of_output = now.noise(course.schedule.prediction)
        row = Row(
            **course.image(now),
            state=kept * of_state,
            output=kept * of_output,
            current=after.alpha,
            noise=spread,
            clamp=course.options.clip,
            push=0.0,
        )
        calls.append(Call(now, row))
    return calls


def lcm(course: Course) -> list[Call]:
    """Luo et al. 2023, algorithm 3: x' = α'·(skip·x + out·y₀) + σ'·n; no noise after the last call.

    With z the scaled timestep: skip = ¼/(z² + ¼), out = z/√(z² + ¼).
    """
    calls = []
    for now, after in itertools.pairwise(course.levels):
        scaled = now.timestep * course.options.timestep_scaling
        distance = scaled**2 + LCM_SIGMA**2
        row = Row(
            **course.image(now),
            state=after.alpha * LCM_SIGMA**2 / distance,
            current=after.alpha * scaled / math.sqrt(distance),
            noise=after.sigma,
            clamp=course.options.clip,
            push=0.0,
        )
        calls.append(Call(now, row))
    return calls


def plms(course: Course) -> list[Call]:
    """Liu et al. 2022, eq. 11 and 12, without the Runge-Kutta start: x' = A·x + B·n̂.

    n̂ combines this output and past ones, and is converted from v only then. The second call repeats the first step
    from the state before it, with the mean of both outputs.
    """
    if course.schedule.alphas_cumprod[-1] == 0.0:
        raise InvalidRequest("sampler", "plms", "another where the last timestep has no signal: plms divides by it")
    calls = []
    stride = course.schedule.train_steps // course.steps
    for index, level in enumerate(course.levels[:-1]):
        now, after = level, _earlier(course, level, clean=False)
        if index == 1:
            now, after = course.schedule.level(int(level.timestep) + stride), level
        of_state, of_output = now.noise(course.schedule.prediction)
        whole = _transfer(now, after)
        state = after.alpha / now.alpha + whole * of_state
        weights = ADAMS_BASHFORTH[min(index, len(ADAMS_BASHFORTH) - 1)]
        names = ("current", "past1", "past2", "past3")
        row = Row(
            **{name: whole * of_output * weight for name, weight in zip(names, weights, strict=False)},
            state=0.0 if index == 1 else state,
            saved=state if index == 1 else 0.0,
            save_state=1.0 if index == 0 else 0.0,
            push=0.0 if index == 1 else 1.0,
        )
        calls.append(Call(level, row))
    return calls


def _transfer(now: NoiseLevel, after: NoiseLevel) -> float:
    """B of plms: minus (α'² − α²) / (α²·σ' + α·α'·σ)."""
    return (now.alpha**2 - after.alpha**2) / (now.alpha * (now.alpha * after.sigma + after.alpha * now.sigma))


def _earlier(course: Course, now: NoiseLevel, *, clean: bool) -> NoiseLevel:
    """The level a whole stride of timesteps before, which with linspace is not that of the next call.

    Before timestep 0 it is clean, or that of timestep 0: `set_alpha_to_one` says which, and `clean` where it does not.
    """
    timestep = int(now.timestep) - course.schedule.train_steps // course.steps
    if timestep >= 0:
        return course.schedule.level(timestep)
    given = course.options.set_alpha_to_one
    return CLEAN if (clean if given is None else given) else course.schedule.level(0)
