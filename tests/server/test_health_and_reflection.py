"""Health tells when the server is ready; reflection tells what it serves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.peers.process import free_port
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1 import models_pb2
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.impasto.v1.models_pb2_grpc import ModelServiceStub
from impasto.engine.null import NullEngine, write_null_bundle
from impasto.errors import BackendUnavailable, BundleError, InternalError, ModelNotFound
from impasto.server.config import ServerConfig
from impasto.server.server import Server
from tests.support.gate import Gate
from tests.support.inference import connected, serving
from tests.support.waiting import GUARD

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("impasto.v1.GenerationService", "impasto.v1.ModelService", "inference.GRPCInferenceService")


def asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def statuses(channel: grpc.aio.Channel) -> set[int]:
    """What health says of the whole and of every service."""
    stub = health_pb2_grpc.HealthStub(channel)
    return {(await stub.Check(asked(service))).status for service in ("", *SERVICES)}


def starting(models: Path) -> tuple[Server, asyncio.Task[None]]:
    """A server, and the task of its start."""
    config = ServerConfig(listen="127.0.0.1:0", metrics_listen=None, models=(models,), load=("null",))
    server = Server(config)
    return server, asyncio.get_running_loop().create_task(server.start())


async def test_health_says_serving_when_every_bucket_is_warm_and_not_before(null_models: Path, gate: Gate) -> None:
    gate.hold_warm_up()
    server, started = starting(null_models)
    await gate.reached()
    async with connected(server) as channel:
        assert await statuses(channel) == {NOT_SERVING}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await GenerationServiceStub(channel).Generate(pb.GenerateRequest(model="null", seeds=[1]))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert refused.value.details() == "model null version 1 is loading"
        gate.open()
        await asyncio.wait_for(started, GUARD)
        assert await statuses(channel) == {SERVING}
        await server.stop()


async def test_a_watcher_sees_every_change(null_models: Path, gate: Gate) -> None:
    gate.hold_warm_up()
    server, started = starting(null_models)
    await gate.reached()
    async with connected(server) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(asked(SERVICES[0]))
        assert (await watch.read()).status == NOT_SERVING
        gate.open()
        assert (await watch.read()).status == SERVING
        await started
        stopped = asyncio.ensure_future(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        await asyncio.wait_for(stopped, GUARD)


async def test_a_service_that_there_is_not_is_not_found(null_models: Path) -> None:
    async with serving(null_models, "null") as server, connected(server) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Check(asked("impasto.v1.Painter"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(asked("impasto.v1.Painter"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def reflected(channel: grpc.aio.Channel, **question: str) -> Any:
    """The answer to one question to the reflection service."""

    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(**question)

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    [answer] = [answer async for answer in stub.ServerReflectionInfo(questions())]
    return answer


async def test_reflection_lists_all_services(null_models: Path) -> None:
    async with serving(null_models, "null") as server, connected(server) as channel:
        answer = await reflected(channel, list_services="")
    assert {service.name for service in answer.list_services_response.service} == {
        *SERVICES,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_reflection_has_the_methods_of_every_service(null_models: Path) -> None:
    methods: dict[str, set[str]] = {}
    async with serving(null_models, "null") as server, connected(server) as channel:
        for name in SERVICES:
            answer = await reflected(channel, file_containing_symbol=name)
            for serialized in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(serialized)
                for service in file.service:
                    methods[f"{file.package}.{service.name}"] = {method.name for method in service.method}
    assert methods[SERVICES[0]] == {"Explore", "Generate", "GenerateStream"}
    assert methods[SERVICES[1]] == {"ListModels", "GetModel", "LoadModel", "UnloadModel"}
    assert methods[SERVICES[2]] >= {"ModelInfer", "ServerReady", "ModelReady", "ModelConfig", "RepositoryIndex"}


async def test_a_named_model_that_there_is_not_ends_the_start(null_models: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"^model: found no 'nul'; there are: .*null"):
        async with serving(null_models, "nul"):
            pass


async def test_a_named_model_that_is_broken_ends_the_start(null_models: Path) -> None:
    (null_models / "null" / "1" / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match=r"manifest\.json: name: Field required$"):
        async with serving(null_models, "null"):
            pass


async def test_a_named_model_whose_device_is_missing_ends_the_start(
    null_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: NullEngine) -> None:
        raise BackendUnavailable("device: found 'cuda'; there is none")

    monkeypatch.setattr(NullEngine, "warm_up", fail)
    with pytest.raises(BackendUnavailable, match=r"^device: found 'cuda'; there is none$"):
        async with serving(null_models, "null"):
            pass


async def test_a_model_that_fails_in_an_unforeseen_way_is_one_line_with_the_id_of_the_log(
    null_models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(engine: NullEngine) -> None:
        raise ZeroDivisionError("no such thing")

    monkeypatch.setattr(NullEngine, "warm_up", fail)
    with pytest.raises(InternalError) as refused:
        async with serving(null_models, "null"):
            pass
    shown = re.fullmatch(r"loading model null failed; the server's log has it as fault (\w{12})", str(refused.value))
    assert shown
    assert shown[1] in caplog.text
    assert "ZeroDivisionError: no such thing" in caplog.text


async def test_a_broken_model_that_was_not_named_is_left_out_and_says_why(null_models: Path) -> None:
    write_null_bundle(null_models, "broken")
    (null_models / "broken" / "1" / "manifest.json").write_text("{}")
    async with serving(null_models, load=None) as server, connected(server) as channel:
        assert await statuses(channel) == {SERVING}
        models = ModelServiceStub(channel)
        good = await models.GetModel(models_pb2.GetModelRequest(name="null"))
        broken = await models.GetModel(models_pb2.GetModelRequest(name="broken"))
    assert good.state == models_pb2.MODEL_STATE_READY
    assert broken.state == models_pb2.MODEL_STATE_FAILED
    assert broken.reason.endswith("manifest.json: name: Field required")


async def test_a_start_that_fails_leaves_its_address_free(null_models: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    server = Server(ServerConfig(listen=listen, metrics_listen=None, models=(null_models,), load=("nul",)))
    with pytest.raises(ModelNotFound):
        async with server:
            pass
    async with serving(null_models, "null", listen=listen) as again:
        assert again.address == listen


async def test_an_address_that_is_taken_is_one_line_that_names_it(null_models: Path) -> None:
    async with serving(null_models, "null", metrics_listen="127.0.0.1:0") as server:
        for field, address in (("listen", server.address), ("metrics_listen", server.metrics_address)):
            with pytest.raises(Exception, match=f"^{field}: found '{address}'; allowed is an address of this machine"):
                async with serving(null_models, "null", **{field: address}):
                    pass
