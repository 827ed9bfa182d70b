"""Runs that are killed, and what they leave."""

from __future__ import annotations

from typing import Any

import pytest


class Killed(BaseException):
    pass


def kill_after(steps: int, trainer: Any) -> None:
    """Run some steps and die, as a kill does: with nothing saved since the last save."""
    step, left = trainer.step, iter(range(steps))

    def interrupted() -> Any:
        if next(left, None) is None:
            raise Killed
        return step()

    trainer.step = interrupted
    with pytest.raises(Killed):
        trainer.run()


def leaves(state: Any) -> list[Any]:
    """Every value of a state, dictionaries and lists taken apart."""
    if isinstance(state, dict):
        return [leaf for key in sorted(state, key=str) for leaf in leaves(state[key])]
    if isinstance(state, list | tuple):
        return [leaf for item in state for leaf in leaves(item)]
    return [state]
