"""Options that several commands share: a dataclass whose fields are the options, and a parameter that stands for it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def takes(**groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that has, where the function has a parameter of such a name, the options that are the group's fields.

    The function gets them as one object of the group, a dataclass.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parts = {name: _options(group) for name, group in groups.items()}
        own = {name: parameter for name, parameter in _options(command).items() if name not in groups}
        flat: dict[str, inspect.Parameter] = {}
        for name in inspect.signature(command).parameters:
            flat |= parts[name] if name in groups else {name: own[name]}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            objects = {name: groups[name](**_chosen(given, fields)) for name, fields in parts.items()}
            command(**_chosen(given, own), **objects)

        run.__signature__ = inspect.Signature(list(flat.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in flat.items()}
        return run

    return decorate


def _options(declared: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters by their names, in order; by keyword, so that one with a default may come before one without."""
    signature = inspect.signature(declared, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {name: parameter.replace(kind=keyword) for name, parameter in signature.parameters.items()}


def _chosen(given: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in names}
