from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from impasto.bench.capacity import highest_rate
from impasto.bench.drive import Call, closed_loop
from impasto.bench.gate import psnr_db
from impasto.bench.loadgen import read_summary
from impasto.bench.measure import Taken, repeat_of
from impasto.bench.result import Distribution, Load, MixEntry, Trial
from impasto.bench.runner import Spec, run
from impasto.bench.target import Counters, Reply
from impasto.bench.traffic import Order, orders
from impasto.errors import BackendUnavailable, InternalError, InvalidRequest, QueueFull
from tests.bench.scripted import ScriptedTarget

pytestmark = pytest.mark.usefixtures("busy_client")
ENTRY = MixEntry("m")
CLOSED = Load("closed", (ENTRY,), requests=40, concurrency=4)
NOTHING = Taken(0.5, Counters(), Counters())


def closed(**more: object) -> Spec:
    return Spec("closed", CLOSED, repeats=2, warm_up=0.05, **more)  # type: ignore[arg-type]


def test_a_run_has_its_gate_its_repeats_and_its_batches() -> None:
    target, reference = ScriptedTarget(0.02), ScriptedTarget()
    found = run(target, lambda _: reference, closed(settings={"batch": 1}))
    assert found.name == "scripted in-process, closed, m batch=1, 4 callers"
    assert found.refused == ""
    assert found.gate is not None
    assert (found.gate.psnr_db, found.gate.tolerance_db, found.gate.passed) == (200.0, 60.0, True)
    assert [order.seed for order in target.checked] == list(found.gate.seeds)
    assert len(found.repeats) == 2
    for repeat in found.repeats:
        assert repeat.images == repeat.completed == repeat.sent == 40
        assert repeat.latency.p50 is not None
        assert 20 <= repeat.latency.p50 < 2000
        assert repeat.batch_sizes == {3: repeat.sent}
        assert repeat.padding == {1: repeat.sent}
    assert found.settings["precision"] == "fp32"
    assert len({order.seed for order in target.orders}) == len(target.orders) > 80


@pytest.mark.parametrize(
    ("pixel", "precision", "passes"), [(101, "fp32", False), (101, "bf16", True), (110, "bf16", False)]
)
def test_no_speed_is_recorded_of_pictures_that_differ(pixel: int, precision: str, passes: bool) -> None:
    target = ScriptedTarget(0.01, pixel=pixel, precision=precision)
    found = run(target, lambda _: ScriptedTarget(), closed())
    assert found.gate is not None
    assert found.gate.passed is passes
    assert bool(found.repeats) is passes
    if not passes:
        assert found.refused.startswith("pictures differ: found ")
        assert not target.orders


def test_psnr_is_that_of_its_definition() -> None:
    import numpy as np

    black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert psnr_db(black, black) == 200.0
    assert psnr_db(black, grey) == pytest.approx(0.0)
    assert psnr_db(black, np.full((2, 2, 3), 1, np.uint8)) == pytest.approx(48.13, abs=0.01)
    assert psnr_db(black, black[:1]) == 0.0


def test_a_precision_without_a_stated_tolerance_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="precision: found 'int3'"):
        run(ScriptedTarget(precision="int3"), lambda _: ScriptedTarget(), closed())


def test_a_system_that_answers_nothing_but_errors_gives_no_figures() -> None:
    answers = tuple(InternalError("broken") for _ in range(10_000))
    found = run(ScriptedTarget(0.01, answers=answers), None, closed())
    assert found.refused == "no request succeeded: broken"
    assert found.repeats == ()


def test_goodput_counts_what_is_in_time_and_rejections_are_no_failures() -> None:
    load = Load("poisson", (ENTRY,), rate=10.0, latency_limit_ms=15.0)
    told = Reply(1, {"queue": 3.0, "execute": 4.0})
    answers = [QueueFull("full", 1.0), InternalError("x"), None, *[told] * 18]
    # Due every 100 ms, sent a millisecond late, answered 10 ms after that, the last eight 20 ms.
    calls = [
        Call(Order(0.0, ENTRY, 1), due, due + 0.001, due + (0.011 if number < 13 else 0.021), answer)
        for number, answer in enumerate(answers)
        if (due := 5.0 + number / 10)
    ]
    found = repeat_of(calls, load, NOTHING)
    assert (found.sent, found.completed, found.rejected, found.failed, found.images) == (21, 18, 1, 2, 18)
    assert found.failures == {"QueueFull": 1, "InternalError": 1, "no answer": 1}
    assert found.seconds == pytest.approx(2.021)
    assert found.images_per_second == pytest.approx(18 / 2.021)
    assert found.goodput_per_second == pytest.approx(10 / 2.021)
    means = {stage: distribution.mean for stage, distribution in found.stages.items()}
    assert means == pytest.approx({"client": 1.0, "queue": 3.0, "execute": 4.0, "transport": 3.0 + 80 / 18})
    assert sum(means.values()) == pytest.approx(found.latency.mean)
    assert found.client_lag == pytest.approx(21 / (13 * 11 + 8 * 21))
    assert found.client_cpu == 0.5


