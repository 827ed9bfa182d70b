"""How far a generation is, on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID

from impasto.events import Event, Finished, Queued, Step


class Bars:
    """A bar over all pictures, and one over its steps for each that is under way; nothing where no terminal is."""

    def __init__(self, count: int, terminal: Console) -> None:
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        self.progress = Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)
        self._pictures = self.progress.add_task("pictures", total=count)
        self._steps: dict[int, TaskID] = {}

    def show(self, event: Event) -> None:
        """Take account of the event."""
        match event:
            case Queued(position) if position:
                self.progress.update(self._pictures, description=f"behind {position} in the queue")
            case Step(index, step, steps):
                self.progress.update(self._pictures, description="pictures")
                if index not in self._steps:
                    self._steps[index] = self.progress.add_task(f"picture {index + 1}, steps", total=steps)
                self.progress.update(self._steps[index], completed=step)
            case Finished(index):
                if index in self._steps:
                    self.progress.remove_task(self._steps.pop(index))
                self.progress.update(self._pictures, description="pictures", advance=1)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()
