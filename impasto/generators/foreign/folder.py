"""A folder that somebody else wrote: plain files inside it and bounded JSON, nothing that a link or a path reaches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NoReturn

from impasto.errors import CheckpointError

MAX_JSON_BYTES = 16 * 2**20  # a tokenizer of 50 000 tokens and its merges: 4 MB


@dataclasses.dataclass(frozen=True)
class Folder:
    """Files by their name relative to `root`, which is resolved. Errors name the file so."""

    root: Path

    def find(self, name: str) -> Path | None:
        """The file, or None if there is none. CheckpointError for a link that leaves the folder."""
        path = self.root / name
        if path.is_symlink() or path.exists():
            if not path.resolve().is_relative_to(self.root):
                raise CheckpointError(f"{name}: found a link out of the folder; allowed are files inside it")
            if path.is_file():
                return path
        return None

    def require(self, name: str) -> Path:
        """The file; CheckpointError if there is none."""
        if (path := self.find(name)) is None:
            raise CheckpointError(f"{name}: the file is missing")
        return path

    def text(self, name: str, maximum_bytes: int = MAX_JSON_BYTES) -> str:
        """The text of a file of UTF-8."""
        path = self.require(name)
        if (size := path.stat().st_size) > maximum_bytes:
            raise CheckpointError(f"{name}: found {size} bytes; allowed are {maximum_bytes}")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{name}: found bytes that are not UTF-8: {error.reason}") from error

    def object(self, name: str) -> dict[str, Any]:
        """The JSON object that a file holds."""
        try:
            value = json.loads(self.text(name), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{name}: found no JSON: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{name}: found a {type(value).__name__}; allowed is a JSON object")
        return value

    def names(self, folder: str) -> list[str]:
        """The names of what is in a folder inside this one, sorted; none if there is no such folder."""
        path = self.root / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