def test_stages_of_a_server_that_only_counts_are_its_averages() -> None:
    calls = closed_loop(ScriptedTarget(0.01), orders(Load("closed", (ENTRY,), requests=6, concurrency=2)), 2, None)
    before = Counters({1: 5}, {"queue": 1.0}, {"queue": 10})
    after = Counters({1: 5, 2: 3}, {"queue": 1.012}, {"queue": 16})
    found = repeat_of(calls, CLOSED, Taken(0.1, before, after, (2, 4)))
    assert found.stages["queue"].mean == pytest.approx(2.0)
    assert found.stages["queue"].histogram.count == 0
    assert found.batch_sizes == {2: 3}
    assert found.padding == {0: 3}


def test_a_closed_loop_never_has_more_under_way_than_asked() -> None:
    target = ScriptedTarget(0.05)
    calls = closed_loop(target, orders(CLOSED), 3, None)
    events = sorted([(call.sent, 1) for call in calls] + [(call.answered, -1) for call in calls])
    under_way, most = 0, 0
    for _, change in events:
        under_way += change
        most = max(most, under_way)
    assert most == 3


def test_bisection_finds_the_highest_rate_that_meets() -> None:
    def try_rate(rate: float) -> Trial:
        return Trial(rate, rate, rate <= 73.0)

    found = highest_rate(try_rate, 10.0, latency_limit_ms=73.0, percentile=99.0)
    assert 73.0 / 1.05 <= found.rate <= 73.0
    assert [trial.rate for trial in found.trials[:4]] == [10.0, 20.0, 40.0, 80.0]
    assert highest_rate(lambda rate: Trial(rate, 1.0, False), 10.0, latency_limit_ms=1.0, percentile=99.0).rate == 0.0


def test_a_search_measures_at_the_rate_that_it_found() -> None:
    # One at a time and 10 ms each: at most 100 requests/s.
    load = Load("poisson", (ENTRY,), seconds=0.3, latency_limit_ms=80.0)
    found = run(ScriptedTarget(0.01, serial=True), None, Spec("server", load, repeats=1, warm_up=0.2, percentile=90.0))
    assert found.capacity is not None
    assert 0 < found.capacity.rate < 150
    assert found.load.rate == found.capacity.rate
    assert Counter(trial.met for trial in found.capacity.trials)[True] >= 1
    assert len(found.repeats) == 1


def test_loadgen_drives_any_target_and_judges_by_its_own_log(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="needs the extra bench")
    load = Load("poisson", (ENTRY,), seconds=1.2, rate=600.0, latency_limit_ms=200.0)
    spec = Spec("server", load, repeats=1, warm_up=0.1, generator="mlperf-loadgen", logs=tmp_path)
    target = ScriptedTarget(0.02)
    found = run(target, None, spec)
    assert found.loadgen is not None
    assert found.loadgen.settings["Scenario"] == "Server"
    assert found.loadgen.settings["target_qps"] == "600"
    assert found.loadgen.settings["target_latency (ns)"] == "200000000"
    assert found.repeats[0].completed > 100
    logs = tmp_path / "server-0"
    assert "at least 1.2 s instead of 600 s" in (logs / "README.txt").read_text()
    assert f"Result is : {found.loadgen.result}" in (logs / "mlperf_log_summary.txt").read_text()
    assert found.name.startswith("scripted in-process, server by LoadGen, m")


def test_loadgens_summary_is_read_with_its_reasons() -> None:
    text = """\
Scenario : Server
Result is : INVALID
  Performance constraints satisfied : Yes
  Early stopping satisfied: NO
Early Stopping Result:
 * Only processed 100 queries.
99.00 percentile latency (ns)   : 4282
"""
    verdict = read_summary(text)
    assert verdict.result == "INVALID"
    assert verdict.reasons == ("Early stopping satisfied: NO", "Only processed 100 queries.")
    assert verdict.settings["99.00 percentile latency (ns)"] == "4282"


def test_loadgen_that_is_not_installed_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlperf_loadgen", None)
    spec = Spec("single", CLOSED, repeats=1, warm_up=0.05, generator="mlperf-loadgen", logs=tmp_path)
    with pytest.raises(BackendUnavailable, match=r"pip install .*'impasto\[bench\]'"):
        run(ScriptedTarget(0.001), None, spec)


def test_an_empty_distribution_stays_empty() -> None:
    found = repeat_of([], CLOSED, NOTHING)
    assert found.latency == Distribution(0, 0.0)
    assert found.images_per_second == 0.0
