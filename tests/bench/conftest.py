"""What the tests of the harness share."""

from __future__ import annotations

import pytest


@pytest.fixture
def busy_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures whatever the client's lag: the machine of the tests has other things to do, and lag has its own test."""
    monkeypatch.setattr("impasto.bench.measure.MOST_LAG", 1.0)
