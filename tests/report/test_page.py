"""The page as text: what it says, that it is whole by itself, and that nothing in a file can break out of it."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from impasto.bench.result import Result, Run, ServerUsage, write_result
from impasto.cli import app
from impasto.errors import ImpastoError
from impasto.report.inputs import Inputs, read_inputs
from impasto.report.page import render
from tests.report import samples
from tests.report.conftest import MADE_UP


def panels(page: str) -> list[str]:
    return re.findall(r"<figcaption><h3>(.*?)</h3>", page)


def of(*results: Result) -> Inputs:
    return Inputs(tuple((f"file{place}", result) for place, result in enumerate(results)))


def only(result: Result, keep: Callable[[Run], bool]) -> Result:
    return dataclasses.replace(result, runs=tuple(run for run in result.runs if keep(run)))


@pytest.fixture(scope="module")
def small() -> Result:
    return samples.result("NVIDIA L4", 75.0, requests=60)


def test_three_cards_and_their_kernels_have_every_figure(page: str) -> None:
    assert panels(page) == [
        "p50 latency against rate",
        "p99 latency against rate",
        "Latency distribution",
        "Where the time goes",
        "Batches that formed",
        "Throughput by batch",
        "Latency distribution",
        "Roofline",
        "Share of what the card can do",
    ]
    assert page.count("<svg xmlns=") == len(panels(page))


def test_a_made_up_card_is_marked_so_wherever_it_is_named(page: str) -> None:
    legends = re.findall(rf"<span>({MADE_UP}[^<]*)</span>", page)
    assert len(legends) > 10
    assert set(legends) == {f"{MADE_UP} (made up)"}
    assert '<h3><span class="key"' in page
    assert '<p class="note">made up</p>' in page


def test_ratios_say_how_many_times_better_a_card_is_than_the_first(small: Result) -> None:
    slow, fast = (samples.result(card, speed, requests=60) for card, speed in (("slow", 50.0), ("fast", 100.0)))
    offline = [only(result, lambda run: run.name == "starry offline batch=8") for result in (slow, fast)]
    page = render(of(*offline))
    ratios = [float(found) for found in re.findall(r'class="ratio better">([\d.]+)×', page)]
    assert len(ratios) >= 3 + 6
    assert all(1.95 < found < 2.05 for found in ratios)
    assert 'class="ratio worse"' not in page
    other_way = render(of(*reversed(offline)))
    assert {round(float(found), 1) for found in re.findall(r'class="ratio worse">([\d.]+)×', other_way)} == {0.5}


def test_the_page_is_whole_by_itself_and_runs_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"<script|<link|<iframe|<img|@import|javascript:|\son\w+=", page)
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'<\s]+", page)) <= namespaces
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_the_same_files_give_the_same_bytes(small: Result) -> None:
    assert render(of(small)) == render(of(small))


def test_ids_are_unique_and_every_reference_has_its_target(page: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", page))
    assert references
    assert references <= set(ids)


def test_every_colour_of_a_figure_is_one_that_the_page_sets_for_light_and_for_dark(page: str) -> None:
    style, body = page.split("</style>", 1)
    figures = "".join(re.findall(r'<div class="plot".*?</svg>', body, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b|rgb\(", figures)
    used = set(re.findall(r"var\(--([\w-]+)\)", body))
    light, dark = style.split("prefers-color-scheme: dark")
    assert {"series-1", "series-2", "series-3", "stage-2", "ink", "grid"} <= used - {"c"}
    for part in (light, dark):
        assert used - {"c"} <= set(re.findall(r"--([\w-]+):", part))


def test_text_from_a_file_is_text_on_the_page(small: Result) -> None:
    nasty = "<script>alert('1')</script>&\"</title><b>"
    machine = dataclasses.replace(
        small.machine, processor=nasty, gpus=(dataclasses.replace(small.machine.gpus[0], name=nasty),)
    )
    runs = tuple(dataclasses.replace(run, refused=nasty, repeats=()) for run in small.runs[:1]) + small.runs[1:]
    evil = dataclasses.replace(small, machine=machine, command=nasty, note=nasty, commit=nasty, runs=runs)
    page = render(of(evil, small))
    assert "<script" not in page
    assert "</title><b>" not in page
    assert page.count("alert(") > 5
    assert nasty in html.unescape(page)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (lambda run: run.load.rate == 20, ["Latency distribution", "Where the time goes", "Batches that formed"]),
        (lambda run: "batch=4" in run.name, ["Latency distribution"]),
        (lambda run: run.scenario == "offline", ["Throughput by batch", "Latency distribution"]),
    ],
)
def test_what_was_not_measured_leaves_no_figure(
    small: Result, keep: Callable[[Run], bool], expected: list[str]
) -> None:
    page = render(of(only(small, keep)))
    assert panels(page) == expected
    assert "Kernels" not in page


def test_kernels_alone_make_a_page(files: list[Path]) -> None:
    page = render(read_inputs(files[3:4]))
    assert panels(page) == ["Roofline", "Share of what the card can do"]
    assert "Side by side" not in page
    assert "NVIDIA L40S: 290 Tflop/s, 0.720 TB/s" in page


def test_a_refused_run_shows_why_and_no_speed(small: Result) -> None:
    reason = "pictures differ: found 31.0 dB; allowed is 50 dB or more"
    run = dataclasses.replace(small.runs[0], refused=reason, repeats=())
    page = render(of(dataclasses.replace(small, runs=(run,))))
    assert page.count(reason) == 2
    assert panels(page) == []
    assert "images/s</th>" in page.replace("images/s <small></small>", "images/s")


def test_searches_for_the_highest_rate_stand_side_by_side() -> None:
    page = render(of(samples.searched("fast", 140.0), samples.searched("slow", 75.0)))
    assert panels(page)[0] == "p99 latency against rate"
    assert "starry · server · highest rate, p99 within 100 ms" in page
    assert re.findall(r'<span class="value">(\d+) requests/s</span>', page) == ["160", "80"]
    assert len(re.findall(r"<title>fast\n160 requests/s: p99", page)) == 1


def test_a_curve_over_batches_keeps_the_concurrency() -> None:
    runs = []
    for batch in (1, 2, 4):
        for concurrency in (8, 32):
            load = dataclasses.replace(samples.load(batch=batch), concurrency=concurrency)
            repeats = (samples.repeat(100.0 * batch + concurrency, [5.0, 6.0]),)
            runs.append(Run(f"{batch} {concurrency}", "impasto", "in-process", "offline", load, repeats=repeats))
    page = render(of(dataclasses.replace(samples.result("card", 75.0, requests=2), runs=tuple(runs))))
    assert panels(page)[:2] == ["Throughput by batch", "Throughput by concurrency"]
    told = re.findall(r"<title>card\n(batch|concurrency) (\d+): (\d+) images/s</title>", page)
    assert told == [
        *(("batch", "1", "132"), ("batch", "2", "232"), ("batch", "4", "432")),
        *(("concurrency", "8", "408"), ("concurrency", "32", "432")),
    ]


def test_systems_in_one_file_are_series_of_their_own(small: Result) -> None:
    ours = only(small, lambda run: run.load.rate == 20).runs[0]
    theirs = dataclasses.replace(ours, name="triton", system="triton")
    page = render(of(dataclasses.replace(small, runs=(ours, theirs))))
    assert re.findall(r'<th scope="row"><span.*?<span>(.*?)</span>', page) == ["impasto", "triton"]


def peers(small: Result) -> Result:
    """A file of ours at two rates, of one server more at each of them, and of a plain loop that has no peer."""
    slow, fast = only(small, lambda run: run.load.rate in (20, 60)).runs
    loop = only(small, lambda run: run.name == "starry offline batch=1").runs[0]
    silent = tuple(dataclasses.replace(one, stages={"client": one.stages["client"]}) for one in slow.repeats)
    others = (
        dataclasses.replace(slow, system="ray", repeats=silent),
        dataclasses.replace(fast, system="triton"),
        dataclasses.replace(loop, system="onnxruntime"),
    )
    return dataclasses.replace(small, runs=(slow, fast, *others))


def test_a_system_that_has_no_peer_in_a_family_is_named_and_has_a_colour_of_its_own(small: Result) -> None:
    keys = re.findall(
        r"var\(--(series-\d)\)\"><svg[^>]*><use[^>]*></svg><span>([^<]*)</span>", render(of(peers(small)))
    )
    assert {label for _, label in keys} == {"impasto", "triton", "ray", "onnxruntime"}
    assert len(set(keys)) == len({color for color, _ in keys}) == 4


def test_every_system_stands_side_by_side_with_ours_at_its_own_rate(small: Result) -> None:
    page = render(of(peers(small)))
    blocks = re.findall(r'rowgroup">starry · ([^<]*)</th>(.*?)</tbody>', page, re.DOTALL)
    assert [(title, re.findall(r"<span>(\w+)</span>", rows)) for title, rows in blocks] == [
        ("server, 60 requests/s", ["impasto", "triton"]),
        ("server, 20 requests/s", ["impasto", "ray"]),
        ("offline, batch 1", ["onnxruntime"]),
    ]


def test_a_server_that_tells_no_stages_has_no_bar_of_them(small: Result) -> None:
    runs = [run for run in peers(small).runs if run.load.rate == 20]
    page = render(of(dataclasses.replace(small, runs=tuple(runs))))
    assert "impasto\nexecute: " in page
    assert "ray\nclient: " not in page


def test_a_lone_point_shows_its_repeats_as_the_others_do(small: Result) -> None:
    page = render(of(peers(small)))
    lone = re.findall(r"<title>(ray|triton)\n(\d+) requests/s: [^<]*</title>", page)
    assert set(lone) == {("ray", "20"), ("triton", "60")}
    bars = re.findall(r"stroke: var\(--(series-\d)\); stroke-opacity: 0.35; stroke-width: 4", page)
    assert sorted(bars) == ["series-2", "series-2", "series-3", "series-3"]


def test_files_that_tell_nothing_apart_are_told_apart_by_name(small: Result) -> None:
    page = render(of(small, small))
    assert {"NVIDIA L4 · file0", "NVIDIA L4 · file1"} <= set(re.findall(r"<span>(NVIDIA[^<]*)</span>", page))


def without_model_cpu(result: Result) -> Result:
    run = result.runs[0]
    repeats = tuple(dataclasses.replace(one, server=ServerUsage(2.0, None, 64.0)) for one in run.repeats)
    return dataclasses.replace(result, runs=(dataclasses.replace(run, repeats=repeats),))


def test_a_figure_that_nobody_measured_has_no_row(small: Result) -> None:
    page = render(of(without_model_cpu(small)))
    assert "CPU a request" in page
    assert "CPU beside the model" not in page
    assert "GPU memory" not in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "bad.json: no JSON: "),
        ("[]", "bad.json: found a list; allowed is a file of impasto bench"),
        ('{"machine": {}, "rows": []}', "bad.json: found the fields machine, rows; allowed is "),
        ('{"schema": 99}', "bad.json: schema: found 99; allowed is 1"),
        ('{"schema": 1}', "bad.json: created: "),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ImpastoError, match=re.escape(said)):
        read_inputs([tmp_path / "bad.json"])


def set_floor(content: dict[str, Any]) -> None:
    content["floor"]["copied"] = 0


def set_ms(content: dict[str, Any]) -> None:
    content["rows"][2]["ms"] = "fast"


@pytest.mark.parametrize(
    ("damage", "field"), [(set_floor, "floor.copied: found 0"), (set_ms, "rows.2.ms: found 'fast'")]
)
def test_a_bad_field_of_a_kernels_file_is_named(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], field: str
) -> None:
    content = samples.kernels("NVIDIA L4", 2.5e11, 1.0e14)
    damage(content)
    (tmp_path / "k.json").write_text(json.dumps(content))
    with pytest.raises(ImpastoError, match=re.escape(f"k.json: {field}; ")):
        read_inputs([tmp_path / "k.json"])


def test_the_command_writes_the_page_and_tells_where(tmp_path: Path, small: Result) -> None:
    write_result(only(small, lambda run: run.load.rate == 20), tmp_path / "a.json")
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(tmp_path / "a.json"), "--out", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert out.read_text().startswith("<!doctype html>")


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, small: Result) -> None:
    empty = tmp_path / "empty.json"
    write_result(dataclasses.replace(small, runs=()), empty)
    for path, said in ((empty, "runs: found none"), (tmp_path / "none.json", "No such file")):
        done = CliRunner().invoke(app, ["report", str(path), "--out", str(tmp_path / "page.html")])
        assert done.exit_code == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()
