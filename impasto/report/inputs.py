"""The files of a report: results of `impasto bench` and of `python -m benchmarks.gpu`, told apart by what they hold."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from impasto.bench.result import Result, read_result
from impasto.errors import ImpastoError
from impasto.report.kernels import KernelFile


class ReportError(ImpastoError):
    """A file that no report can be made of: names the file and the field."""


@dataclass(frozen=True)
class Inputs:
    """What was read, each with its file's name without the suffix, in the order in which it was given."""

    results: tuple[tuple[str, Result], ...] = ()
    kernels: tuple[tuple[str, KernelFile], ...] = ()


def read_inputs(paths: Iterable[Path]) -> Inputs:
    """Read files of either kind.

    Raises:
        ReportError: A file is of neither kind, or a field of it is wrong.
        ResultError: The same of a file of `impasto bench`.
    """
    results, kernels = [], []
    for path in paths:
        content = _content(path)
        if "schema" in content:
            results.append((path.stem, read_result(path)))
        else:
            kernels.append((path.stem, _kernels(content, path)))
    return Inputs(tuple(results), tuple(kernels))


def _content(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ReportError(f"{path}: no JSON: {error}") from error
    kinds = "a file of impasto bench (with schema) or of python -m benchmarks.gpu (with gpu, floor and rows)"
    if not isinstance(content, dict):
        raise ReportError(f"{path}: found a {type(content).__name__}; allowed is {kinds}")
    if "schema" not in content and not {"gpu", "floor", "rows"} <= content.keys():
        raise ReportError(f"{path}: found the fields {', '.join(sorted(content)) or 'none'}; allowed is {kinds}")
    return content


def _kernels(content: dict[str, object], path: Path) -> KernelFile:
    try:
        return TypeAdapter(KernelFile).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        name, found = ".".join(str(part) for part in first["loc"]), reprlib.repr(first["input"])
        raise ReportError(f"{path}: {name}: found {found}; {first['msg']}") from error
