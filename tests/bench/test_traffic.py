from __future__ import annotations

import itertools
import statistics
from collections import Counter
from pathlib import Path

import pytest

from impasto.bench.result import Load, MixEntry
from impasto.bench.traffic import orders, read_mix, read_trace, write_trace
from impasto.errors import InvalidRequest

MIX = (MixEntry("a", weight=3.0), MixEntry("b", batch=4, steps=10, priority=1, deadline_ms=500.0))


def test_a_mix_has_its_weights_and_a_poisson_load_its_rate() -> None:
    made = list(orders(Load("poisson", MIX, seconds=200.0, rate=50.0, seed=5)))
    assert len(made) == pytest.approx(10_000, rel=0.03)
    shares = Counter(order.entry.model for order in made)
    assert shares["a"] / len(made) == pytest.approx(0.75, abs=0.02)
    gaps = [after.due - before.due for before, after in itertools.pairwise(made)]
    # Of exponential gaps, mean and deviation are one over the rate.
    assert statistics.fmean(gaps) == pytest.approx(0.02, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.02, rel=0.05)


def test_a_constant_load_comes_at_even_times() -> None:
    due = [order.due for order in orders(Load("constant", MIX[:1], seconds=1.0, rate=4.0))]
    assert due == [0.0, 0.25, 0.5, 0.75]


def test_the_same_seed_is_the_same_traffic_and_another_is_not() -> None:
    load = Load("poisson", MIX, seconds=2.0, rate=50.0, seed=5)
    assert list(orders(load)) == list(orders(load))
    other = Load("poisson", MIX, seconds=2.0, rate=50.0, seed=6)
    assert [order.seed for order in orders(load)] != [order.seed for order in orders(other)]


def test_a_closed_load_is_endless_unless_it_has_a_number() -> None:
    assert len(list(itertools.islice(orders(Load("closed", MIX, concurrency=4)), 5000))) == 5000
    assert len(list(orders(Load("closed", MIX, concurrency=4, requests=7)))) == 7


def test_a_recorded_trace_is_replayed_from_its_first_request(tmp_path: Path) -> None:
    made = list(orders(Load("poisson", MIX, seconds=1.0, rate=30.0, seed=2)))[3:]
    write_trace(tmp_path / "t.jsonl", made)
    replayed = read_trace(tmp_path / "t.jsonl", "other")
    assert [(order.entry, order.seed) for order in replayed] == [(order.entry, order.seed) for order in made]
    assert [order.due for order in replayed] == [order.due - made[0].due for order in made]


def test_a_mix_is_read_and_the_model_stands_in_where_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "mix.json").write_text('[{"weight": 2}, {"model": "b", "steps": 4, "deadline_ms": 20.5}]')
    assert read_mix(tmp_path / "mix.json", "m") == (
        MixEntry("m", weight=2),
        MixEntry("b", steps=4, deadline_ms=20.5),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "a list of one or more objects"),
        ('[{"wieght": 1}]', "wieght: found 1; allowed is only model, weight"),
        ('[{"batch": 0}]', "batch: found 0; allowed is a number of at least 1"),
        ('[{"batch": 1.5}]', "batch: found 1.5; allowed is a whole number"),
        ('[{"weight": 0}]', "weight: found 0; allowed is a number above 0"),
        ('[{"model": 3}]', "model: found 3; allowed is a name"),
        ("[", "allowed is JSON"),
    ],
)
def test_a_wrong_mix_names_the_field(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mix.json").write_text(text)
    with pytest.raises(InvalidRequest, match=told.replace("[", r"\[")):
        read_mix(tmp_path / "mix.json", "m")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a request a line"),
        ('{"model": "m"}', "1: at: found None"),
        ('{"at": 2}\n{"at": 1}', "2: at: found 1"),
        ('{"at": 2, "seed": -1}', "seed: found -1"),
    ],
)
def test_a_wrong_trace_names_the_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(InvalidRequest, match=told):
        read_trace(tmp_path / "t.jsonl", "m")
