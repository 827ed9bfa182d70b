from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import impasto
from impasto.client import ModelInput
from impasto.errors import InvalidRequest, ModelNotFound
from impasto.events import Done, Event, Finished, Queued
from impasto.images import metadata_text

W = np.random.RandomState(0).randn(2, 4, 4)
Z = np.random.RandomState(1).randn(2, 4)
PARAMETERS: list[dict[str, Any]] = [
    {"seeds": [3, 1, 2]},
    {"seeds": 5, "count": 4, "psi": 0.7, "psi_cutoff": 2},
    {"seeds": 5, "noise_mode": "random"},
    {"seeds": 5, "noise_mode": "none", "label": 2},
    {"seeds": [5, 6], "style_mix": (9, 1, 2), "psi": 0.1},
    {"z": Z, "class_vector": [0.5, 0.25, 0.25]},
    {"ws": W},
]


@pytest.fixture
def client(server: str) -> Iterator[impasto.Client]:
    with impasto.Client(server) as client:
        yield client


@pytest.fixture(scope="module")
def generator(models: Path) -> Iterator[impasto.Generator]:
    with impasto.load("tiny", models=models) as generator:
        generator.engine.warm_up()
        yield generator


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_a_picture_over_grpc_is_the_one_made_in_process(
    parameters: dict[str, Any], client: impasto.Client, generator: impasto.Generator
) -> None:
    near, far = generator.generate(**parameters), client.generate("tiny", **parameters)
    assert len(far) == len(near) > 0
    for here, there in zip(near, far, strict=True):
        assert np.array_equal(there.array, here.array)
        assert metadata_text(there.metadata) == metadata_text(here.metadata)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.npy"])
def test_a_saved_picture_has_the_same_bytes_from_either_side(
    name: str, client: impasto.Client, generator: impasto.Generator, tmp_path: Path
) -> None:
    parameters: Any = {"seeds": 4, "psi": 0.7, "label": 1}
    here = generator.generate(**parameters)[0].save(tmp_path / f"here-{name}")
    there = client.generate("tiny", **parameters)[0].save(tmp_path / f"there-{name}")
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_file_encoded_by_the_server_has_the_bytes_of_one_encoded_here(
    format: Any, client: impasto.Client, generator: impasto.Generator
) -> None:
    (there,) = client.generate("tiny", seeds=4, psi=0.7, format=format, quality=80)
    (here,) = generator.generate(seeds=4, psi=0.7, format=format, quality=80)
    (raw,) = client.generate("tiny", seeds=4, psi=0.7)
    assert there.encoded == here.encoded == raw.encode(format, 80)


def test_float_pictures_are_not_clamped_and_round_to_the_same_bytes(
    client: impasto.Client, generator: impasto.Generator
) -> None:
    (there,) = client.generate("tiny", seeds=4, psi=3.0, format="float32")
    (here,) = generator.generate(seeds=4, psi=3.0, format="float32")
    (rounded,) = generator.generate(seeds=4, psi=3.0)
    assert there.image_float is not None
    assert np.array_equal(there.image_float, here.image_float)  # type: ignore[arg-type]
    assert np.array_equal(there.array, rounded.array)


def test_a_stream_gives_the_pictures_of_a_single_reply(client: impasto.Client) -> None:
    events: list[Event] = []
    streamed = client.generate("tiny", seeds=0, count=20, on_progress=events.append)
    whole = client.generate("tiny", seeds=0, count=20)
    assert [picture.seed for picture in streamed] == list(range(20))
    assert all(np.array_equal(a.array, b.array) for a, b in zip(streamed, whole, strict=True))
    assert isinstance(events[0], Queued)
    assert sorted(event.index for event in events if isinstance(event, Finished)) == list(range(20))
    assert isinstance(events[-1], Done)
    assert len(events[-1].batch_sizes) == 20


@pytest.mark.parametrize("on_progress", [None, lambda event: None])
def test_pictures_beyond_four_mebibytes_arrive_whole(on_progress: Any, client: impasto.Client) -> None:
    (picture,) = client.generate("large", seeds=1, format="float32", on_progress=on_progress)
    assert picture.image_float is not None
    assert picture.image_float.nbytes > 4 * 2**20
    assert (picture.array == 128).all()


def test_the_asynchronous_client_gives_the_same_pictures(server: str, client: impasto.Client) -> None:
    async def both() -> tuple[Any, Any]:
        async with impasto.AsyncClient(server) as other:
            await other.wait_until_ready(60)
            unary, streamed = await asyncio.gather(
                other.generate("tiny", seeds=[7, 8]),
                other.generate("tiny", seeds=[7, 8], on_progress=lambda event: None),
            )
            return unary, streamed

    expected = [picture.array for picture in client.generate("tiny", seeds=[7, 8])]
    for pictures in asyncio.run(both()):
        assert all(np.array_equal(picture.array, array) for picture, array in zip(pictures, expected, strict=True))


def test_errors_of_the_server_come_back_as_their_own_class(client: impasto.Client) -> None:
    with pytest.raises(ModelNotFound, match=r"found no 'tinny'; there are: .*tiny"):
        client.generate("tinny", seeds=1)
    with pytest.raises(InvalidRequest) as caught:
        client.generate("tiny", seeds=1, psi=float("nan"))
    assert caught.value.field == "psi"


def test_models_are_listed_with_what_they_are(client: impasto.Client) -> None:
    found = {model.name: model for model in client.models()}
    assert found["tiny"].state == "ready"
    assert (found["tiny"].width, found["tiny"].z_dim, found["tiny"].num_classes) == (8, 4, 3)
    assert found["tiny"] == client.model("tiny")


def test_both_clients_tell_what_a_model_takes(client: impasto.Client, server: str) -> None:
    async def ask() -> tuple[ModelInput, ...]:
        async with impasto.AsyncClient(server) as asynchronous:
            return await asynchronous.inputs("tiny", "1")

    found = client.inputs("tiny")
    assert asyncio.run(ask()) == found
    assert {each.name: each.shape for each in found}["ws"] == (-1, 4, 4)
    assert {each.name: each.dtype for each in found}["seed"] == "INT64"
    with pytest.raises(ModelNotFound, match="found no 'none'"):
        client.inputs("none")


def test_a_model_is_unloaded_and_loaded_again(client: impasto.Client) -> None:
    client.unload_model("null")
    assert client.model("null").state == "unloaded"
    with pytest.raises(ModelNotFound):
        client.generate("null", seeds=1)
    assert client.load_model("null").state == "ready"
    assert len(client.generate("null", seeds=1)) == 1


def test_waiting_for_a_server_that_is_ready_returns(client: impasto.Client) -> None:
    client.wait_until_ready(60)


def test_the_asynchronous_client_manages_models_too(server: str) -> None:
    async def run() -> list[str]:
        async with impasto.AsyncClient(server) as client:
            await client.unload_model("large")
            states = [(await client.model("large")).state, (await client.load_model("large")).state]
            return [*states, *[model.name for model in await client.models()]]

    states = asyncio.run(run())
    assert states[:2] == ["unloaded", "ready"]
    assert {"tiny", "null", "large"} <= set(states[2:])
