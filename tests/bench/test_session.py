"""`impasto bench`, on the null model: in this process, and on a server over both protocols."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.serving import serving
from impasto.bench.processes import ProcessWatch, listeners
from impasto.bench.result import read_result
from impasto.bench.session import Options, points
from impasto.bench.sweep import combinations, parse_axes
from impasto.bench.traffic import read_trace
from impasto.cli import app
from impasto.engine.null import write_null_bundle
from impasto.errors import InvalidRequest

pytestmark = pytest.mark.usefixtures("busy_client")
runner = CliRunner()
QUICK = ["--seconds", "0.3", "--repeats", "2", "--warm-up", "0.1"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_null_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[str]:
    """The address of a server of the null model, in a process of its own."""
    with serving("null", models=models) as (address, _):
        yield address


def bench(*options: str) -> str:
    result = runner.invoke(app, ["bench", "null", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_sweep_in_this_process_is_every_combination_and_goes_on_where_it_stopped(
    models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.json"
    common = ["--models", str(models), "--scenario", "closed", "--out", str(out), *QUICK]
    bench(*common, "--sweep", "batch=1,2", "concurrency=2")
    first = read_result(out)
    assert [run.settings["batch"] for run in first.runs] == [1, 2]
    assert [run.load.concurrency for run in first.runs] == [2, 2]
    shown = bench(*common, "--sweep", "batch=1,2,4", "concurrency=2")
    both = read_result(out)
    assert both.runs[:2] == first.runs
    assert [run.load.mix[0].batch for run in both.runs] == [1, 2, 4]
    assert all(run.gate is not None and run.gate.psnr_db == 200.0 for run in both.runs)
    assert both.models[0].digest
    assert both.machine.cores >= 1
    assert both.machine.packages["numpy"]
    assert shown.count("null") >= 3
    assert all(len(run.repeats) == 2 for run in both.runs)
    other = runner.invoke(app, ["bench", "null", *common, "--seconds", "0.4", "--sweep", "batch=1", "concurrency=2"])
    assert other.exit_code == 1
    assert "allowed is the same load" in other.stderr
    changed = json.loads(out.read_text()) | {"commit": "another"}
    out.write_text(json.dumps(changed))
    refused = runner.invoke(app, ["bench", "null", *common])
    assert refused.exit_code == 1
    assert "commit: found 'another'" in refused.stderr


@pytest.mark.parametrize("protocol", ["impasto", "oip"])
def test_a_server_is_loaded_over_either_protocol(server: str, models: Path, tmp_path: Path, protocol: str) -> None:
    out = tmp_path / "r.json"
    options = ["--server", server, "--protocol", protocol, "--models", str(models), "--out", str(out), *QUICK]
    bench(*options, "--rate", "40", "--batch", "2", "--latency-limit", "1000")
    run = read_result(out).runs[0]
    assert (run.system, run.load.rate, run.refused) == ("impasto", 40.0, "")
    assert run.settings["backend"] == "null"
    for repeat in run.repeats:
        assert repeat.images == 2 * repeat.completed > 0
        assert repeat.failed == repeat.rejected == 0
        assert sum(size * count for size, count in repeat.batch_sizes.items()) == repeat.images
        assert repeat.goodput_per_second is not None
        assert {"client", "queue", "execute", "transport"} <= set(repeat.stages)
        assert repeat.server is not None
        assert repeat.server.rss_mib > 10


def test_a_mix_and_a_trace_are_loads(server: str, models: Path, tmp_path: Path) -> None:
    (tmp_path / "mix.json").write_text('[{"weight": 3}, {"batch": 4, "priority": 1}]')
    (tmp_path / "t.jsonl").write_text('{"at": 5}\n{"at": 5.05, "batch": 2}\n{"at": 5.1}\n')
    common = ["--server", server, "--models", str(models), *QUICK]
    saved = ["--save-trace", str(tmp_path / "saved.jsonl")]
    mixed = json.loads(bench(*common, "--rate", "60", "--mix", str(tmp_path / "mix.json"), *saved, "--json"))["runs"][0]
    assert len(read_trace(tmp_path / "saved.jsonl", "null")) == mixed["repeats"][0]["sent"]
    assert [kind["batch"] for kind in mixed["load"]["mix"]] == [1, 4]
    assert mixed["repeats"][0]["images"] > mixed["repeats"][0]["completed"]
    traced = json.loads(bench(*common, "--trace", str(tmp_path / "t.jsonl"), "--json"))["runs"][0]
    assert [repeat["images"] for repeat in traced["repeats"]] == [4, 4]
    assert traced["load"]["arrivals"] == "trace"


def test_a_server_without_the_model_says_so(server: str, models: Path) -> None:
    result = runner.invoke(app, ["bench", "other", "--server", server, "--rate", "1", "--models", str(models)])
    assert result.exit_code == 1
    assert "model: found no 'other'" in result.stderr


def test_the_process_that_listens_is_found_and_watched(server: str) -> None:
    pids = listeners(server)
    assert len(pids) == 1
    with ProcessWatch(pids) as watch:
        pass
    assert watch.processes >= 1
    assert watch.resident_mib > 10
    assert watch.cpu_seconds >= 0.0
    assert listeners("192.0.2.1:8001") == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (Options("m"), "rate: found 'none'"),
        (Options("m", scenario="closed", rate=3.0), "the scenario closed sets its own pace"),
        (Options("m", server="h:1", rate=1.0, sweep=("precision=fp16",)), "with --server, axes of requests"),
        (Options("m", server="h:1", rate=1.0, backend="torch"), "the server has its own"),
        (Options("m", rate=1.0, sweep=("batch",)), "AXIS=VALUE"),
        (Options("m", rate=1.0, sweep=("batch=1", "batch=2")), "each axis once"),
        (Options("m", rate=1.0, sweep=("batch=0",)), "sweep batch: found '0'"),
        (Options("m", rate=1.0, sweep=("backend=",)), "sweep backend: found 'an empty value'"),
        (Options("m", scenario="closed", save_trace=Path("t")), "one run of the server scenario at a rate"),
        (Options("m", scenario="closed", loadgen=True), "LoadGen's own scenarios"),
    ],
)
def test_options_that_do_not_go_together_are_named(options: Options, told: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        points(options)
    assert told in str(error.value)


def test_axes_are_combined_the_last_one_fastest() -> None:
    axes = parse_axes(["batch=1,2", "precision=fp32,fp16"])
    assert combinations(axes) == [
        {"batch": 1, "precision": "fp32"},
        {"batch": 1, "precision": "fp16"},
        {"batch": 2, "precision": "fp32"},
        {"batch": 2, "precision": "fp16"},
    ]
    assert combinations({}) == [{}]
