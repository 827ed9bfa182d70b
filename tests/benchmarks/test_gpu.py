"""The benchmark of kernels as far as it goes without a card: in Triton's interpreter, with an invented clock."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.closeness import disagreement
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import card, clock, layers, run, suites, tuning
from benchmarks.gpu.case import Case, Suite, failure, pure
from benchmarks.gpu.clock import Floor, Ways
from impasto.kernels import modulated_conv, routing

CPU = torch.device("cpu")
FLOOR = Floor(copied=1e12, multiplied=1e15, smallest=0.001)
SUITES = {suite.kernel: suite for suite in suites.SUITES}


def test_a_dry_run_compares_kernels_in_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--dry-run", "--only", "bias_act", "geglu"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["bias_act: 4 of 4 right", "geglu: 4 of 4 right"]


def test_without_a_card_it_says_so_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert command.main(["--dry-run", "--only", "bias_acts"]) == 2
    assert "no kernel bias_acts; there are modulated_conv, " in capsys.readouterr().err


def test_it_loads_nothing_but_torch_triton_and_numpy() -> None:
    code = (
        "import sys, benchmarks.gpu.__main__, benchmarks.gpu.run, benchmarks.gpu.card\n"
        "others = {'rich', 'typer', 'psutil', 'onnxruntime', 'grpc', 'pydantic', 'safetensors'}\n"
        "print(sorted(others & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def _timed_by(ways: Ways) -> dict[str, float]:
    """A clock that runs everything once and says 1 ms for the first way, 2 ms for the second and so on."""
    for way in ways.values():
        way()
    return {name: index + 1.0 for index, name in enumerate(ways)}


def _timings(suite: Suite, shape: tuple[int, ...], broken: set[str]) -> list[run.Row | run.Verdict]:
    suite = dataclasses.replace(suite, timed_dtype=torch.float32)
    return list(run.timings(suite, CPU, _timed_by, FLOOR, batches=(2,), shapes=(shape,), broken=broken))


def test_a_row_has_times_of_both_forms_and_the_fastest_rival_of_a_kind() -> None:
    others = {"folded tf32", "transposed tf32", "cudnn folded", "cudnn transposed"}
    found = _timings(SUITES["modulated_conv_up"], (4, 6, 1, 2), broken=others)
    verdicts, rows = found[:6], found[6:]
    ours = [verdict for verdict in verdicts if isinstance(verdict, run.Verdict) and "cudnn" not in verdict.form]
    assert [verdict.wrong for verdict in ours] == [None] * 4
    folded, transposed = (row for row in rows if isinstance(row, dict))
    assert (folded["form"], folded["routed"]) == ("folded", True)
    assert (transposed["form"], transposed["routed"]) == ("transposed", False)
    assert folded["rivals_ms"] == {"eager folded": 3.0, "eager transposed": 4.0, "textbook": 5.0}
    assert transposed["ratios"] == {"eager": 1.5, "textbook": 2.5}
    # 4→6 channels, 1×2 → 2×4 pixels, two samples, float32.
    moved = 4 * (2 * 4 * 2 + 6 * 4 * 9 + 2 * 6 * 8 + 2 * 8)
    assert folded["share_of_copy"] == pytest.approx(moved / 1e-3 / 1e12)
    assert folded["floor_ms"] == pytest.approx(max(moved / 1e12, 2 * 9 * 4 * 6 * 2 * 2 / 1e15) * 1e3)
    lines = card.table([folded, transposed]).splitlines()
    assert lines[1].split()[:5] == ["modulated_conv_up", "folded", "4×6×1×2", "float32", "2"]
    assert lines[2].split()[1] == "(transposed)"


def test_a_run_writes_its_figures_and_prints_its_table_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class InventedClock:
        runs = 7

        def __call__(self, ways: Ways) -> dict[str, float]:
            return _timed_by(ways)

    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(clock, "graph_clock", lambda device, runs: InventedClock())
    monkeypatch.setattr(clock, "measured_floor", lambda device, clock: FLOOR)
    monkeypatch.setattr(card, "card", lambda device: {"name": "Card 9000 (a)"})
    monkeypatch.setattr(card, "RESULTS", tmp_path)
    suite = dataclasses.replace(SUITES["philox_normal"], timed=((5,), (6,)))
    options = argparse.Namespace(device="cpu", quick=True, compile=False, only=None)
    assert command._measure([suite], options) == 0
    written = json.loads((tmp_path / "card-9000-a-quick.json").read_text())
    assert set(written) == {"machine", "gpu", "floor", "wrong", "runs", "rows", "seconds"}
    assert [(row["shape"], row["batch"], row["ms"], row["ratios"]) for row in written["rows"]] == [
        ("6", 1, 1.0, {"eager": 2.0})
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].split() == ["philox_normal", "6", "float32", "1", "1.0000", "0.0000", "0%", "2.00"]


def test_a_kernel_that_failed_gets_no_times() -> None:
    suite = SUITES["geglu"]
    assert [type(found) for found in _timings(suite, (3, 5), broken={""})] == [run.Verdict]

    def wrong(n: int, dtype: torch.dtype, device: torch.device, *shape: int) -> Case:
        case = suite.build(n, dtype, device, *shape)
        return dataclasses.replace(case, forms={"": pure(lambda of: case.expected(of)[0].to(dtype) * 1.01)})

    found = _timings(dataclasses.replace(suite, build=wrong), (3, 5), broken=set())
    assert len(found) == 1
    assert isinstance(found[0], run.Verdict)
    assert str(found[0].wrong).startswith("error ")


def test_times_that_cannot_be_taken_are_reported_and_the_rest_goes_on() -> None:
    def full_at_one(ways: Ways) -> dict[str, float]:
        if len(next(iter(ways.values()))()) == 1:  # type: ignore[arg-type]  # a tensor
            raise RuntimeError("no memory")
        return _timed_by(ways)

    suite = dataclasses.replace(SUITES["geglu"], timed_dtype=torch.float32)
    found = list(run.timings(suite, CPU, full_at_one, FLOOR, batches=(1, 2), shapes=((3, 5),), broken=set()))
    assert [item.wrong if isinstance(item, run.Verdict) else item["ms"] for item in found] == [
        None,
        "no times: RuntimeError: no memory",
        None,
        1.0,
    ]


def test_what_is_not_written_differs_in_a_batch_or_cannot_run_is_seen() -> None:
    case = SUITES["geglu"].build(2, torch.float32, CPU, 3, 5)
    exact = case.expected

    def unwritten(of: slice) -> Tensor:
        return torch.empty(2, 3, 5)[of]

    def of_the_batch(of: slice) -> Tensor:
        y = exact(of)[0].float()
        return y if len(y) == 1 else y * (1 + 2e-7)

    def raising(of: slice) -> Tensor:
        raise RuntimeError("out of registers\nand more")

    assert failure(case, case.forms[""]) is None
    assert str(failure(case, pure(unwritten))).startswith("NaN or infinite")
    assert failure(case, pure(of_the_batch)) == "row 0 alone has other bits than in a batch of 2"
    assert failure(case, pure(raising)) == "RuntimeError: out of registers"


@pytest.mark.parametrize(
    "kernel", ["modulated_conv", "modulated_conv_up", "to_rgb", "bias_act", "to_image", "upfirdn", "stylegan2"]
)
def test_rivals_do_what_the_kernel_does(kernel: str) -> None:
    suite = SUITES[kernel]
    case = suite.build(2, torch.float32, CPU, *suite.checked[0])
    expected = case.expected(slice(None))[0].double()
    for rival in case.rivals.values():
        found = rival()
        found = found[0] if isinstance(found, tuple) else found
        assert isinstance(found, Tensor)
        assert disagreement(found.double(), expected, terms=1000) is None


def test_layers_are_those_of_the_generator_and_their_sum_needs_all_of_them() -> None:
    rows = [
        {"kernel": suite.kernel, "shape": "×".join(map(str, shape)), "batch": 1, "routed": True, "ms": 2.0}
        | {"floor_ms": 1.0, "ratios": {"eager": 2.0 + index % 2, "textbook": 4.0}}
        for suite in suites.LAYERS
        for index, shape in enumerate(suite.timed)
    ]
    assert len(rows) == 17
    assert suites.LAYERS[1].timed[-1] == (64, 32, 512, 512)
    (total,) = run.layer_sums(rows)
    assert (total["ms"], total["floor_ms"], total["ratios"]["textbook"]) == (34.0, 17.0, 4.0)
    assert total["ratios"]["eager"] == pytest.approx((9 * 2 + 8 * 3) / 17)
    assert run.layer_sums(rows[1:]) == []


def test_weights_of_layers_are_exact_in_every_type() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        layer = layers.make_layer(1, dtype, CPU, 5, 4, 3, 3, 3, up=2)
        folded = modulated_conv.fold_up_weight(layer.weight)
        assert torch.equal(folded.to(dtype).float(), folded)
        assert torch.equal(layer.styles.to(dtype).float(), layer.styles)


@pytest.mark.parametrize("kernel", ["modulated_conv", "modulated_conv_up", "stylegan2"])
def test_every_form_is_right_at_its_smallest_shape(kernel: str) -> None:
    suite = dataclasses.replace(SUITES[kernel], checked=SUITES[kernel].checked[:1])
    verdicts = list(run.checks(suite, CPU, (torch.float16,)))
    assert {verdict.form for verdict in verdicts} == {
        "modulated_conv": {"plain", "cudnn"},
        "modulated_conv_up": {"folded", "transposed", "cudnn folded", "cudnn transposed"},
        "stylegan2": {""},
    }[kernel]
    assert [verdict.wrong for verdict in verdicts] == [None] * len(verdicts)


def test_a_library_whose_rows_depend_on_the_batch_is_not_taken_and_no_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def checks(suite: Suite, *arguments: object) -> list[run.Verdict]:
        wrongs = {"plain": None, "cudnn": "row 0 alone has other bits than in a batch of 3"}
        return [run.Verdict(suite.kernel, form, "3×4×4", wrong) for form, wrong in wrongs.items()]

    monkeypatch.setattr(run, "checks", checks)
    assert command.main(["--dry-run", "--only", "modulated_conv"]) == 0
    assert "modulated_conv cudnn 3×4×4: not taken: row 0 alone" in capsys.readouterr().out


def _row(form: str, batch: int, ms: float) -> run.Row:
    row = {"kernel": "modulated_conv_up", "shape": "512×256×64×64", "dtype": "float16", "batch": batch}
    return row | {"form": form, "ms": ms, "routed": form == "transposed"}


def test_the_table_has_the_form_that_is_fastest_over_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "CONFIGS", tmp_path)
    rows = [_row("transposed", 1, 1.0), _row("transposed", 8, 8.0), _row("cudnn folded", 1, 2.0)]
    rows += [_row("cudnn folded", 8, 3.0), _row("folded", 1, 0.1)]
    unrouted = _row("folded", 1, 0.0) | {"kernel": "to_rgb"}
    times = tuning.measured([*rows, unrouted, _row("folded", 8, 0.0) | {"dtype": "float32"}])
    key = "512→256 up 64×64"
    assert tuning.fastest(times) == {key: "cudnn folded"}
    tuning.mark([*rows, unrouted], tuning.fastest(times))
    assert [row["form"] for row in rows if row["routed"]] == ["cudnn folded"] * 2
    assert unrouted["routed"] is False
    path = tuning.write_table("NVIDIA H200", times)
    assert path == tmp_path / "nvidia-h200.json"
    assert routing.read_table("NVIDIA H200") == {key: "cudnn folded"}
    assert json.loads(path.read_text())["ms"][key]["transposed"] == {"1": 1.0, "8": 8.0}


def test_a_whole_run_writes_the_table_before_it_times_the_generator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card 9000")
    monkeypatch.setattr(clock, "graph_clock", lambda device, runs: argparse.Namespace(runs=runs))
    monkeypatch.setattr(clock, "measured_floor", lambda device, clock: FLOOR)
    monkeypatch.setattr(card, "card", lambda device: {"name": "Card 9000"})
    monkeypatch.setattr(card, "RESULTS", tmp_path)
    monkeypatch.setattr(routing, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(run, "checks", lambda *arguments: [])
    tables, compiled = [], []

    def timings(suite: Suite, *arguments: object, compiles: bool, **options: object) -> list[run.Row]:
        if compiles:
            compiled.append((suite.kernel, options["batches"], options["shapes"]))
            return [_row("folded", 1, 0.9) | {"floor_ms": 0.1, "ratios": {"compiled": 2.0}}] * (len(compiled) == 10)
        tables.append((suite.kernel, routing.read_table("Card 9000")))
        if suite.kernel != "modulated_conv_up":
            return []
        return [
            _row(form, batch, ms) | {"floor_ms": 0.1, "ratios": {}}
            for form, ms in (("folded", 1.0), ("transposed", 2.0))
            for batch in (1, 8)
        ]

    monkeypatch.setattr(run, "timings", timings)
    options = argparse.Namespace(device="cpu", quick=False, compile=False, only=None)
    assert command._measure([*suites.LAYERS, SUITES["stylegan2"]], options) == 0
    assert tables == [
        ("modulated_conv", {}),
        ("modulated_conv_up", {}),
        ("stylegan2", {"512→256 up 64×64": "folded"}),
    ]
    written = json.loads((tmp_path / "card-9000.json").read_text())
    assert [(row["form"], row["ms"]) for row in written["rows"] if row["routed"]] == [("folded", 0.9), ("folded", 1.0)]
    assert len(written["rows"]) == 4
    shapes = [
        (suite.kernel, (batch,), (shape,)) for batch in (1, 8) for suite in suites.COMPILED for shape in suite.timed
    ]
    assert compiled == shapes
    compiled.clear()
    monkeypatch.setattr(command, "LAST_COMPILED", -1.0)
    assert command._measure([*suites.LAYERS, SUITES["stylegan2"]], options) == 0
    assert compiled == []


@pytest.mark.parametrize(
    ("versions", "works"), [(("3.6.0", "2.4.0"), False), (("3.6.0", "2.3.5"), True), (("3.10.0", "2.4.1"), True)]
)
def test_a_dry_run_says_when_the_interpreter_and_numpy_do_not_go_together(
    versions: tuple[str, str], works: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, version in zip(("triton", "numpy"), versions, strict=True):
        monkeypatch.setattr(f"{package}.__version__", version)
    assert command.main(["--dry-run", "--only", "demodulation"]) == (0 if works else 2)
    message = "benchmarks.gpu: Triton 3.6.0 interprets with numpy below 2.4 alone: found 2.4.0\n"
    assert capsys.readouterr().err == ("" if works else message)
