from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto.bench.histogram import Histogram
from impasto.bench.result import (
    Capacity,
    Distribution,
    Gate,
    Gpu,
    Load,
    LoadGenVerdict,
    Machine,
    MixEntry,
    Model,
    Repeat,
    Result,
    ResultError,
    Run,
    ServerUsage,
    Trial,
    read_result,
    write_result,
)

MACHINE = Machine("cpu", 2, 1000, 2500.0, "Linux", "3.11", {"numpy": "2"}, (Gpu("G", "1", 80_000),))


def repeat(images_per_second: float, *, lag: float = 0.01) -> Repeat:
    return Repeat(
        seconds=2.0,
        sent=4,
        completed=4,
        rejected=0,
        failed=0,
        images=4,
        images_per_second=images_per_second,
        latency=Distribution.of([1.0, 2.0, 3.0, 100.0]),
        client_lag=lag,
        client_cpu=0.1,
        stages={"queue": Distribution(4, 1.5)},
        batch_sizes={1: 2, 2: 1},
        padding={0: 3},
        server=ServerUsage(5.0, 3.0, 100.0, 2),
    )


def result(*rates: float) -> Result:
    run = Run(
        "name",
        "impasto",
        "impasto.v1",
        "server",
        Load("poisson", (MixEntry("starry", steps=4, deadline_ms=100.0),), seconds=2.0, rate=2.0),
        {"batch": 2, "precision": "fp32", "psi": 0.5},
        gate=Gate("onnxruntime fp32 on cpu", (0, 7), 200.0, 60.0),
        repeats=tuple(map(repeat, rates)),
        capacity=Capacity(3.0, 100.0, 99.0, (Trial(3.0, 90.0, True),)),
        loadgen=LoadGenVerdict("INVALID", ("Min duration satisfied: NO",), {"target_qps": "3"}),
    )
    return Result("2026-01-01T00:00:00+00:00", "impasto bench", "abc", MACHINE, (Model("starry"),), (run,), "made up")


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = result(2.0, 4.0, 3.0)
    write_result(written, tmp_path / "deep" / "r.json")
    assert read_result(tmp_path / "deep" / "r.json") == written


def test_spreads_are_over_repeats_and_histograms_add_up() -> None:
    run = result(2.0, 4.0, 3.0).runs[0]
    spread = run.spread(lambda repeat: repeat.images_per_second)
    assert spread is not None
    assert (spread.median, spread.low, spread.high) == (3.0, 2.0, 4.0)
    assert run.spread(lambda repeat: repeat.goodput_per_second) is None
    assert run.latency.count == 12
    overhead = run.spread(lambda repeat: repeat.server.overhead_cpu_ms_per_request if repeat.server else None)
    assert overhead is not None
    assert overhead.median == 2.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema: found 2; allowed is 1"),
        ({"machine": {}}, "machine.processor: Field required"),
        ({"runs": [{"name": 3}]}, r"runs.0.name: Input should be a valid string"),
    ],
)
def test_a_file_that_is_none_names_what_is_wrong(tmp_path: Path, change: dict[str, object], told: str) -> None:
    write_result(result(1.0), tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text()) | change
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ResultError, match=told):
        read_result(tmp_path / "r.json")


def test_a_file_without_json_and_none_at_all_say_so(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ResultError, match="no JSON"):
        read_result(tmp_path / "r.json")
    with pytest.raises(ResultError, match="No such file"):
        read_result(tmp_path / "none.json")


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200), st.sampled_from([50.0, 90.0, 99.0, 99.9]))
def test_a_histogram_is_off_by_half_a_bucket_at_most(times: list[float], percent: float) -> None:
    ordered = sorted(times)
    rank = max(1, -(-len(times) * int(percent * 10) // 1000))
    found = Histogram.of(times).percentile(percent)
    assert found == pytest.approx(ordered[rank - 1], rel=0.0051)
    assert list(Histogram.of(times).curve())[-1][1] == 1.0
    assert Histogram.merged([Histogram.of(times[:3]), Histogram.of(times[3:])]) == Histogram.of(times)
