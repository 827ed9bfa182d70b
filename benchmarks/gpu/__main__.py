"""Correctness and speed of every kernel on a CUDA device, in one run.

    python -m benchmarks.gpu                       all of it, in minutes
    python -m benchmarks.gpu --only sampler_step   some kernels
    python -m benchmarks.gpu --dry-run             on a CPU, in Triton's interpreter: no times

A kernel is first compared with its reference in float64; one that fails gets no times, and the exit status is 1.
Times are medians of runs that alternate with those of the rivals, with cold caches, as CUDA graphs: the cost of
launching does not count. A run of all kernels writes the table by which `impasto.kernels.routing` chooses a layer's
form on this card. A ratio says how many times as long the rival takes:

    eager     what a library runs in torch, one operation after the other (cuDNN and separate ones for a layer)
    textbook  StyleGAN2's layer as the paper has it: one grouped convolution with weights of each sample
    compiled  the eager one under torch.compile(mode="max-autotune"), of the layers and the whole generator: in a
              second round, while the run is young (torch keeps what it has tuned, and the next run gets further);
              of every kernel with --compile, however long that takes
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from benchmarks.gpu.case import Suite
    from benchmarks.gpu.clock import Clock, Floor
    from benchmarks.gpu.run import Row, Verdict

RUNS = 25
QUICK_RUNS = 7
BATCHES = (1, 8)
LAST_COMPILED = 390.0
"""Seconds into a run after which nothing more is compiled."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    missing = [name for name in ("torch", "triton", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        return _refuse(f"{', '.join(missing)} not installed")
    if options.dry_run:
        # Before anything imports Triton.
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from benchmarks.gpu.suites import SUITES

    if options.dry_run and (fault := _interpreter_fault()):
        return _refuse(fault)
    unknown = set(options.only or ()) - {suite.kernel for suite in SUITES}
    if unknown:
        return _refuse(f"no kernel {', '.join(sorted(unknown))}; there are {', '.join(s.kernel for s in SUITES)}")
    suites = [suite for suite in SUITES if not options.only or suite.kernel in options.only]
    if options.dry_run:
        # The interpreter multiplies bfloat16 as if its bits were integers.
        return int(bool(_faults(_broken(suites, torch.device("cpu"), (torch.float32, torch.float16)))))
    if not torch.cuda.is_available():
        return _refuse(f"no CUDA device: torch {torch.__version__} sees none; --dry-run checks the kernels on the CPU")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return _refuse("TRITON_INTERPRET is set: the kernels would run in Triton's interpreter")
    return _measure(suites, options)


def _measure(suites: Sequence[Suite], options: argparse.Namespace) -> int:
    import torch

    from benchmarks.gpu.card import card, table, write
    from benchmarks.gpu.clock import graph_clock, measured_floor
    from benchmarks.gpu.run import Verdict, layer_sums, timings
    from benchmarks.gpu.suites import LAYERS
    from benchmarks.gpu.tuning import fastest, mark, measured, write_table
    from impasto.kernels.routing import of_library

    started, device, quick = time.monotonic(), torch.device(options.device), options.quick
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    clock = graph_clock(device, QUICK_RUNS if quick else RUNS)
    floor = measured_floor(device, clock)
    print(f"copies {floor.copied / 1e12:.2f} TB/s, multiplies {floor.multiplied / 1e12:.0f} Tflop/s in float16")
    broken = _broken(suites, device, (torch.float32, torch.float16, torch.bfloat16))
    failures = _faults(broken)
    rows: list[Row] = []
    for suite in suites:
        forms = {form for kernel, form in broken if kernel == suite.kernel}
        shapes = suite.timed[-1:] if quick else suite.timed
        for found in timings(
            suite,
            device,
            clock,
            floor,
            batches=BATCHES[:1] if quick else BATCHES,
            shapes=shapes,
            broken=forms,
            compiles=options.compile,
        ):
            if isinstance(found, Verdict):
                if found.wrong:
                    print(_complaint(found), flush=True)
                    failures += [f"{found.kernel} {found.form} {found.shape}"] * (not of_library(found.form))
            else:
                rows.append(found)
        print(f"{suite.kernel}: timed, {time.monotonic() - started:.0f} s so far", flush=True)
        if suite is LAYERS[-1] and not quick and all(layers in suites for layers in LAYERS):
            # From here on, the whole generator included, layers run as this run found them fastest.
            times = measured(rows)
            print(write_table(torch.cuda.get_device_name(device), times))
            mark(rows, fastest(times))
    if not quick and not options.compile:
        _add_compiled(rows, suites, broken, device, clock, floor, until=started + LAST_COMPILED)
    rows += layer_sums(rows)
    gpu = card(device)
    content = {"gpu": gpu, "floor": dataclasses.asdict(floor), "wrong": failures, "runs": clock.runs, "rows": rows}
    name = "-".join([gpu["name"], *(["quick"] if quick else []), *(options.only or [])])
    print(write(name, content | {"seconds": round(time.monotonic() - started)}))
    print(table(rows))
    return int(bool(failures))


