"""The samplers that follow the ordinary differential equation straight: euler, euler_a, heun and flow_euler.

Written for a variance-exploding state x = x₀ + s·n (Karras et al. 2022, algorithms 1 and 2), with a dash for the next
level; y₀ is the predicted image. flow_euler's state is (1 − s)·x₀ + s·n.
"""

from __future__ import annotations

import itertools
import math

from impasto.kernels.sampler_row import Row
from impasto.sampling.course import Call, Course
from impasto.sampling.schedule import NoiseLevel


def euler(course: Course) -> list[Call]:
    """x' = x + (s' − s)·n̂, with n̂ the noise that the model predicts."""
    return [Call(now, _towards(course, now, after.ratio)) for now, after in itertools.pairwise(course.levels)]


def euler_a(course: Course) -> list[Call]:
    """x' = x + (down − s)·n̂ + up·n, where down² + up² = s'²."""
    calls = []
    for now, after in itertools.pairwise(course.levels):
        down, up = ancestral(now.ratio, after.ratio)
        calls.append(Call(now, _towards(course, now, down, noise=up)))
    return calls


def heun(course: Course) -> list[Call]:
    """x' = x + (s' − s)/2·(n̂ + n̂'), n̂' from a second call at the end of an Euler step; one call where s' = 0.

    With `clip`, n̂ = (x − y₀)/s from the image as it limits it.
    """
    calls = []
    for now, after in itertools.pairwise(course.levels):
        whole = after.ratio - now.ratio
        again = after.ratio > 0.0
        terms, of_state, of_current = _slope(course, now)
        first = Row(
            **terms,
            state=1.0 + whole * of_state,
            current=whole * of_current,
            save_state=1.0 + 0.5 * whole * of_state if again else 0.0,
            save_current=0.5 * whole * of_current if again else 0.0,
            push=0.0,
        )
        calls.append(Call(now, first))
        if again:
            terms, of_state, of_current = _slope(course, after)
            second = Row(**terms, saved=1.0, state=0.5 * whole * of_state, current=0.5 * whole * of_current, push=0.0)
            calls.append(Call(after, second))
    return calls


def flow_euler(course: Course) -> list[Call]:
    """x' = x + (s' − s)·m; stochastic: x' = (1 − s')·y₀ + s'·n (Esser et al. 2024, eq. 1 and 4)."""
    calls = []
    for now, after in itertools.pairwise(course.levels):
        if course.options.stochastic:
            row = Row(**course.image(now), current=after.alpha, noise=after.sigma, push=0.0)
        else:
            row = Row(convert_output=0.0, state=1.0, output=after.sigma - now.sigma, push=0.0)
        calls.append(Call(now, row))
    return calls


def ancestral(s: float, after: float) -> tuple[float, float]:
    """(down, up): go down to `down`, then add noise `up`, to be at `after`."""
    up = after * math.sqrt(1.0 - (after / s) ** 2)
    return after**2 / s, up


def _towards(course: Course, now: NoiseLevel, end: float, noise: float = 0.0) -> Row:
    of_state, of_output = now.noise(course.schedule.prediction)
    step = end - now.ratio
    return Row(
        convert_output=0.0,
        state=1.0 + step * of_state * now.alpha,
        output=step * of_output,
        noise=noise,
        push=0.0,
    )


def _slope(course: Course, level: NoiseLevel) -> tuple[dict[str, float], float, float]:
    """The row's cells that make y₀, the output or the limited image; and a and b of n̂ = a·x + b·y₀."""
    if course.options.clip < math.inf:
        cells = {**course.image_of_exploding(level), "clamp": course.options.clip}
        return cells, 1.0 / level.ratio, -1.0 / level.ratio
    # Not by way of the image, since x − (x − s·n̂) keeps few digits of n̂ where s is small.
    of_state, of_output = level.noise(course.schedule.prediction)
    return {}, of_state * level.alpha, of_output
