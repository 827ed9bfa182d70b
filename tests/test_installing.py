from __future__ import annotations

from pathlib import Path

import pytest

from impasto import installing
from impasto.installing import install_command


def test_a_source_tree_has_its_tested_versions_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installing.CONSTRAINTS.is_file()
    constraints = tmp_path / "a tree" / "constraints.txt"
    constraints.parent.mkdir()
    constraints.write_text("torch==2.13.0\n")
    monkeypatch.setattr(installing, "CONSTRAINTS", constraints)
    assert install_command("torch") == f"pip install -c '{constraints}' 'impasto[torch]'"


def test_an_installed_package_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "CONSTRAINTS", tmp_path / "constraints.txt")
    assert install_command("gpu", "--force-reinstall") == "pip install --force-reinstall 'impasto[gpu]'"