def _add_compiled(
    rows: list[Row],
    suites: Sequence[Suite],
    broken: set[tuple[str, str]],
    device: torch.device,
    clock: Clock,
    floor: Floor,
    *,
    until: float,
) -> None:
    """Time the layers and the generator again beside torch.compile, and put that in place of their rows."""
    from benchmarks.gpu.run import Verdict, replace, timings
    from benchmarks.gpu.suites import COMPILED

    cases = [
        (batch, suite, shape) for batch in BATCHES for suite in COMPILED if suite in suites for shape in suite.timed
    ]
    for done, (batch, suite, shape) in enumerate(cases):
        if time.monotonic() > until:
            print(f"torch.compile: {done} of {len(cases)} for want of time; the next run takes it from there")
            return
        forms = {form for kernel, form in broken if kernel == suite.kernel}
        sizes: dict[str, Any] = {"batches": (batch,), "shapes": (shape,)}
        for found in timings(suite, device, clock, floor, **sizes, broken=forms, compiles=True):
            if not isinstance(found, Verdict):
                replace(rows, found)
            elif found.wrong:
                print(_complaint(found), flush=True)  # once more, or of the rival alone


def _broken(suites: Sequence[Suite], device: torch.device, dtypes: Sequence[torch.dtype]) -> set[tuple[str, str]]:
    """Compare every kernel with float64 at small shapes and say so; returns (kernel, form) of those that fail."""
    from benchmarks.gpu.run import checks

    broken = set()
    for suite in suites:
        verdicts = list(checks(suite, device, dtypes))
        for verdict in verdicts:
            if verdict.wrong:
                print(_complaint(verdict))
                broken.add((verdict.kernel, verdict.form))
        right = sum(verdict.wrong is None for verdict in verdicts)
        print(f"{suite.kernel}: {right} of {len(verdicts)} right", flush=True)
    return broken


def _complaint(verdict: Verdict) -> str:
    from impasto.kernels.routing import of_library

    # A library owes us nothing: where it fails, its form is not taken, and that is no fault.
    judged = "not taken" if of_library(verdict.form) else "WRONG"
    return f"{verdict.kernel} {verdict.form} {verdict.shape}: {judged}: {verdict.wrong}"


def _faults(broken: set[tuple[str, str]]) -> list[str]:
    """The kernels and forms of ours that failed."""
    from impasto.kernels.routing import of_library

    return [f"{kernel} {form}".rstrip() for kernel, form in sorted(broken) if not of_library(form)]


def _interpreter_fault() -> str | None:
    """What is wrong with Triton's interpreter here, or None."""
    import numpy as np
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < (3, 7) and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        return f"Triton {triton.__version__} interprets with numpy below 2.4 alone: found {np.__version__}"
    return None


def _refuse(reason: str) -> int:
    print(f"benchmarks.gpu: {reason}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__, formatter_class=formatter)
    parser.add_argument("--only", nargs="+", metavar="KERNEL", help="look at these kernels alone")
    parser.add_argument("--quick", action="store_true", help="one shape a kernel, batch 1, few runs")
    parser.add_argument("--compile", action="store_true", help="let torch.compile(mode='max-autotune') rival all")
    parser.add_argument("--device", default="cuda:0", help="the CUDA device (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only compare, on a CPU, in Triton's interpreter")
    return parser


if __name__ == "__main__":
    sys.exit(main())
