"""The command that installs what is missing, as errors and `impasto doctor` tell it."""

from __future__ import annotations

import shlex
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
"""Beside a source tree's package; an installed one has none."""


def install_command(extra: str, *options: str) -> str:
    """`pip install` of an extra, with the tested versions where this is a source tree that has them.

    Without them pip may take another build of torch, of gigabytes.
    """
    tested = ("-c", str(CONSTRAINTS)) if CONSTRAINTS.is_file() else ()
    return f"{shlex.join(('pip', 'install', *options, *tested))} 'impasto[{extra}]'"
