"""ModelService: listing, loading, reloading and unloading models."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from impasto.api.impasto.v1 import generation_pb2
from impasto.api.impasto.v1 import models_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.impasto.v1.models_pb2_grpc import ModelServiceStub
from impasto.engine.null import NullEngine, write_null_bundle
from impasto.export.bundle import ZOO, list_bundles, open_bundle
from tests.support.gate import HELD, Gate
from tests.support.inference import connected, serving
from tests.support.waiting import until

NAMES = ("null", "other")


@pytest_asyncio.fixture
async def channel(null_models: Path) -> AsyncIterator[grpc.aio.Channel]:
    """To a server that has loaded `null`; its model directory has `other` too."""
    write_null_bundle(null_models, "other")
    async with serving(null_models, "null") as server, connected(server) as channel:
        yield channel


@pytest.fixture
def models(channel: grpc.aio.Channel) -> ModelServiceStub:
    return ModelServiceStub(channel)


def pictures_of(channel: grpc.aio.Channel, *seeds: int, **fields: Any) -> Any:
    """A call that makes raw pictures."""
    request = generation_pb2.GenerateRequest(
        seeds=seeds, format=generation_pb2.IMAGE_FORMAT_RAW_UINT8, **{"model": "null", **fields}
    )
    return asyncio.ensure_future(GenerationServiceStub(channel).Generate(request))


def change(bundle: Path, **values: Any) -> None:
    """Change the manifest of a bundle on disk."""
    manifest = bundle / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | values))


def add_version(models: Path, version: str, **values: Any) -> None:
    """Another version of `null`."""
    shutil.copytree(models / "null" / "1", models / "null" / version)
    change(models / "null" / version, version=version, **values)


async def state(models: ModelServiceStub, name: str, version: str = "") -> tuple[str, str]:
    """The version and state that GetModel tells."""
    model = await models.GetModel(pb.GetModelRequest(name=name, version=version))
    return model.version, pb.ModelState.Name(model.state).removeprefix("MODEL_STATE_")


async def until_state(models: ModelServiceStub, name: str, wanted: str) -> None:
    """Return when GetModel tells that state."""

    async def reached() -> bool:
        return (await state(models, name))[1] == wanted

    await until(reached)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and message of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details() or ""


async def test_the_list_has_every_model_with_its_state(models: ModelServiceStub) -> None:
    listed = (await models.ListModels(pb.ListModelsRequest())).models
    assert {model.name: model.state for model in listed if model.name in NAMES} == {
        "null": pb.MODEL_STATE_READY,
        "other": pb.MODEL_STATE_UNLOADED,
    }


async def test_a_model_is_told_with_all_that_it_is(models: ModelServiceStub, null_models: Path) -> None:
    assert await models.GetModel(pb.GetModelRequest(name="null")) == pb.Model(
        name="null",
        version="1",
        state=pb.MODEL_STATE_READY,
        family="null",
        digest=open_bundle(null_models / "null" / "1").manifest.digest,
        width=64,
        height=64,
        buckets=[1, 2, 4, 8, 16, 32],
        backend="null",
        device="cpu",
        licence="Apache-2.0",
    )


async def test_a_model_with_latents_and_classes_tells_their_sizes(tiny_models: Path) -> None:
    async with serving(tiny_models, "tiny") as server, connected(server) as channel:
        tiny = await ModelServiceStub(channel).GetModel(pb.GetModelRequest(name="tiny"))
    assert (tiny.z_dim, tiny.w_dim, tiny.num_ws, tiny.num_classes) == (4, 4, 4, 3)
    assert (tiny.family, tiny.backend) == ("stylegan2", "onnxruntime")


async def test_a_model_that_is_loaded_makes_pictures(models: ModelServiceStub, channel: grpc.aio.Channel) -> None:
    code, line = await refusal(pictures_of(channel, 1, model="other"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert line == "model: found no 'other'; there are: null"
    loaded = await models.LoadModel(pb.LoadModelRequest(name="other"))
    assert (loaded.name, loaded.version, loaded.state) == ("other", "1", pb.MODEL_STATE_READY)
    assert [picture.seed for picture in (await pictures_of(channel, 1, model="other")).pictures] == [1]


async def test_a_model_that_is_unloaded_makes_none_and_stays_on_disk(
    models: ModelServiceStub, channel: grpc.aio.Channel
) -> None:
    await models.UnloadModel(pb.UnloadModelRequest(name="null"))
    assert (await refusal(pictures_of(channel, 1)))[0] is grpc.StatusCode.NOT_FOUND
    assert await state(models, "null") == ("1", "UNLOADED")


async def test_a_model_that_is_loading_says_so_and_is_unavailable(
    models: ModelServiceStub, channel: grpc.aio.Channel, gate: Gate
) -> None:
    gate.hold_warm_up()
    loading = asyncio.ensure_future(models.LoadModel(pb.LoadModelRequest(name="other")))
    await gate.reached()
    assert await state(models, "other") == ("1", "LOADING")
    refused = await refusal(pictures_of(channel, 1, model="other"))
    assert refused == (grpc.StatusCode.UNAVAILABLE, "model other version 1 is loading")
    gate.open()
    assert (await loading).state == pb.MODEL_STATE_READY


async def test_a_load_goes_on_when_its_caller_goes_away(models: ModelServiceStub, gate: Gate) -> None:
    gate.hold_warm_up()
    loading = asyncio.ensure_future(models.LoadModel(pb.LoadModelRequest(name="other")))
    await gate.reached()
    loading.cancel()
    gate.open()
    await until_state(models, "other", "READY")


async def test_requests_in_flight_finish_on_the_old_engine_when_a_model_is_reloaded(
    models: ModelServiceStub, channel: grpc.aio.Channel, null_models: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []

    async def some_closed() -> bool:
        return bool(closed)

    monkeypatch.setattr(NullEngine, "close", lambda engine: closed.append(engine.manifest.width))
    running = pictures_of(channel, HELD)
    await gate.reached()
    change(null_models / "null" / "1", width=32)
    reloaded = await models.LoadModel(pb.LoadModelRequest(name="null"))
    assert (reloaded.width, reloaded.state) == (32, pb.MODEL_STATE_READY)
    new = (await pictures_of(channel, 1)).pictures[0]
    assert (new.width, len(new.data)) == (32, 32 * 64 * 3)
    assert not running.done()
    assert closed == []
    gate.open()
    old = (await running).pictures[0]
    assert (old.width, len(old.data)) == (64, 64 * 64 * 3)
    await until(some_closed)
    assert closed == [64]


async def test_a_reload_that_fails_leaves_the_old_engine_serving(
    models: ModelServiceStub, channel: grpc.aio.Channel, null_models: Path
) -> None:
    (null_models / "null" / "1" / "manifest.json").write_text("{}")
    code, line = await refusal(models.LoadModel(pb.LoadModelRequest(name="null")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert line.endswith("manifest.json: name: Field required")
    assert await state(models, "null") == ("1", "READY")
    assert len((await pictures_of(channel, 1)).pictures) == 1


async def test_a_model_that_cannot_be_loaded_says_why(models: ModelServiceStub, null_models: Path) -> None:
    (null_models / "other" / "1" / "manifest.json").write_text("not JSON")
    code, _ = await refusal(models.LoadModel(pb.LoadModelRequest(name="other")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    told = await models.GetModel(pb.GetModelRequest(name="other"))
    assert told.state == pb.MODEL_STATE_FAILED
    assert "manifest.json" in told.reason


async def test_unloading_finishes_what_was_accepted_and_refuses_what_is_new(
    models: ModelServiceStub, channel: grpc.aio.Channel, gate: Gate
) -> None:
    running = pictures_of(channel, HELD)
    await gate.reached()
    unloading = asyncio.ensure_future(models.UnloadModel(pb.UnloadModelRequest(name="null")))
    await until_state(models, "null", "UNLOADING")
    assert (await refusal(pictures_of(channel, 1)))[0] is grpc.StatusCode.NOT_FOUND
    assert not unloading.done()
    gate.open()
    assert [picture.seed for picture in (await running).pictures] == [HELD]
    await unloading
    assert await state(models, "null") == ("1", "UNLOADED")


async def test_a_version_that_is_not_named_is_the_highest(
    models: ModelServiceStub, channel: grpc.aio.Channel, null_models: Path
) -> None:
    add_version(null_models, "2", width=16)
    add_version(null_models, "10", width=8)
    assert (await models.LoadModel(pb.LoadModelRequest(name="null", version="2"))).width == 16
    assert (await pictures_of(channel, 1)).pictures[0].width == 16
    assert (await models.LoadModel(pb.LoadModelRequest(name="null"))).version == "10"
    assert (await pictures_of(channel, 1)).pictures[0].width == 8
    assert (await pictures_of(channel, 1, version="1")).pictures[0].width == 64
    await models.UnloadModel(pb.UnloadModelRequest(name="null", version="10"))
    assert (await pictures_of(channel, 1)).pictures[0].width == 16
    assert await state(models, "null", "10") == ("10", "UNLOADED")
    await models.UnloadModel(pb.UnloadModelRequest(name="null"))
    assert (await refusal(pictures_of(channel, 1)))[0] is grpc.StatusCode.NOT_FOUND


async def test_what_there_is_not_is_not_found_with_a_list_of_what_there_is(models: ModelServiceStub) -> None:
    calls: list[tuple[Any, str]] = [
        (models.GetModel(pb.GetModelRequest(name="nul")), "model: found no 'nul'; there are: null, other"),
        (models.LoadModel(pb.LoadModelRequest(name="nul")), "model: found no 'nul'; there are: null, other"),
        (models.UnloadModel(pb.UnloadModelRequest(name="other")), "model: found no 'other'; there are: null"),
        (models.GetModel(pb.GetModelRequest(name="null", version="7")), "model: found no 'null version 7'; there are"),
        (models.LoadModel(pb.LoadModelRequest(name="null", version="7")), "model: found no 'null version 7'; there"),
        (models.UnloadModel(pb.UnloadModelRequest(name="null", version="7")), "model: found no 'null version 7'"),
    ]
    for call, line in calls:
        code, found = await refusal(call)
        assert code is grpc.StatusCode.NOT_FOUND
        said, there = found.split("; there are: ")
        own = [name for name in there.split(", ") if name not in list_bundles([ZOO])]
        assert f"{said}; there are: {', '.join(own)}".startswith(line)


@pytest.mark.parametrize(
    ("name", "version", "line"),
    [
        ("", "", "model: found ''; allowed is a name of 1 to 100 characters"),
        ("x" * 101, "", "model: found '"),
        ("null", "one", "version: found 'one'; allowed is at most 9 decimal digits"),
        ("null", "1" * 10, "version: found '1111111111'"),
    ],
)
async def test_a_name_or_version_that_can_be_none_is_refused(
    name: str, version: str, line: str, models: ModelServiceStub
) -> None:
    for call in (
        models.GetModel(pb.GetModelRequest(name=name, version=version)),
        models.LoadModel(pb.LoadModelRequest(name=name, version=version)),
        models.UnloadModel(pb.UnloadModelRequest(name=name, version=version)),
    ):
        code, found = await refusal(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert found.startswith(line)


@pytest.mark.parametrize("name", ["../null", "null/1", "..", "/etc"])
async def test_a_name_reaches_no_folder_outside_the_model_directories(name: str, models: ModelServiceStub) -> None:
    code, line = await refusal(models.LoadModel(pb.LoadModelRequest(name=name)))
    assert code is grpc.StatusCode.NOT_FOUND
    assert line.startswith(f"model: found no '{name}'")
