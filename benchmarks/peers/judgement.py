"""What a comparison with peers found, and what is wanted of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from statistics import median

from impasto.bench.result import Repeat, Run, Spread

OURS = "impasto"
LOOP = "onnxruntime"
DIFFUSERS = "diffusers"
STARRY, STARRY_DDPM = "starry", "starry-ddpm"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All runs, with a repeat a round."""

    runs: tuple[Run, ...]

    def run(self, system: str, scenario: str, rate: float | None = None, model: str = STARRY) -> Run:
        """The run of a system; KeyError if it was not measured."""
        wanted = (system, scenario, rate, model)
        for found in self.runs:
            if key_of(found) == wanted:
                return found
        raise KeyError(wanted)

    def ratio(self, ours: Run, theirs: Run, figure: Callable[[Repeat], float | None]) -> Spread | None:
        """Ours over theirs, round by round: the median and the extremes."""
        pairs = zip(map(figure, ours.repeats), map(figure, theirs.repeats), strict=False)
        ratios = [one / other for one, other in pairs if one is not None and other]
        return Spread(median(ratios), min(ratios), max(ratios)) if ratios else None


@dataclasses.dataclass(frozen=True)
class Judged:
    """A line of the comparison: a figure of both, their ratio, and what is wanted of it."""

    peer: str
    figure: str
    ours: float
    theirs: float
    ratio: Spread
    wanted: str
    met: bool


def judged(comparison: Comparison, peers: Sequence[str]) -> list[Judged]:
    """Throughput, p99 and CPU time against each peer, throughput against the loop."""
    ours = comparison.run(OURS, "closed")
    lines: list[Judged] = []
    for peer in (peer for peer in peers if peer in _WANTED):
        theirs = comparison.run(peer, "closed")
        wanted_p99, wanted_cpu = _WANTED[peer]
        lines += _line(comparison, peer, "images/s at saturation", ours, theirs, _images_per_second, 1.0, True)
        loaded = next(found for found in comparison.runs if found.system == peer and found.scenario == "server")
        same = comparison.run(OURS, "server", loaded.load.rate)
        at = f"at {loaded.load.rate:g}/s"
        lines += _line(comparison, peer, f"p99 ms {at}", same, loaded, _p99, wanted_p99, False)
        lines += _line(
            comparison,
            peer,
            f"server CPU ms a request apart from the model {at}",
            same,
            loaded,
            _cpu,
            wanted_cpu,
            False,
        )
    loop = comparison.run(LOOP, "offline")
    lines += _line(comparison, LOOP, "images/s", ours, loop, _images_per_second, 0.95, True)
    if DIFFUSERS in peers:
        server = comparison.run(OURS, "closed", model=STARRY_DDPM)
        pipeline = comparison.run(DIFFUSERS, "offline", model=STARRY_DDPM)
        lines += _line(
            comparison, DIFFUSERS, "images/s of starry-ddpm", server, pipeline, _images_per_second, 1.0, True
        )
    return lines


_WANTED = {"triton": (1.0, 1.0), "ray": (0.5, 0.5)}
"""Of p99 and of CPU time a request, at most this much of the peer's."""


def _images_per_second(repeat: Repeat) -> float | None:
    return repeat.images_per_second


def _p99(repeat: Repeat) -> float | None:
    return repeat.latency.p99


def _cpu(repeat: Repeat) -> float | None:
    return repeat.server.overhead_cpu_ms_per_request if repeat.server else None


def _line(
    comparison: Comparison,
    peer: str,
    figure: str,
    ours: Run,
    theirs: Run,
    read: Callable[[Repeat], float | None],
    wanted: float,
    more_is_better: bool,
) -> list[Judged]:
    one, other, ratio = ours.spread(read), theirs.spread(read), comparison.ratio(ours, theirs, read)
    if one is None or other is None or ratio is None:
        return []
    met = ratio.median >= wanted if more_is_better else ratio.median <= wanted
    return [Judged(peer, figure, one.median, other.median, ratio, f"{'≥' if more_is_better else '≤'} {wanted:g}", met)]


def key_of(found: Run) -> tuple[str, str, float | None, str]:
    """What tells runs apart: system, scenario, rate and model."""
    return found.system, found.scenario, found.load.rate, found.load.mix[0].model
