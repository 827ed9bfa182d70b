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

    n̂ = (x − y₀)/s from the image as `clip` limits it.
    """
    calls = []
    for now, after in itertools.pairwise(course.levels):
        s, end = now.ratio, after.ratio
        half = (end - s) / (2.0 * s)
        first = Row(
            **course.image_of_exploding(now),
            state=end / s,
            current=1.0 - end / s,
            save_state=1.0 + half if end > 0.0 else 0.0,
            save_current=-half if end > 0.0 else 0.0,
            clamp=course.options.clip,
            push=0.0,
        )
        calls.append(Call(now, first))
        if end > 0.0:
            half = (end - s) / (2.0 * end)
            image = course.image_of_exploding(after)
            second = Row(**image, saved=1.0, state=half, current=-half, clamp=course.options.clip, push=0.0)
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
