"""`impasto report`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from impasto.cli.terminal import Json, console, print_json, print_table
from impasto.errors import InvalidRequest

if TYPE_CHECKING:
    from impasto.report.check import Check, Verdict


def report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE.json", help="Of impasto bench, or of python -m benchmarks.gpu.", dir_okay=False),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The page to write.")] = Path("report.html"),
    check: Annotated[
        bool, typer.Option("--check", help="Write no page: exit with 1 if the second file is worse than the first.")
    ] = False,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="With --check: a smaller change is none, however steady.")
    ] = 0.02,
    as_json: Json = False,
) -> None:
    """Show results side by side in one page of figures and tables, or check one against another."""
    from impasto.report.inputs import read_inputs

    inputs = read_inputs(files)
    if not check:
        from impasto.report.page import render

        page = render(inputs)
        out.write_text(page, encoding="utf-8")
        typer.echo(out)
        return
    if len(inputs.results) != 2 or inputs.kernels:
        found = f"{len(inputs.results)} of impasto bench, {len(inputs.kernels)} of kernels"
        raise InvalidRequest("FILE", found, "with --check, two files of impasto bench: the base and the new one")
    from impasto.report.check import check as compare

    (_, base), (_, new) = inputs.results
    checked = compare(base, new, margin)
    if as_json:
        print_json(dataclasses.asdict(checked) | {"passed": checked.passed})
    else:
        _show(checked)
    if not checked.passed:
        raise typer.Exit(1)


def _show(checked: Check) -> None:
    terminal = console()
    for remark in checked.remarks:
        terminal.print(remark)
    for broken in checked.broken:
        terminal.print(f"refused now: {broken}", style="red")
    print_table(("run", "figure", "base", "new", "times better", "outcome"), [_cells(one) for one in checked.verdicts])
    worse = sum(one.outcome == "regression" for one in checked.verdicts) + len(checked.broken)
    terminal.print(f"{worse or 'no'} regression{'s' * (worse != 1)} in {len(checked.verdicts)} figures")


def _cells(verdict: Verdict) -> tuple[str, ...]:
    from impasto.report.words import said, times

    change = verdict.change
    better = f"{times(change.median)} ({times(change.low)}–{times(change.high)})" if change else ""
    return (
        verdict.run,
        verdict.metric,
        said(verdict.base, verdict.unit),
        said(verdict.new, verdict.unit),
        better,
        verdict.outcome,
    )
