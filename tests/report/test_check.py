"""`impasto report --check`: what is a regression, what is noise, and what does not compare."""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from impasto.bench.result import Capacity, Repeat, Result, Run, Spread, write_result
from impasto.cli import app
from impasto.report.check import check, outcome_of
from impasto.report.compare import METRICS
from impasto.report.inputs import ReportError
from tests.report import samples

STEADY = (100.0, 101.0, 99.0, 100.5, 99.5)


def repeat(rate: float, p99: float = 50.0) -> Repeat:
    return samples.repeat(rate, [p99 * share / 100 for share in range(1, 101)])


def run(rates: Sequence[float] = STEADY, name: str = "starry 20/s", **changes: Any) -> Run:
    made = samples.serving(name, samples.load(20.0), tuple(repeat(rate) for rate in rates))
    return dataclasses.replace(made, **changes)


BASE = dataclasses.replace(samples.result("NVIDIA L4", 75.0, requests=2), runs=(run(),))


def of(*runs: Run, **changes: Any) -> Result:
    return dataclasses.replace(BASE, runs=runs, **changes)


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def outcome(base: Result, new: Result, metric: str = "images/s") -> str:
    (found,) = (verdict.outcome for verdict in check(base, new).verdicts if verdict.metric == metric)
    return found


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (STEADY, "same"),
        ((99.0, 100.0, 98.0, 99.5, 98.5), "same"),  # lower, but the repeats overlap
        ((98.0, 98.5, 97.9, 98.4, 98.3), "same"),  # apart, but by no more than the repeats of the base are
        ((90.0, 91.0, 89.0, 90.5, 89.5), "regression"),
        ((110.0, 111.0, 109.0, 110.5, 109.5), "better"),
        ((90.0, 120.0, 70.0, 91.0, 89.0), "same"),  # as much lower, but all over the place
    ],
)
def test_a_regression_is_what_no_repeat_explains(rates: Sequence[float], expected: str) -> None:
    assert outcome(BASE, of(run(rates))) == expected


def test_a_steady_figure_may_change_by_the_margin() -> None:
    base, new = of(run([100.0] * 5)), of(run([98.5] * 5))
    assert outcome(base, new) == "same"
    assert [v.outcome for v in check(base, new, margin=0.01).verdicts if v.metric == "images/s"] == ["regression"]


def test_times_are_better_when_they_are_smaller() -> None:
    slower = of(run(repeats=tuple(repeat(rate, p99=60.0) for rate in STEADY)))
    assert outcome(BASE, slower, "p99") == "regression"
    assert outcome(slower, BASE, "p99") == "better"
    (change,) = (verdict.change for verdict in check(slower, BASE).verdicts if verdict.metric == "p99")
    assert change is not None
    assert change.median == pytest.approx(1.2)


def test_rejections_where_there_were_none_are_a_regression() -> None:
    rejecting = tuple(dataclasses.replace(repeat(rate), rejected=7 + place) for place, rate in enumerate(STEADY))
    found = {verdict.metric: verdict for verdict in check(BASE, of(run(repeats=rejecting))).verdicts}
    assert found["rejected"].outcome == "regression"
    assert found["rejected"].change is None
    assert found["failed"].outcome == "same"


@pytest.mark.parametrize(("repeats", "most"), [(3, 0.03), (5, 0.003)])
def test_noise_alone_is_seldom_called_a_regression(repeats: int, most: float) -> None:
    draw = random.Random(7)
    found = 0
    for _ in range(2000):
        base, new = ([draw.gauss(100, 4) for _ in range(repeats)] for _ in range(2))
        found += outcome_of(METRICS[0], spread(base), spread(new), margin=0.02) == "regression"
    assert found / 2000 <= most


