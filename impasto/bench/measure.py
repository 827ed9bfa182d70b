"""From calls to figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from impasto.bench.drive import Call
from impasto.bench.result import Distribution, GpuUsage, Load, Repeat, ServerUsage
from impasto.bench.target import Counters, Reply

K = TypeVar("K", int, str)
MOST_LAG = 0.05
"""Of all latency, what may be the client's own."""


@dataclass(frozen=True)
class Taken:
    """What was measured beside the calls: the client's CPU seconds a second, the system's counters before and after."""

    client_cpu: float
    before: Counters
    after: Counters
    buckets: tuple[int, ...] = ()
    server: ServerUsage | None = None
    gpu: GpuUsage | None = None


def repeat_of(calls: Sequence[Call], load: Load, taken: Taken) -> Repeat:
    """The figures of one measurement."""
    good = [call for call in calls if call.completed]
    rejected = sum(call.rejected for call in calls)
    images = sum(_images(call) for call in good)
    start = min((call.due for call in calls), default=0.0)
    seconds = max((call.answered for call in calls), default=start) - start
    batches = _difference(taken.before.batch_sizes, taken.after.batch_sizes)
    return Repeat(
        seconds=seconds,
        sent=len(calls),
        completed=len(good),
        rejected=rejected,
        failed=len(calls) - len(good) - rejected,
        images=images,
        images_per_second=images / seconds if seconds > 0 else 0.0,
        latency=Distribution.of(call.latency_ms for call in good),
        client_lag=lag(calls),
        client_cpu=taken.client_cpu,
        goodput_per_second=_goodput(good, load, seconds),
        stages=_stages(good, taken),
        batch_sizes=batches,
        padding=_padding(batches, taken.buckets),
        failures=dict(Counter(_failure(call) for call in calls if not call.completed)),
        server=taken.server,
        gpu=taken.gpu,
    )


def lag(calls: Sequence[Call]) -> float:
    """The share of all latency in which the client had not sent what was due."""
    answered = [call for call in calls if call.answered]
    latency = sum(call.latency_ms for call in answered)
    return sum(call.lateness_ms for call in answered) / latency if latency > 0 else 0.0


def refusal(calls: Sequence[Call]) -> str:
    """Why these calls give no figures; empty if they do."""
    if not any(call.completed for call in calls):
        found = Counter(str(call.answer or "no answer") for call in calls).most_common(1)
        return f"no request succeeded: {found[0][0] if found else 'none was sent'}"
    if (share := lag(calls)) > MOST_LAG:
        return f"client lag: found {share:.1%} of the latency; allowed is {MOST_LAG:.0%}: the client was the bottleneck"
    return ""


def _images(call: Call) -> int:
    return call.answer.images if isinstance(call.answer, Reply) else 0


def _failure(call: Call) -> str:
    return "no answer" if call.answer is None else type(call.answer).__name__


def _goodput(good: Sequence[Call], load: Load, seconds: float) -> float | None:
    """Pictures a second of requests within the load's limit and their own deadlines; None if there is neither."""
    if load.latency_limit_ms is None and all(entry.deadline_ms is None for entry in load.mix):
        return None

    def within(call: Call) -> bool:
        limits = (load.latency_limit_ms, call.order.entry.deadline_ms)
        return all(limit is None or call.latency_ms <= limit for limit in limits)

    return sum(_images(call) for call in good if within(call)) / seconds if seconds > 0 else 0.0


def _stages(good: Sequence[Call], taken: Taken) -> dict[str, Distribution]:
    """Where the latency went: call by call if the replies tell, else as the system's counters have it on average."""
    if not good:
        return {}
    client = Distribution.of(call.lateness_ms for call in good)
    times: defaultdict[str, list[float]] = defaultdict(list)
    for call in good:
        told = call.answer.stages if isinstance(call.answer, Reply) else {}
        for stage, time_ms in told.items():
            times[stage].append(time_ms)
        if told:
            times["transport"].append(max(0.0, call.latency_ms - call.lateness_ms - sum(told.values())))
    if times:
        return {"client": client} | {stage: Distribution.of(values) for stage, values in times.items()}
    counts = _difference(taken.before.stage_counts, taken.after.stage_counts)
    means = {
        stage: 1e3 * (taken.after.stage_seconds[stage] - taken.before.stage_seconds.get(stage, 0.0)) / count
        for stage, count in counts.items()
    }
    stages = {"client": client} | {stage: Distribution(counts[stage], mean) for stage, mean in means.items()}
    if means:
        total = sum(call.latency_ms for call in good) / len(good)
        left = max(0.0, total - client.mean - sum(means.values()))
        stages["transport"] = Distribution(len(good), left)
    return stages


def _padding(batches: Mapping[int, int], buckets: Sequence[int]) -> dict[int, int]:
    """Executions by the rows that filled their bucket; nothing where the system tells no buckets."""
    rows: Counter[int] = Counter()
    for size, count in batches.items():
        bucket = next((bucket for bucket in sorted(buckets) if bucket >= size), None)
        if bucket is not None:
            rows[bucket - size] += count
    return dict(sorted(rows.items()))


def _difference(before: Mapping[K, int], after: Mapping[K, int]) -> dict[K, int]:
    return {key: count - before.get(key, 0) for key, count in after.items() if count > before.get(key, 0)}
