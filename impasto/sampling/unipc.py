"""unipc: the unified predictor-corrector of Zhao et al. 2023, second order, predicting x₀ (algorithms 1 and 2).

Written for x = α·x₀ + σ·n at this call, with a dash for the next one and an underline for the one before, λ = ln(α/σ),
h = λ' − λ; y₀ is the predicted image, u the state of the call before after its correction. With e = e^−h − 1 and B = e
("bh2") or −h ("bh1"):

    predictor:  x' = σ'/σ·x_c − α'·e·y₀ − α'·B·½·(y₁ − y₀)/r,   r = (λ₋ − λ)/h
    corrector:  x_c = σ/σ₋·u − α·e₋·y₁ − α·B₋·(ρ₁·(y₀ − y₁) + ρ₀·(y₂ − y₁)/r₋)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from impasto.kernels.sampler_row import Row
from impasto.sampling.course import Call, Course
from impasto.sampling.schedule import NoiseLevel


def unipc(course: Course) -> list[Call]:
    """The corrector of the step before, and the predictor of this one, in one row."""
    calls = []
    levels, solver = course.levels, course.options.solver
    last = len(levels) - 2
    for index in range(last + 1):
        now, after = levels[index], levels[index + 1]
        kept, whole = _linear(now, after)
        past = 0.0 if index in (0, last) else _predicted(levels[index - 1 : index + 2], solver)
        image = course.image(now)
        if index == 0:
            row = Row(**image, state=kept, current=whole, save_state=1.0)
        else:
            of_saved, *of_outputs = _corrected(levels[max(index - 2, 0) : index + 1], solver)
            row = Row(
                **image,
                saved=kept * of_saved,
                current=kept * of_outputs[0] + whole - past,
                past1=kept * of_outputs[1] + past,
                past2=kept * of_outputs[2],
                save_saved=of_saved,
                save_current=of_outputs[0],
                save_past1=of_outputs[1],
                save_past2=of_outputs[2],
            )
        calls.append(Call(now, row))
    return calls


def _linear(now: NoiseLevel, after: NoiseLevel) -> tuple[float, float]:
    """σ'/σ and −α'·e: the first-order step."""
    return after.sigma / now.sigma, -after.alpha * math.expm1(now.log_snr - after.log_snr)


def _predicted(levels: Sequence[NoiseLevel], solver: str) -> float:
    """The predictor's coefficient of y₁ − y₀, from the levels before, now and after."""
    before, now, after = levels
    h = after.log_snr - now.log_snr
    return -after.alpha * _scale(h, solver) * 0.5 * h / (before.log_snr - now.log_snr)


def _corrected(levels: Sequence[NoiseLevel], solver: str) -> tuple[float, float, float, float]:
    """The corrector's coefficients of u, y₀, y₁ and y₂: of first order with two levels, of second with three."""
    *earlier, before, now = levels
    h = now.log_snr - before.log_snr
    kept, whole = _linear(before, now)
    scale = -now.alpha * _scale(h, solver)
    if not earlier:
        return kept, scale * 0.5, whole - scale * 0.5, 0.0
    ratio = (earlier[0].log_snr - before.log_snr) / h
    first, second = _moments(h, solver)
    of_past = (first - second) / (1.0 - ratio)
    of_current, of_past = scale * (first - of_past), scale * of_past / ratio
    return kept, of_current, whole - of_current - of_past, of_past


def _scale(h: float, solver: str) -> float:
    return math.expm1(-h) if solver == "bh2" else -h


def _moments(h: float, solver: str) -> tuple[float, float]:
    """b₁ and b₂, which solve ρ₀ + ρ₁ = b₁, r₋·ρ₀ + ρ₁ = b₂."""
    once = math.expm1(-h) / -h - 1.0
    return once / _scale(h, solver), 2.0 * (once / -h - 0.5) / _scale(h, solver)
