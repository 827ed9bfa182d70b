"""Whether one result of `impasto bench` is worse than another by more than noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from impasto.bench.result import Load, Result, Run, Spread
from impasto.report.compare import METRICS, Metric, ratio, spread
from impasto.report.inputs import ReportError

FEWEST_REPEATS = 3
NOT_THE_WORK = ("seed", "seconds", "requests")
RATE_TOLERANCE = 0.01
"""Relative. A rate that was derived from a measured capacity is never twice the same number."""

Outcome = Literal["regression", "better", "same"]


@dataclass(frozen=True)
class Verdict:
    """One figure of one run in both files. `change` is how many times better; None where a value is 0."""

    run: str
    metric: str
    unit: str
    base: Spread
    new: Spread
    change: Spread | None
    outcome: Outcome


@dataclass(frozen=True)
class Check:
    """What came of a comparison. `remarks` name what was not compared, and what else differs between the files."""

    verdicts: tuple[Verdict, ...]
    broken: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is worse, and nothing that worked is refused now."""
        return not self.broken and all(verdict.outcome != "regression" for verdict in self.verdicts)


def check(base: Result, new: Result, margin: float = 0.02) -> Check:
    """Compare the runs that both results hold by name.

    A figure is a regression where all repeats of `new` are worse than all of `base`, and the medians differ by more
    than the repeats of either do among themselves, and by more than `margin` of the base. Of normal noise alone this
    calls 2 % of figures a regression with three repeats, 0.1 % with five.

    Raises:
        ReportError: The machines, the models or the loads differ, or no run has enough repeats in both.
    """
    _require_same("machine", _machine(new), _machine(base))
    if not {model.name for model in new.models} & {model.name for model in base.models}:
        _require_same("models", _models(new), _models(base))
    runs = {run.name: run for run in new.runs}
    shared = [(run, runs[run.name]) for run in base.runs if run.name in runs]
    verdicts, broken, remarks = [], [], [*_other(base, new), *_alone(base, new)]
    for before, after in shared:
        _require_same_work(before, after)
        if before.repeats and after.refused:
            broken.append(f"{after.name}: {after.refused}")
        elif before.capacity and after.capacity:
            was, now = before.capacity.rate, after.capacity.rate
            remarks.append(
                f"{before.name}: not judged: the highest rate was {was:.4g}, is {now:.4g}, each searched once"
            )
        elif min(len(before.repeats), len(after.repeats)) < FEWEST_REPEATS:
            found = f"{len(before.repeats)} and {len(after.repeats)} repeats"
            remarks.append(f"{before.name}: not judged: found {found}; noise is known from {FEWEST_REPEATS}")
        else:
            verdicts += _verdicts(before, after, margin)
    if not verdicts and not broken:
        names = "; ".join(remarks) or "no runs"
        raise ReportError(f"runs: found none that compares; allowed are those of one name in both files ({names})")
    return Check(tuple(verdicts), tuple(broken), tuple(remarks))


def _verdicts(before: Run, after: Run, margin: float) -> list[Verdict]:
    found = []
    for metric in METRICS:
        base, new = spread(before, metric), spread(after, metric)
        if metric.judged and base and new:
            change, outcome = ratio(metric, base, new), outcome_of(metric, base, new, margin)
            found.append(Verdict(before.name, metric.name, metric.unit, base, new, change, outcome))
    return found


def outcome_of(metric: Metric, base: Spread, new: Spread, margin: float) -> Outcome:
    """Whether a figure changed by more than its repeats explain, as `check` says."""
    noise = max(base.high - base.low, new.high - new.low, margin * base.median)
    apart = new.low > base.high or new.high < base.low
    if not apart or abs(new.median - base.median) <= noise:
        return "same"
    return "better" if (new.median > base.median) == metric.higher_is_better else "regression"


def _require_same_work(base: Run, new: Run) -> None:
    for name in ("scenario", "system", "protocol", "generator", "settings"):
        _require_same(f"{new.name}: {name}", getattr(new, name), getattr(base, name))
    searched = base.capacity is not None and new.capacity is not None
    for part in dataclasses.fields(Load):
        alike = part.name in NOT_THE_WORK or (part.name == "rate" and (searched or _near(base.load, new.load)))
        if not alike:
            name = f"{new.name}: load.{part.name}"
            _require_same(name, getattr(new.load, part.name), getattr(base.load, part.name))


def _near(base: Load, new: Load) -> bool:
    if base.rate is None or new.rate is None:
        return base.rate is new.rate
    return abs(new.rate - base.rate) <= RATE_TOLERANCE * base.rate


def _require_same(name: str, found: object, allowed: object) -> None:
    if found != allowed:
        raise ReportError(f"{name}: found {found}; allowed is {allowed}, which the base was measured with")


def _machine(result: Result) -> str:
    machine = result.machine
    return ", ".join([machine.processor, f"{machine.cores} cores", *(gpu.name for gpu in machine.gpus)])


def _models(result: Result) -> str:
    return ", ".join(sorted(model.name for model in result.models)) or "none"


def _other(base: Result, new: Result) -> list[str]:
    """What may explain a change without being the code's doing: other bundles, drivers, packages."""
    before, after = _circumstances(base), _circumstances(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{name}: was {before.get(name, 'absent')}, is {after.get(name, 'absent')}" for name in names]


def _circumstances(result: Result) -> dict[str, object]:
    gpus = {
        f"gpu {index} {part}": getattr(gpu, part)
        for index, gpu in enumerate(result.machine.gpus)
        for part in ("driver", "power_limit_w")
    }
    bundles = {f"bundle of {model.name}": model.digest[:12] for model in result.models}
    return bundles | gpus | {"python": result.machine.python} | result.machine.packages


def _alone(base: Result, new: Result) -> list[str]:
    names = [{run.name for run in result.runs} for result in (base, new)]
    missing = [f"{run.name}: only in the base" for run in base.runs if run.name not in names[1]]
    return missing + [f"{run.name}: only in the new one" for run in new.runs if run.name not in names[0]]
