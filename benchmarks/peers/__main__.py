"""Impasto beside NVIDIA Triton, Ray Serve, a plain loop of onnxruntime, and diffusers: the same graphs in one run.

    python -m benchmarks.peers                       starry over the Open Inference Protocol, on this CPU

The peers' environments are made at the first run, in the cache folder. Writes results/cpu/peers.json, a result as
`impasto report` reads it.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.peers.compare import compare
from benchmarks.peers.judgement import DIFFUSERS, OURS, Comparison, judged
from benchmarks.peers.servers import SERVERS
from benchmarks.report import RESULTS, show
from impasto.bench.machine import commit, machine
from impasto.bench.result import Model, Result, write_result
from impasto.export.bundle import ZOO, find_bundle, open_bundle


def main(
    peers: Annotated[list[str] | None, typer.Option("--peer", help="triton, ray, diffusers; else all.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are compared.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load in each round.")] = 15.0,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "cpu" / "peers.json",
) -> None:
    """Compare, print the judged lines, write the result; exit status 1 if a line falls short."""
    known = [name for name in (*SERVERS, DIFFUSERS) if name != OURS]
    chosen = peers or known
    if unknown := sorted(set(chosen) - set(known)):
        raise typer.BadParameter(f"--peer: found {unknown[0]!r}; allowed is one of {', '.join(known)}")
    comparison = compare(ZOO, chosen, rounds, seconds, lambda text: print(text, file=sys.stderr, flush=True))
    _write(comparison, out)
    lines = judged(comparison, chosen)
    show(
        "Impasto beside its peers",
        [
            {
                "peer": line.peer,
                "figure": line.figure,
                "Impasto": line.ours,
                "peer's": line.theirs,
                "ratio": line.ratio.median,
                "from": line.ratio.low,
                "to": line.ratio.high,
                "wanted": line.wanted,
                "met": "yes" if line.met else "no",
            }
            for line in lines
        ],
    )
    print(out)
    if not all(line.met for line in lines):
        raise typer.Exit(1)


def _write(comparison: Comparison, out: Path) -> None:
    measured = dict.fromkeys(run.load.mix[0].model for run in comparison.runs)
    result = Result(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=" ".join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
        commit=commit(),
        machine=machine(),
        models=tuple(map(_model, measured)),
        runs=comparison.runs,
    )
    write_result(result, out)


def _model(name: str) -> Model:
    manifest = open_bundle(find_bundle(name, [ZOO])).manifest
    return Model(name, manifest.version, manifest.digest, manifest.family, manifest.width, manifest.height)


if __name__ == "__main__":
    typer.run(main)
