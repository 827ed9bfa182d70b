"""What a model counts, and how the Open Inference Protocol tells it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from impasto.api.impasto.v1 import generation_pb2 as generation
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.inference import grpc_service_pb2 as pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub as Stub
from impasto.engine.null import write_null_bundle
from impasto.server.statistics import Duration, Statistics
from tests.support.inference import connected, infer_request, seeds, serving


@pytest_asyncio.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    write_null_bundle(tmp_path, "grey")
    write_null_bundle(tmp_path, "other")
    async with serving(tmp_path, "grey", "other") as server, connected(server) as channel:
        yield channel


async def statistics(channel: grpc.aio.Channel, name: str = "grey") -> pb.ModelStatistics:
    (model,) = (await Stub(channel).ModelStatistics(pb.ModelStatisticsRequest(name=name))).model_stats
    return model


async def test_a_request_of_three_pictures_counts_as_one_request_three_pictures_and_one_batch(
    channel: grpc.aio.Channel,
) -> None:
    before = time.time()
    await Stub(channel).ModelInfer(infer_request("grey", seed=seeds(1, 2, 3)))
    model = await statistics(channel)
    assert (model.name, model.version) == ("grey", "1")
    assert (model.inference_count, model.execution_count) == (3, 1)
    assert model.inference_stats.success.count == 1
    assert [(batch.batch_size, batch.compute_infer.count) for batch in model.batch_stats] == [(3, 1)]
    assert before * 1000 - 1 <= model.last_inference <= time.time() * 1000 + 1


async def test_a_requests_queue_and_execution_are_within_its_whole_time(channel: grpc.aio.Channel) -> None:
    await Stub(channel).ModelInfer(infer_request("grey", seed=seeds(1)))
    stats = (await statistics(channel)).inference_stats
    assert stats.queue.count == stats.compute_infer.count == 1
    assert stats.queue.ns > 0
    assert stats.compute_infer.ns > 0
    assert stats.queue.ns + stats.compute_infer.ns <= stats.success.ns


async def test_batches_add_up_to_the_pictures_of_all_services(channel: grpc.aio.Channel) -> None:
    infer = [Stub(channel).ModelInfer(infer_request("grey", seed=seeds(*range(n)))) for n in (1, 2, 5, 8)]
    generate = GenerationServiceStub(channel).Generate(generation.GenerateRequest(model="grey", seeds=[1, 2, 3, 4]))
    await asyncio.gather(*infer, generate)
    model = await statistics(channel)
    assert model.inference_count == 1 + 2 + 5 + 8 + 4
    assert model.inference_stats.success.count == 5
    assert sum(batch.batch_size * batch.compute_infer.count for batch in model.batch_stats) == 20
    assert sum(batch.compute_infer.count for batch in model.batch_stats) == model.execution_count


async def test_a_refused_request_changes_no_count(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await Stub(channel).ModelInfer(infer_request("grey", seed=seeds(-1)))
    model = await statistics(channel)
    assert (model.inference_count, model.execution_count, model.inference_stats.fail.count) == (0, 0, 0)


async def test_no_name_asks_for_all_models(channel: grpc.aio.Channel) -> None:
    everything = await Stub(channel).ModelStatistics(pb.ModelStatisticsRequest())
    assert [model.name for model in everything.model_stats] == ["grey", "other"]


async def test_a_model_counts_anew_after_it_is_loaded_again(channel: grpc.aio.Channel) -> None:
    await Stub(channel).ModelInfer(infer_request("grey", seed=seeds(1)))
    await Stub(channel).RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="grey"))
    assert (await statistics(channel)).inference_count == 0


def test_failed_requests_count_their_time_and_no_pictures() -> None:
    statistics = Statistics()
    statistics.failed(0.25)
    statistics.failed(0.5)
    assert statistics.fail == Duration(2, 0.75)
    assert (statistics.pictures, statistics.executions, statistics.success) == (0, 0, Duration())


def test_executions_are_kept_by_their_number_of_rows() -> None:
    statistics = Statistics()
    for rows, seconds in ((8, 0.5), (1, 0.125), (8, 0.25)):
        statistics.executed(rows, seconds)
    assert statistics.batches == {8: Duration(2, 0.75), 1: Duration(1, 0.125)}
    assert statistics.executions == 3
