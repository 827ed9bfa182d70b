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
    compiled  the eager one under torch.compile, tuned at length (only with --compile, which takes much longer)
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from benchmarks.gpu.case import Suite
    from benchmarks.gpu.run import Verdict

RUNS = 25
QUICK_RUNS = 7
BATCHES = (1, 8)


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
    from benchmarks.gpu.run import Row, Verdict, layer_sums, timings
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
    rows += layer_sums(rows)
    gpu = card(device)
    content = {"gpu": gpu, "floor": dataclasses.asdict(floor), "wrong": failures, "runs": clock.runs, "rows": rows}
    name = "-".join([gpu["name"], *(["quick"] if quick else []), *(options.only or [])])
    print(write(name, content | {"seconds": round(time.monotonic() - started)}))
    print(table(rows))
    return int(bool(failures))


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


def _refuse(reason: str) -> int:
    print(f"benchmarks.gpu: {reason}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__, formatter_class=formatter)
    parser.add_argument("--only", nargs="+", metavar="KERNEL", help="look at these kernels alone")
    parser.add_argument("--quick", action="store_true", help="one shape a kernel, batch 1, few runs")
    parser.add_argument("--compile", action="store_true", help="add torch.compile(mode='max-autotune') as a rival")
    parser.add_argument("--device", default="cuda:0", help="the CUDA device (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only compare, on a CPU, in Triton's interpreter")
    return parser


if __name__ == "__main__":
    sys.exit(main())