def test_a_run_that_is_refused_now_fails_the_check() -> None:
    checked = check(BASE, of(run(repeats=(), refused="pictures differ")))
    assert not checked.passed
    assert checked.broken == ("starry 20/s: pictures differ",)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (
            of(run(), machine=dataclasses.replace(BASE.machine, gpus=())),
            "machine: found AMD EPYC 9354, 16 cores; allowed",
        ),
        (
            of(run(), models=(dataclasses.replace(BASE.models[0], name="dabs"),)),
            "models: found dabs; allowed is starry",
        ),
        (of(run(scenario="closed")), "starry 20/s: scenario: found closed; allowed is server"),
        (of(run(load=samples.load(25.0))), r"starry 20/s: load.rate: found 25.0; allowed is 20.0"),
        (of(run(settings={"precision": "fp16"})), "starry 20/s: settings: found"),
        (of(run(STEADY[:2])), "found none that compares.*found 5 and 2 repeats"),
        (of(run(name="other")), "found none that compares.*starry 20/s: only in the base; other: only in the new one"),
    ],
)
def test_what_does_not_compare_is_named(new: Result, said: str) -> None:
    with pytest.raises(ReportError, match=said):
        check(BASE, new)


def test_what_differs_beside_the_code_is_remarked() -> None:
    packages = {**BASE.machine.packages, "torch": "2.14.0"}
    machine = dataclasses.replace(BASE.machine, packages=packages)
    models = (dataclasses.replace(BASE.models[0], digest="77aa"),)
    new = of(run(), run(name="more"), machine=machine, models=models)
    assert check(BASE, new).remarks == (
        "bundle of starry: was 9b1c44e07ad2, is 77aa",
        "torch: was 2.13.0, is 2.14.0",
        "more: only in the new one",
    )


def test_a_searched_rate_is_told_and_not_judged() -> None:
    searches = [
        run(name="search", load=samples.load(rate), capacity=Capacity(rate, 100.0, 99.0, ())) for rate in (84.0, 70.0)
    ]
    checked = check(of(run(), searches[0]), of(run(), searches[1]))
    assert checked.remarks == ("search: not judged: the highest rate was 84, is 70, each searched once",)
    assert {verdict.run for verdict in checked.verdicts} == {"starry 20/s"}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    results = {"base": BASE, "same": of(run(STEADY[::-1])), "slow": of(run([rate / 2 for rate in STEADY]))}
    for name, result in results.items():
        write_result(result, tmp_path / f"{name}.json")
    (tmp_path / "kernels.json").write_text(json.dumps(samples.kernels("NVIDIA L4", 2.5e11, 1.0e14)))
    return {path.stem: str(path) for path in tmp_path.iterdir()}


def test_the_command_exits_with_0_where_nothing_is_worse(paths: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["report", "--check", paths["base"], paths["same"]])
    assert done.exit_code == 0
    assert "no regressions in" in done.stderr


def test_the_command_exits_with_1_on_a_regression_and_shows_it(paths: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["report", "--check", paths["base"], paths["slow"]])
    assert done.exit_code == 1
    (line,) = (line for line in done.stdout.splitlines() if "regression" in line)
    assert line.split() == [
        *("starry", "20/s", "images/s", "100", "(99–101)", "50", "(49.5–50.5)", "0.50", "(0.49–0.51)", "regression")
    ]
    assert "1 regression in" in done.stderr


def test_a_script_reads_the_verdicts_as_json(paths: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["report", "--check", "--json", paths["base"], paths["slow"]])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["passed"] is False
    assert told["verdicts"][0]["change"]["median"] == pytest.approx(0.5)


@pytest.mark.parametrize(("names", "found"), [(["base"], "1 of impasto bench"), (["base", "kernels"], "1 of kernels")])
def test_the_command_wants_two_files_of_bench(paths: dict[str, str], names: list[str], found: str) -> None:
    done = CliRunner().invoke(app, ["report", "--check", *(paths[name] for name in names)])
    assert done.exit_code == 1
    assert found in done.stderr
    assert "two files of impasto bench: the base and the new one" in done.stderr
