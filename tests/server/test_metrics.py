"""What Prometheus reads from a server's exporter."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1 import models_pb2
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.impasto.v1.models_pb2_grpc import ModelServiceStub
from impasto.server.server import Server
from tests.support.diffusion import write_tiny_diffusion
from tests.support.gate import HELD, Gate
from tests.support.inference import connected, serving
from tests.support.waiting import GUARD, until

Stub = GenerationServiceStub
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def measured(models: Path, **settings: Any) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """A server of `null` with an exporter, and a channel to it."""
    async with (
        serving(models, "null", metrics_listen="127.0.0.1:0", **settings) as server,
        connected(server) as channel,
    ):
        yield server, channel


async def scrape(server: Server) -> Samples:
    """Every sample of the exporter by name, without its prefix, and labels."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=GUARD) as reply:
            return str(reply.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    samples = [sample for family in families for sample in family.samples]
    return {(s.name.removeprefix("impasto_"), frozenset(s.labels.items())): s.value for s in samples}


def of(samples: Samples, name: str, **labels: str) -> dict[tuple[str, ...], float]:
    """The samples of a name with these labels, by their other labels' values in the order of the labels' names."""
    chosen = {key: value for (found, key), value in samples.items() if found == name and labels.items() <= set(key)}
    return {tuple(v for k, v in sorted(key) if k not in labels): value for key, value in chosen.items()}


def null(samples: Samples, name: str) -> float:
    """A figure of the model `null`."""
    return samples[name, frozenset({("model", "null"), ("version", "1")})]


def request(*seeds: int, model: str = "null", **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(model=model, seeds=seeds, **fields)


async def status_of(call: Any) -> grpc.StatusCode:
    """The status of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code()


async def test_calls_are_counted_by_model_method_and_status(null_models: Path) -> None:
    async with measured(null_models) as (server, channel):
        await Stub(channel).Generate(request(1))
        await Stub(channel).Generate(request(1, 2))
        assert [event async for event in Stub(channel).GenerateStream(request(1))]
        await status_of(Stub(channel).Generate(request()))
        await status_of(Stub(channel).Generate(request(1, model="other")))
        await ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest())
        samples = await scrape(server)
    assert of(samples, "requests_total") == {
        ("Generate", "null", "OK"): 2,
        ("GenerateStream", "null", "OK"): 1,
        ("Generate", "null", "INVALID_ARGUMENT"): 1,
        ("Generate", "unknown", "NOT_FOUND"): 1,
        ("ListModels", "", "OK"): 1,
    }


async def test_rejections_are_counted_by_reason(null_models: Path, gate: Gate) -> None:
    async with measured(null_models, batching={"max_queue": 2}) as (server, channel):
        stub = Stub(channel)
        held = asyncio.ensure_future(stub.Generate(request(HELD)))
        await gate.reached()
        waiting = stub.GenerateStream(request(1, 2))
        await waiting.read()
        assert await status_of(stub.Generate(request(3))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await status_of(stub.Generate(request(4))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await status_of(stub.Generate(request(-1))) is grpc.StatusCode.INVALID_ARGUMENT
        assert await status_of(stub.Generate(request(1, model="other"))) is grpc.StatusCode.NOT_FOUND
        samples = await scrape(server)
        gate.open()
        await held
    assert of(samples, "rejections_total") == {
        ("null", "QueueFull"): 2,
        ("null", "InvalidRequest"): 1,
        ("unknown", "ModelNotFound"): 1,
    }


async def test_a_call_that_its_caller_cancels_is_counted_as_cancelled_and_not_as_rejected(
    null_models: Path, gate: Gate
) -> None:
    async def answered() -> bool:
        return bool(of(await scrape(server), "requests_total"))

    async with measured(null_models) as (server, channel):
        held = asyncio.ensure_future(Stub(channel).Generate(request(HELD)))
        await gate.reached()
        held.cancel()
        await until(answered)
        samples = await scrape(server)
        gate.open()
    assert of(samples, "requests_total") == {("Generate", "null", "CANCELLED"): 1}
    assert of(samples, "rejections_total") == {}


async def test_batches_are_counted_with_their_rows_and_padding(null_models: Path) -> None:
    async with measured(null_models) as (server, channel):
        for count in (1, 3, 3, 5):
            await Stub(channel).Generate(request(0, count=count))
        samples = await scrape(server)
    rows = of(samples, "batch_rows_bucket", model="null", version="1")
    assert {bound: rows[(bound,)] for bound in ("1.0", "2.0", "4.0", "8.0", "+Inf")} == {
        "1.0": 1,
        "2.0": 1,
        "4.0": 3,
        "8.0": 4,
        "+Inf": 4,
    }
    assert null(samples, "batch_rows_count") == 4
    assert null(samples, "batch_rows_sum") == 12
    assert null(samples, "padding_rows_total") == 0 + 1 + 1 + 3
    assert null(samples, "execute_seconds_count") == 4
    assert null(samples, "execute_seconds_sum") > 0


async def test_the_second_row_of_a_guided_picture_is_no_padding(tmp_path: Path) -> None:
    write_tiny_diffusion(tmp_path, "sd15")
    guided = pb.Denoising(steps=3, sampler="ddim", guidance_scale=5.0)
    async with (
        serving(tmp_path, "sd15", metrics_listen="127.0.0.1:0") as server,
        connected(server) as channel,
    ):
        await Stub(channel).Generate(pb.GenerateRequest(model="sd15", seeds=[1], denoising=guided))
        samples = await scrape(server)
    assert of(samples, "batch_rows_sum", model="sd15", version="1") == {(): 3}
    assert of(samples, "padding_rows_total", model="sd15", version="1") == {(): 0}  # on a CPU every bucket fits


async def test_every_picture_is_timed_in_the_queue_and_every_encoded_one_in_its_encoding(null_models: Path) -> None:
    async with measured(null_models) as (server, channel):
        await Stub(channel).Generate(request(0, count=3, format=pb.IMAGE_FORMAT_RAW_UINT8))
        await Stub(channel).Generate(request(0, count=2, format=pb.IMAGE_FORMAT_PNG))
        samples = await scrape(server)
    assert null(samples, "queue_seconds_count") == 5
    assert null(samples, "encode_seconds_count") == 2
    assert null(samples, "encode_seconds_sum") > 0


async def test_gauges_follow_requests_in_flight_and_the_queue_and_end_at_0(null_models: Path, gate: Gate) -> None:
    async with measured(null_models) as (server, channel):
        held = asyncio.ensure_future(Stub(channel).Generate(request(HELD)))
        await gate.reached()
        waiting = [Stub(channel).GenerateStream(request(seed, seed + 1)) for seed in (1, 2)]
        for call in waiting:
            await call.read()
        busy = await scrape(server)
        gate.open()
        await held
        for call in waiting:
            while await call.read() is not grpc.aio.EOF:
                pass
        idle = await scrape(server)
    assert (null(busy, "in_flight_requests"), null(busy, "queue_length")) == (3, 4)
    assert (null(idle, "in_flight_requests"), null(idle, "queue_length")) == (0, 0)


async def test_names_that_callers_make_up_add_no_series(null_models: Path) -> None:
    async with measured(null_models) as (server, channel):
        await status_of(Stub(channel).Generate(request(1, model="first")))
        before = await scrape(server)
        for number in range(100):
            await status_of(Stub(channel).Generate(request(1, model=f"made-up-{number}")))
            await status_of(channel.unary_unary(f"/impasto.v1.GenerationService/MadeUp{number}")(b""))
        after = await scrape(server)
    assert after.keys() == before.keys()
    assert of(after, "rejections_total") == {("unknown", "ModelNotFound"): 101}


async def test_figures_of_a_model_go_on_when_it_is_loaded_again(null_models: Path) -> None:
    async with measured(null_models) as (server, channel):
        await Stub(channel).Generate(request(1))
        await ModelServiceStub(channel).LoadModel(models_pb2.LoadModelRequest(name="null"))
        await Stub(channel).Generate(request(2))
        samples = await scrape(server)
    assert null(samples, "queue_seconds_count") == 2
    assert of(samples, "in_flight_requests") == {("null", "1"): 0}
