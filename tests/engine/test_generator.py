from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import impasto
from impasto.engine.null import write_null_bundle
from impasto.errors import BackendUnavailable, InvalidRequest, ModelNotFound
from impasto.events import Done, Event, Finished, Queued
from impasto.images import encode, read_metadata


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_null_bundle(tmp_path, width=24, height=16)
    return tmp_path


def test_a_model_is_loaded_by_name_and_makes_one_picture_a_seed(models: Path) -> None:
    with impasto.load("null", models=models) as generator:
        pictures = generator.generate(seeds=[5, 6, 5])
    assert [picture.seed for picture in pictures] == [5, 6, 5]
    assert [picture.array.shape for picture in pictures] == [(16, 24, 3)] * 3
    assert pictures[0].metadata["model"] == "null"


def test_a_model_is_loaded_by_its_path(models: Path) -> None:
    generator = impasto.load(models / "null" / "1")
    assert generator.generate(seeds=1)[0].metadata["digest"] == generator.engine.manifest.digest


def test_a_model_is_found_through_the_environment(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_MODELS", str(models))
    assert impasto.load("null").engine.manifest.width == 24


def test_more_pictures_than_the_largest_bucket_run_in_several_batches(models: Path) -> None:
    events: list[Event] = []
    pictures = impasto.load("null", models=models).generate(seeds=0, count=70, on_progress=events.append)
    assert [picture.seed for picture in pictures] == list(range(70))
    assert events[0] == Queued(0, 0.0)
    assert [event.index for event in events if isinstance(event, Finished)] == list(range(70))
    assert isinstance(events[-1], Done)
    assert events[-1].batch_sizes == (32,) * 64 + (6,) * 6


def test_float_pictures_are_asked_for_by_format(models: Path) -> None:
    (picture,) = impasto.load("null", models=models).generate(seeds=1, format="float32")
    assert picture.image_float is not None
    assert picture.image_float.shape == (3, 16, 24)
    assert picture.image_float.dtype == np.float32


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_encoded_pictures_have_the_bytes_of_the_encoder(models: Path, format: Any) -> None:
    generator = impasto.load("null", models=models)
    (picture,) = generator.generate(seeds=9, format=format, quality=80)
    (plain,) = generator.generate(seeds=9)
    assert picture.encoded == encode(plain.array, format, plain.metadata, 80)
    assert read_metadata(picture.encoded) == plain.metadata


def test_a_model_that_is_not_there_lists_those_that_are(models: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"model: found no 'nul'; there are: .*null"):
        impasto.load("nul", models=models)


def test_an_unknown_backend_is_refused(models: Path) -> None:
    with pytest.raises(BackendUnavailable, match="backend: found 'tpu'"):
        impasto.load("null", models=models, backend="tpu")


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"psi": 0.5}, "psi: found 0.5; allowed is nothing; this model takes seeds alone"),
        ({"label": 1}, "label: found 1; allowed is nothing"),
        ({"noise_mode": "none"}, "noise_mode: found 'none'; allowed is nothing"),
        ({"style_mix": (1, 0, 1)}, "style_mix: found StyleMix(seed=1, first=0, last=1); allowed is nothing"),
        ({"steps": 30}, "steps: found 30; allowed is nothing; this model makes a picture in one call"),
        ({"latent": np.zeros((2, 1, 1, 1))}, "latent: found '2 latents'; allowed is one"),
    ],
)
def test_what_the_null_model_does_not_take_is_refused(models: Path, parameters: Any, line: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        impasto.load("null", models=models).generate(seeds=1, **parameters)
    assert str(refused.value).startswith(line)


def test_what_the_model_cannot_make_is_refused_before_anything_runs(models: Path) -> None:
    events: list[Event] = []
    with pytest.raises(InvalidRequest):
        impasto.load("null", models=models).generate(z=np.zeros(4), on_progress=events.append)
    assert events == []
