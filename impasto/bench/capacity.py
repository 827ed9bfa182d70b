"""The highest rate that meets a latency limit."""

from __future__ import annotations

from collections.abc import Callable

from impasto.bench.result import Capacity, Trial

CLOSE = 1.05
"""The search ends when the lowest rate that does not meet is at most this times the highest that does."""
MOST_TRIALS = 12


def highest_rate(
    try_rate: Callable[[float], Trial], first: float, *, latency_limit_ms: float, percentile: float
) -> Capacity:
    """Bisect, from `first` on, which doubles while it meets: in the ratio of the rates, to within 5 %.

    `try_rate` runs a load of so many requests/s and says whether it met the limit; a rate of 0 means that none did.
    """
    trials: list[Trial] = []
    met, unmet = 0.0, 0.0
    rate = first
    while len(trials) < MOST_TRIALS and not (met and unmet and unmet <= CLOSE * met):
        trial = try_rate(rate)
        trials.append(trial)
        if trial.met:
            met = rate
        else:
            unmet = rate
        rate = (met * unmet) ** 0.5 if met and unmet else met * 2 or unmet / 2
    return Capacity(met, latency_limit_ms, percentile, tuple(trials))
