from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from impasto.kernels import routing
from impasto.kernels.modulated_layer import modulated_layer
from impasto.kernels.routing import FORMS, Shape, route
from tests.kernels.closeness import assert_close
from tests.kernels.modulated_case import make_case

PLAIN, SMALL_UP, LARGE_UP = Shape(512, 512, 64, 64, False), Shape(512, 512, 8, 8, True), Shape(64, 32, 512, 512, True)
TABLE = {PLAIN.key: "cudnn", LARGE_UP.key: "cudnn folded"}


@pytest.mark.parametrize(("shape", "form"), [(PLAIN, "plain"), (SMALL_UP, "folded"), (LARGE_UP, "transposed")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_without_a_table_our_kernels_run_and_without_a_card_the_reference(
    shape: Shape, form: str, dtype: torch.dtype
) -> None:
    assert route(shape, dtype, launches=True, table={}) == form
    assert route(shape, dtype, launches=False, table={}) == "reference"
    assert route(shape, dtype, launches=False, table=TABLE) == "reference"


def test_the_table_decides_for_both_types_of_16_bits_and_where_it_has_an_entry() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        assert route(PLAIN, dtype, launches=True, table=TABLE) == "cudnn"
        assert route(LARGE_UP, dtype, launches=True, table=TABLE) == "cudnn folded"
        assert route(SMALL_UP, dtype, launches=True, table=TABLE) == "folded"
    assert route(PLAIN, torch.float32, launches=True, table=TABLE) == "plain"


def test_a_cards_table_is_read_by_its_name_and_an_unknown_card_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "CONFIGS", tmp_path)
    assert routing.read_table("NVIDIA H200") == {}
    (tmp_path / "nvidia-h200.json").write_text(json.dumps({"routes": TABLE}))
    assert routing.read_table("NVIDIA H200") == TABLE
    assert routing.table_of(torch.device("cpu")) == {}
    (tmp_path / "nvidia-h200.json").write_text(json.dumps({"routes": {PLAIN.key: "folded"}}))
    with pytest.raises(ValueError, match=r"nvidia-h200.json: 512→512 64×64: found 'folded'; allowed: plain, cudnn"):
        routing.read_table("NVIDIA H200")


def test_tables_that_ship_name_forms_that_exist() -> None:
    for path in routing.CONFIGS.glob("*.json"):
        assert routing.read_table(path.stem)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("up", [False, True], ids=["plain", "up"])
def test_every_form_of_a_layer_gives_the_same(up: bool, dtype: torch.dtype) -> None:
    case = make_case(2, 20, 6, 4, 4, dtype, up=2 if up else 1)
    expected = case.expected("transposed" if up else None)
    for form in (*FORMS[up], routing.REFERENCE):
        layer = modulated_layer(case.weight, dtype, form=form, up=up)
        found = layer(case.x, case.styles, case.epilogue)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert_close(found, expected, terms=20 * 9 * (1 if dtype is torch.float32 else 10**6))


def test_a_form_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"form: found 'folded'; allowed: plain, cudnn, reference"):
        modulated_layer(torch.ones(1, 1, 3, 3), torch.float32, form="folded", up=False)
