"""Whether a row of a CPU has all cores."""

from __future__ import annotations

import pytest

from impasto.engine.company import QUIET_SECONDS, Company


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one entry is the time, in seconds."""
    now = [100.0]
    monkeypatch.setattr("impasto.engine.company.time.monotonic", lambda: now[0])
    return now


def test_a_caller_who_asks_for_one_picture_after_the_other_always_has_all_cores(clock: list[float]) -> None:
    rows = Company()
    for _ in range(3):
        with rows as alone:
            assert alone
            clock[0] += 0.01


def test_after_two_rows_at_once_each_gets_one_core_for_a_while(clock: list[float]) -> None:
    rows = Company()
    with rows as first:
        assert first
        with rows as second:
            assert not second
    clock[0] += QUIET_SECONDS / 2
    with rows as soon:
        assert not soon
    clock[0] += QUIET_SECONDS
    with rows as later:
        assert later


def test_a_row_that_fails_leaves(clock: list[float]) -> None:
    rows = Company()
    with pytest.raises(ValueError, match="broken"), rows:
        raise ValueError("broken")
    with rows as alone:
        assert alone
