"""Runs `impasto import` and `impasto export` in forks, each killed at one of its touches of the file system.

Run as `python -m tests.export.killed_commands OUT KILLS`; prints JSON: for each command how many touches an unbroken
run makes, at which ones it was killed, what a reader then found, and what after the next run. Graphs are exported once,
and from then on copied: what a kill could break is what is written and how.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import save_file

from impasto.errors import BundleError
from impasto.export import lowerable, mapped, publish, publish_precision
from impasto.export.bundle import list_bundles, open_bundle
from impasto.generators.checkpoints import read_checkpoint
from tests.support.generators import TINY, random_generator

TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile", "shutil.rmtree"}
NAME = "tiny"
CONFIG = dataclasses.replace(TINY, resolution=32)
"""The smallest of which layers are lowered."""
RERUNS = 4
"""One kill in so many is followed by another run."""


def import_checkpoint(checkpoint: Path, models: Path) -> None:
    """As the command does."""
    publish.publish_checkpoint(read_checkpoint(checkpoint), NAME, models)


def export_fp16(checkpoint: Path, models: Path) -> None:
    """As the command does, of a model that is there."""
    publish_precision.add_precision(open_bundle(models / NAME / "1"), models, "fp16")


COMMANDS: dict[str, Callable[[Path, Path], None]] = {"import": import_checkpoint, "export": export_fp16}


def copying(cache: Path) -> None:
    """Have `export_graph` copy what it once made, in small parts."""
    real = publish.export_graph

    def export_graph(module: Any, example: Any, inputs: Any, outputs: Any, path: Path, **options: Any) -> Any:
        kept = cache / f"{type(module).__name__}-{path.name}"
        if not kept.exists():
            real(module, example, inputs, outputs, kept, **options)
        content = kept.read_bytes()
        for start in range(0, len(content), len(content) // 3 + 1):
            with path.open("ab") as file:
                file.write(content[start : start + len(content) // 3 + 1])
        return onnx.load(path)

    for module in (publish, mapped, lowerable):
        module.export_graph = export_graph  # type: ignore[attr-defined]


def forked(command: str, checkpoint: Path, models: Path, kill_at: int = 0) -> tuple[int, int]:
    """Run a command in a fork that dies at its touch number `kill_at`, if it comes that far: touches, exit status."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        touches = len(os.fdopen(reader, "rb").read())
        return touches, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = 0

    def on_event(event: str, arguments: Any) -> None:
        nonlocal count
        if event not in TOUCHES or str(models) not in str(arguments):
            return
        count += 1
        os.write(writer, b".")
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        torch.set_num_threads(1)
        sys.addaudithook(on_event)
        COMMANDS[command](checkpoint, models)
        os._exit(0)
    except BaseException as error:
        print(command, repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def found_by_a_reader(models: Path) -> str:
    """The versions that can be opened, or what is wrong with one."""
    versions = list_bundles([models]).get(NAME, {})
    try:
        for path in versions.values():
            open_bundle(path)
    except BundleError as error:
        return str(error)
    return ",".join(versions)


def killed(command: str, checkpoint: Path, out: Path, kills: int) -> dict[str, Any]:
    """Kill the command so many times, each in a folder as it was before; then let it run on what a kill has left."""
    before = out / "before"
    before.mkdir(parents=True)
    if command == "export":
        forked("import", checkpoint, before)
    whole = shutil.copytree(before, out / "whole")
    touches, status = forked(command, checkpoint, whole)
    if status:
        raise SystemExit(f"{command}: an unbroken run ended with status {status}")
    points = sorted(random.Random(command).sample(range(1, touches + 1), min(kills, touches)))
    found, after = [], []
    for point in points:
        models = shutil.copytree(before, out / f"killed-{point}")
        _, status = forked(command, checkpoint, models, point)
        assert status == -signal.SIGKILL
        found.append(found_by_a_reader(models))
        if len(found) % RERUNS == 0 and found[-1] != found_by_a_reader(whole):
            forked(command, checkpoint, models)
            after.append(found_by_a_reader(models))
    return {"touches": touches, "points": points, "found": found, "after": after, "whole": found_by_a_reader(whole)}


def main(out: Path, kills: int) -> None:
    checkpoint = out / "weights.safetensors"
    header = {"family": "stylegan2", "config": json.dumps(dataclasses.asdict(CONFIG))}
    save_file(random_generator(CONFIG).state_dict(), checkpoint, metadata=header)
    (out / "cache").mkdir()
    copying(out / "cache")
    publish_precision.MEASURED_SEEDS = range(2)
    for command in COMMANDS:  # so that the graphs are there
        forked(command, checkpoint, out / "first")
    print(json.dumps({command: killed(command, checkpoint, out / command, kills) for command in COMMANDS}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
