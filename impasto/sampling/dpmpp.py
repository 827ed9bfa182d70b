"""The samplers of DPM-Solver++ (Lu et al. 2022): dpmpp_2m, dpmpp_2m_sde and dpmpp_sde.

Written for x = α·x₀ + σ·n at this call, with a dash for the next one, λ = ln(α/σ) and h = λ' − λ; y₀ is the predicted
image.
"""

from __future__ import annotations

import itertools
import math

from impasto.kernels.sampler_row import Row
from impasto.sampling.course import Call, Course
from impasto.sampling.euler import ancestral
from impasto.sampling.grid import timestep_of
from impasto.sampling.schedule import NoiseLevel

FEW_STEPS = 15
"""Below this many, `lower_order_final` counts."""


def dpmpp_2m(course: Course) -> list[Call]:
    """x' = σ'/σ·x + B·(y₀ + (y₀ − y₁)/(2r)), B = −α'·(e^−h − 1), r = h₋/h; h₋ of the step before.

    The first step and, by the options, the last are of first order: x' = σ'/σ·x + B·y₀.
    """
    calls = []
    for index, (now, after) in enumerate(itertools.pairwise(course.levels)):
        whole = -after.alpha * math.expm1(now.log_snr - after.log_snr)
        calls.append(Call(now, _second_order(course, index, after.sigma / now.sigma, whole)))
    return calls


def dpmpp_2m_sde(course: Course) -> list[Call]:
    """dpmpp_2m with σ'/σ·e^−h for σ'/σ, B = −α'·(e^−2h − 1), and noise σ'·√(1 − e^−2h)."""
    calls = []
    for index, (now, after) in enumerate(itertools.pairwise(course.levels)):
        h = after.log_snr - now.log_snr
        faded = -math.expm1(-2.0 * h)
        kept = after.sigma / now.sigma * math.exp(-h)
        calls.append(Call(now, _second_order(course, index, kept, after.alpha * faded, after.sigma * math.sqrt(faded))))
    return calls


def dpmpp_sde(course: Course) -> list[Call]:
    """Two ancestral steps from s, to m = √(s·s') and, with the image predicted there, to s'; one step where s' = 0.

    The state is the variance-exploding x₀ + s·n. Both steps' noise is of one Brownian path W over the noise levels,
    (W(m) − W(s))/√(s − m) and (W(s') − W(s))/√(s − s'): with n₁ and n₂ the two calls' own noise,

        first: n₁        second: (√(s − m)·n₁ + √(m − s')·n₂)/√(s − s')

    where the second call finds n₁ again in x − (the first call's step without noise), of which it has saved its share.
    """
    ratios = course.schedule.ratios()
    calls = []
    for now, after in itertools.pairwise(course.levels):
        s, end = now.ratio, after.ratio
        image = course.image_of_exploding(now)
        if end == 0.0:
            calls.append(Call(now, Row(**image, current=1.0, push=0.0)))
            continue
        middle = math.sqrt(s * end)
        between = NoiseLevel.of_ratio(timestep_of(middle, ratios), middle)
        (down, up), (whole_down, whole_up) = ancestral(s, middle), ancestral(s, end)
        again = whole_up * math.sqrt((s - middle) / (s - end)) / up
        first = Row(
            **image,
            state=down / s,
            current=1.0 - down / s,
            noise=up,
            save_state=whole_down / s - again * down / s,
            save_current=-again * (1.0 - down / s),
            push=0.0,
        )
        second = Row(
            **course.image_of_exploding(between),
            state=again,
            current=1.0 - whole_down / s,
            saved=1.0,
            noise=whole_up * math.sqrt((middle - end) / (s - end)),
            push=0.0,
        )
        calls += [Call(now, first), Call(between, second)]
    return calls


def _second_order(course: Course, index: int, kept: float, whole: float, noise: float = 0.0) -> Row:
    before, now, after = course.levels[index - 1], course.levels[index], course.levels[index + 1]
    image = course.image(now)
    if _first_order(course, index):
        return Row(**image, state=kept, current=whole, noise=noise)
    past = 0.5 * whole * (after.log_snr - now.log_snr) / (now.log_snr - before.log_snr)
    return Row(**image, state=kept, current=whole + past, past1=-past, noise=noise)


def _first_order(course: Course, index: int) -> bool:
    if index == 0:
        return True
    options, end = course.options, course.levels[-1]
    few = options.lower_order_final and course.steps < FEW_STEPS
    return index == len(course.levels) - 2 and (options.euler_at_final or few or end.sigma == 0.0)
