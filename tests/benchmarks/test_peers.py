"""Impasto beside its peers: what of the comparison can be held without installing them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.peers import environments
from benchmarks.peers.graphs import Graphs
from benchmarks.peers.judgement import Comparison, judged
from benchmarks.peers.loop import Way, looped
from benchmarks.peers.model_cpu import model_cpu_seconds
from benchmarks.peers.process import free_port, started
from benchmarks.peers.servers import impasto_server, triton_config
from impasto.bench.in_process import open_in_process
from impasto.bench.result import Distribution, Load, MixEntry, Repeat, Run, ServerUsage
from impasto.bench.traffic import Order
from impasto.errors import ImpastoError
from impasto.export.bundle import ZOO

STARRY = ZOO / "starry" / "1"
ORDER = Order(0.0, MixEntry("starry", batch=3), 5)


def test_the_peers_graphs_make_impastos_pictures() -> None:
    graphs = Graphs(STARRY, threads=1)
    with open_in_process("starry", noise_mode="const", threads=1) as target:
        expected = target.pictures(ORDER)
    made = graphs.pictures(np.array(ORDER.seeds))
    assert made.shape == (3, 128, 128, 3)
    assert np.array_equal(made, np.stack(expected))
    found = looped(STARRY, Way(loops=1, threads=1, batch=2), seconds=0.05)
    assert found.images == 2 * len(found.batch_ms) > 0
    assert found.seconds >= 0.05


def test_impastos_server_is_started_counted_and_stopped() -> None:
    with impasto_server(STARRY) as target:
        before = target.model_cpu_seconds()
        assert before is not None
        made = target.pictures(ORDER)
        (pid,) = target.pids()
        process = psutil.Process(pid)
        times = process.cpu_times()
        after = target.model_cpu_seconds()
        assert after is not None
        assert [picture.shape for picture in made] == [(128, 128, 3)] * 3
        # Three pictures take some milliseconds of a core each, and no more than the whole process has taken.
        assert 0.003 < after - before <= times.user + times.system
    assert not process.is_running()


def test_the_cpu_time_of_a_model_is_counted_from_outside(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
import numpy as np
from benchmarks.peers.model_cpu import count_model_cpu, model_cpu_seconds
folder = Path({str(tmp_path)!r})
count_model_cpu(folder)
from benchmarks.peers.graphs import Graphs
graphs = Graphs(Path({str(STARRY)!r}), threads=1)
before, began = model_cpu_seconds(folder), time.process_time()
graphs.pictures(np.arange(4))
spent, counted = time.process_time() - began, model_cpu_seconds(folder) - before
end = time.process_time() + 0.2
while time.process_time() < end: pass
print(spent, counted, model_cpu_seconds(folder) - before)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    spent, counted, later = map(float, told)
    assert 0.5 * spent < counted <= spent * 1.01 + 0.01
    assert later == counted, "what is not in the model does not count"
    assert model_cpu_seconds(tmp_path) == pytest.approx(counted, rel=0.5)


def test_a_server_that_dies_is_told_with_the_end_of_its_log() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such backend')"]
    with pytest.raises(ImpastoError, match="no such backend"), started(command, f"127.0.0.1:{free_port()}", "m"):
        pass


def test_tritons_configuration_names_the_bundles_size_and_batches() -> None:
    text = triton_config("starry", STARRY, Path("/count"))
    assert 'name: "starry"' in text
    assert "dims: [128, 128, 3]" in text
    assert "dynamic_batching {}" in text
    assert "max_batch_size: 8" in text
    assert f'string_value: "{STARRY}"' in text


def test_an_environment_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[object], check: bool) -> None:
        ran.append([str(word) for word in command])
        if "venv" in ran[-1]:
            Path(ran[-1][-1]).mkdir(parents=True)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    first = environments.environment(environments.TRITON)
    assert first.path.is_relative_to(tmp_path)
    assert first.python == first.path / "bin" / "python"
    assert [("venv" in command, "--no-deps" in command) for command in ran] == [(True, False), (False, True)]
    assert environments.environment(environments.TRITON) == first
    assert len(ran) == 2


def repeat(images_per_second: float, p99: float, cpu: float) -> Repeat:
    latency = dataclasses.replace(Distribution.of([p99]), p99=p99)
    usage = ServerUsage(20.0 + cpu, 20.0, 100.0)
    return Repeat(1.0, 1, 1, 0, 0, 1, images_per_second, latency, 0.0, 0.0, server=usage)


def made_up(system: str, scenario: str, *repeats: Repeat, rate: float | None = None) -> Run:
    load = Load("closed", (MixEntry("starry"),), rate=rate)
    return Run(f"{system} {scenario} {rate}", system, "open-inference", scenario, load, repeats=repeats)  # type: ignore[arg-type]


def test_every_line_is_a_ratio_of_the_same_round() -> None:
    ours = [repeat(60.0, 40.0, 2.0), repeat(30.0, 80.0, 4.0), repeat(66.0, 50.0, 2.0)]
    theirs = [repeat(50.0, 50.0, 2.5), repeat(25.0, 160.0, 4.0), repeat(60.0, 40.0, 1.0)]
    comparison = Comparison(
        (
            made_up("impasto", "closed", *ours),
            made_up("impasto", "server", *ours, rate=40.0),
            made_up("triton", "closed", *theirs),
            made_up("triton", "server", *theirs, rate=40.0),
            made_up("onnxruntime", "offline", *[repeat(70.0, 1.0, 0.0)] * 3),
        )
    )
    throughput, p99, cpu, loop = judged(comparison, ["triton"])
    assert (throughput.ratio.median, throughput.ratio.low, throughput.ratio.high) == (1.2, 1.1, 1.2)
    assert (throughput.ours, throughput.theirs, throughput.wanted, throughput.met) == (60.0, 50.0, "≥ 1", True)
    assert (p99.figure, p99.ratio.median, p99.wanted, p99.met) == ("p99 ms at 40/s", 0.8, "≤ 1", True)
    assert (cpu.ours, cpu.ratio.median, cpu.met) == (2.0, 1.0, True)
    assert (loop.ratio.median, loop.wanted, loop.met) == (pytest.approx(60 / 70), "≥ 0.95", False)
