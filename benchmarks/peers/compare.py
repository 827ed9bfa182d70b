"""Impasto beside its peers, in rounds: every round starts each server, loads it and stops it, one after the other.

Capacity first: images/s of a closed loop that keeps every batch full. Then, for every pair of Impasto and a peer, an
open loop at 0.8 of what the slower of the two reached, the same traffic for both.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.judgement import DIFFUSERS, LOOP, OURS, STARRY, STARRY_DDPM, Comparison, key_of
from benchmarks.peers.servers import NOISE_MODE, SERVERS
from impasto.bench.gate import TOLERANCE_DB, psnr_db
from impasto.bench.in_process import open_in_process
from impasto.bench.priority import ahead_of_others, usual_command
from impasto.bench.result import Distribution, Gate, Load, MixEntry, Repeat, Run
from impasto.bench.runner import Spec, run
from impasto.bench.sweep import Settings
from impasto.bench.target import Target
from impasto.engine.generator import load
from impasto.errors import ImpastoError
from impasto.export.bundle import find_bundle
from impasto.images.pixels import Bytes

CALLERS = 32
DIFFUSERS_BATCH = 8
TRIES = 3
SHARE = 0.8
"""Of capacity: where latencies are compared."""
Say = Callable[[str], None]


def compare(models: Path, peers: Sequence[str], rounds: int, seconds: float, say: Say) -> Comparison:
    """Measure Impasto, the plain loop and these peers, with the models starry and starry-ddpm of a directory.

    `peers` are of SERVERS, and diffusers. ImpastoError if a picture of one differs.
    """
    bundle, model = find_bundle(STARRY, [models]), STARRY
    names = [OURS, *(peer for peer in peers if peer in SERVERS)]
    with ahead_of_others(), _reference(bundle) as reference:
        capacity = {}
        for name in names:
            say(f"{name}: pictures and capacity")
            with SERVERS[name](bundle) as target:
                found = run(target, lambda _: reference, _closed(model, seconds, 0))
                _require(found)
                capacity[name] = found.repeats[0].images_per_second
                gate = found.gate
            say(f"{name}: {capacity[name]:.1f} images/s, pictures at {gate.psnr_db if gate else 0:.0f} dB")
        rates = {peer: round(SHARE * min(capacity[OURS], capacity[peer]), 1) for peer in names[1:]}
        runs: list[Run] = []
        for number in range(rounds):
            for name in names:
                wanted = sorted(set(rates.values())) if name == OURS else [rates[name]]
                say(f"round {number + 1} of {rounds}: {name}")
                with SERVERS[name](bundle) as target:
                    runs += list(_round(target, model, seconds, number, wanted))
            say(f"round {number + 1} of {rounds}: plain loop")
            runs.append(_plain_loop(bundle, model, seconds))
            if DIFFUSERS in peers:
                say(f"round {number + 1} of {rounds}: diffusers")
                runs += list(_diffusers(find_bundle(STARRY_DDPM, [models]), seconds))
    return Comparison(tuple(_merged(runs)))


def _closed(model: str, seconds: float, seed: int) -> Spec:
    load = Load("closed", (MixEntry(model),), seconds=seconds, concurrency=CALLERS, seed=seed)
    return Spec("closed", load, repeats=1)


def _round(target: Target, model: str, seconds: float, seed: int, rates: Sequence[float]) -> Iterator[Run]:
    yield _measured(target, _closed(model, seconds, seed))
    for rate in rates:
        load = Load("poisson", (MixEntry(model),), seconds=seconds, rate=rate, seed=seed)
        found = _measured(target, Spec("server", load, repeats=1))
        yield dataclasses.replace(found, load=dataclasses.replace(load, seed=0))


def _measured(target: Target, spec: Spec) -> Run:
    """The run; again where the machine had other things to do than to send requests in time."""
    for _ in range(TRIES):
        found = run(target, None, spec)
        if not found.refused:
            return found
    return _require(found)


def _require(found: Run) -> Run:
    if found.refused:
        raise ImpastoError(f"{found.name}: {found.refused}; no speed is told")
    return found


def _plain_loop(bundle: Path, model: str, seconds: float) -> Run:
    """The fastest way of the plain loop, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peers.loop", str(bundle), str(seconds)]
    told = json.loads(subprocess.run(usual_command(command), check=True, capture_output=True, text=True).stdout)
    best = max(told, key=lambda way: way["images"] / way["seconds"])
    return _looped(f"plain onnxruntime loop, {best['way']}, {model}", LOOP, model, best, {"way": best["way"]})


def _looped(name: str, system: str, model: str, told: dict[str, Any], settings: Settings) -> Run:
    """A loop's figures, which it printed as JSON, as a run."""
    images, took, batches = told["images"], told["seconds"], len(told["batch_ms"])
    repeat = Repeat(
        seconds=took,
        sent=batches,
        completed=batches,
        rejected=0,
        failed=0,
        images=images,
        images_per_second=images / took,
        latency=Distribution.of(told["batch_ms"]),
        client_lag=0.0,
        client_cpu=0.0,
        batch_sizes={images // batches: batches},
    )
    load = Load("at-once", (MixEntry(model, batch=images // batches),), seconds=took)
    return Run(name, system, "in-process", "offline", load, settings, repeats=(repeat,))


def _diffusers(bundle: Path, seconds: float) -> Iterator[Run]:
    """diffusers' pipeline in a loop of full batches, and Impasto's server under as many callers as keep it busy."""
    model = bundle.parent.name
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pictures.npy"
        module = "benchmarks.peers.diffusers_loop"
        command = [sys.executable, "-m", module, str(bundle), str(seconds), str(DIFFUSERS_BATCH), str(out)]
        told = json.loads(subprocess.run(usual_command(command), check=True, capture_output=True, text=True).stdout)
        gate = _same_noise(bundle, np.load(out))
    found = _looped(f"diffusers' pipeline, batch {DIFFUSERS_BATCH}, {model}", DIFFUSERS, model, told, {})
    yield dataclasses.replace(found, gate=gate)
    with SERVERS[OURS](bundle) as target:
        yield _measured(target, _closed(model, seconds, 0))


def _same_noise(bundle: Path, made: Sequence[Bytes]) -> Gate:
    """Impasto's pictures of the same seeds, from the noise that diffusers draws."""
    seeds = tuple(range(len(made)))
    with load(str(bundle)) as generator:
        expected = generator.generate(seeds=seeds, noise="torch")
    worst = min(psnr_db(one, picture.array) for one, picture in zip(made, expected, strict=True))
    gate = Gate("onnxruntime fp32 on cpu", seeds, worst, TOLERANCE_DB["fp32"])
    if not gate.passed:
        raise ImpastoError(f"diffusers: pictures differ: found {worst:.1f} dB; allowed is {gate.tolerance_db:g} dB")
    return gate


def _merged(runs: Sequence[Run]) -> Iterator[Run]:
    """The rounds of each run as its repeats."""
    for key in dict.fromkeys(key_of(found) for found in runs):
        same = [found for found in runs if key_of(found) == key]
        yield dataclasses.replace(same[0], repeats=tuple(repeat for found in same for repeat in found.repeats))


@contextmanager
def _reference(bundle: Path) -> Iterator[Target]:
    with open_in_process(bundle.parent.name, models=bundle.parent.parent, noise_mode=NOISE_MODE) as target:
        yield target
