"""Files that show how pictures look while they are made."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from impasto.cli.output import Output
    from impasto.images import Picture


class Previews:
    """Writes previews where an Output says; the files are gone after the `with` block, however it ends."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._files: set[Path] = set()

    def refresh(self, picture: Picture) -> None:
        """Replace the picture's file as a whole, so that a viewer never sees half of one."""
        from impasto.images.picture import SUFFIXES

        path = self._output.preview_path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}")
        self._files |= {path, unfinished}
        unfinished.write_bytes(picture.encode(SUFFIXES[path.suffix.lower()], self._output.quality))
        unfinished.replace(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for path in self._files:
            path.unlink(missing_ok=True)
