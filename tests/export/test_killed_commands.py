"""A command that is killed leaves no bundle that loads wrong, and runs through when it is run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from impasto.export.bundle import UNFINISHED_SECONDS, new_bundle

KILLS = 20


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.export.killed_commands", str(tmp_path_factory.mktemp("kills")), str(KILLS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment, timeout=1500)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.slow
@pytest.mark.parametrize(("command", "before", "whole"), [("import", "", "1"), ("export", "1", "1,2")])
def test_a_command_killed_twenty_times_leaves_what_was_there_or_all_of_it(
    command: str, before: str, whole: str, reports: dict[str, Any]
) -> None:
    report = reports[command]
    assert len(report["points"]) == KILLS
    assert report["points"][-1] > report["touches"] // 2  # kills fall into the end too
    assert report["whole"] == whole
    assert set(report["found"]) <= {before, whole}
    assert before in report["found"]
    assert len(report["after"]) >= 4
    assert set(report["after"]) == {whole}


def test_what_a_killed_run_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".tiny-old", ".tiny-young", ".else-old"))
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"half")
    for folder in (old, other):
        then = time.time() - UNFINISHED_SECONDS - 60.0
        os.utime(folder, (then, then))
    with new_bundle(tmp_path, "tiny", "1") as folder:
        (folder / "manifest.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".else-old", ".tiny-young", "tiny"]
