"""Pictures over the Open Inference Protocol, and what it says of the models that make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
from numpy.testing import assert_array_equal

from impasto.api.impasto.v1 import generation_pb2 as generation
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.inference import grpc_service_pb2 as pb
from impasto.api.inference import model_config_pb2 as config_pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.engine.null import write_null_bundle
from impasto.engine.picture import Engine, PictureRequest
from impasto.engine.registry import open_engine
from impasto.export.bundle import find_bundle, open_bundle
from impasto.server.server import Server
from tests.support.inference import connected, infer_request, output, seeds, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
Stub = GRPCInferenceServiceStub


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tiny_models: Path) -> AsyncIterator[Server]:
    async with serving(tiny_models, "tiny", batching={"max_queue_delay_ms": 2}, limits={"max_pictures": 16}) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with connected(server) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.aio.Channel) -> Stub:
    return Stub(channel)


@pytest.fixture(scope="module")
def engine(tiny_models: Path) -> Iterator[Engine]:
    engine = open_engine(open_bundle(find_bundle("tiny", [tiny_models])), threads=1)
    engine.warm_up()
    yield engine
    engine.close()


async def test_seeds_give_the_engines_own_bytes(stub: Stub, engine: Engine) -> None:
    response = await stub.ModelInfer(infer_request(seed=seeds(1, 2, 2**32 - 1)))
    expected = engine.run([PictureRequest(seed=seed) for seed in (1, 2, 2**32 - 1)])
    assert_array_equal(output(response), [pixels.array for pixels in expected], strict=True)


async def test_latents_give_the_engines_own_bytes(stub: Stub, engine: Engine) -> None:
    z = np.random.RandomState(5).randn(2, 4).astype(np.float32)
    response = await stub.ModelInfer(infer_request(z=z))
    assert_array_equal(output(response), [pixels.array for pixels in engine.run([PictureRequest(z=row) for row in z])])


async def test_layer_styles_give_the_engines_own_bytes(stub: Stub, engine: Engine) -> None:
    ws = np.random.RandomState(6).randn(2, 4, 4).astype(np.float32)
    response = await stub.ModelInfer(infer_request(ws=ws))
    assert_array_equal(output(response), [pixels.array for pixels in engine.run([PictureRequest(ws=w) for w in ws])])


async def test_every_row_has_its_own_psi_and_label(stub: Stub, engine: Engine) -> None:
    request = infer_request(seed=seeds(7, 7), psi=np.float32([[0.3], [0.9]]), label=seeds(2, 1))
    expected = [
        PictureRequest(seed=7, psi=np.float32(0.3), label=2),
        PictureRequest(seed=7, psi=np.float32(0.9), label=1),
    ]
    assert_array_equal(output(await stub.ModelInfer(request)), [pixels.array for pixels in engine.run(expected)])


async def test_class_vectors_blend_classes(stub: Stub, engine: Engine) -> None:
    c = np.float32([[0.5, 0.5, 0.0]])
    response = await stub.ModelInfer(infer_request(seed=seeds(7), c=c))
    assert_array_equal(output(response)[0], engine.run([PictureRequest(seed=7, c=c[0])])[0].array)


async def test_parameters_choose_the_noise_and_the_truncated_layers(stub: Stub, engine: Engine) -> None:
    request = infer_request(seed=seeds(7), psi=np.float32([[0.2]]))
    request.parameters["noise_mode"].string_param = "random"
    request.parameters["psi_cutoff"].int64_param = 1
    expected = PictureRequest(seed=7, psi=np.float32(0.2), cutoff=1, noise_mode="random")
    assert_array_equal(output(await stub.ModelInfer(request))[0], engine.run([expected])[0].array)


async def test_a_seed_has_the_same_bytes_over_both_services(stub: Stub, channel: grpc.aio.Channel) -> None:
    request = infer_request(seed=seeds(3, 4))
    request.outputs.add(name="image")
    request.outputs.add(name="image_float")
    response = await stub.ModelInfer(request)
    for format, name in (("IMAGE_FORMAT_RAW_UINT8", "image"), ("IMAGE_FORMAT_RAW_FLOAT32", "image_float")):
        asked = generation.GenerateRequest(model="tiny", seeds=[3, 4], format=format)
        reply = await GenerationServiceStub(channel).Generate(asked)
        assert [picture.data for picture in reply.pictures] == [row.tobytes() for row in output(response, name)]


async def test_typed_contents_mean_the_same_as_raw_ones(stub: Stub) -> None:
    request = pb.ModelInferRequest(model_name="tiny")
    request.inputs.add(name="seed", datatype="INT64", shape=[2, 1]).contents.int64_contents[:] = [1, 2]
    request.inputs.add(name="psi", datatype="FP32", shape=[2, 1]).contents.fp32_contents[:] = [0.5, 0.5]
    raw = infer_request(seed=seeds(1, 2), psi=np.float32([[0.5], [0.5]]))
    assert_array_equal(output(await stub.ModelInfer(request)), output(await stub.ModelInfer(raw)))


async def test_one_number_a_row_needs_no_second_axis(stub: Stub) -> None:
    flat = infer_request(seed=np.int64([1, 2]), psi=np.float32([0.5, 0.6]), label=np.int64([0, 1]))
    full = infer_request(seed=seeds(1, 2), psi=np.float32([[0.5], [0.6]]), label=seeds(0, 1))
    assert_array_equal(output(await stub.ModelInfer(flat)), output(await stub.ModelInfer(full)))


async def test_outputs_come_in_the_order_asked_for(stub: Stub, engine: Engine) -> None:
    request = infer_request(seed=seeds(1))
    request.outputs.add(name="image_float")
    request.outputs.add(name="image")
    response = await stub.ModelInfer(request)
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in response.outputs] == [
        ("image_float", "FP32", [1, 3, 8, 8]),
        ("image", "UINT8", [1, 8, 8, 3]),
    ]
    (pixels,) = engine.run([PictureRequest(seed=1)])
    assert_array_equal(output(response, "image_float")[0], pixels.image_float)
    assert_array_equal(output(response, "image")[0], pixels.array)


async def test_image_is_the_output_when_none_is_asked_for(stub: Stub) -> None:
    response = await stub.ModelInfer(infer_request(seed=seeds(1)))
    assert [tensor.name for tensor in response.outputs] == ["image"]


async def test_the_response_names_the_model_its_version_and_the_requests_id(stub: Stub) -> None:
    request = infer_request(seed=seeds(1))
    request.id = "frame 17"
    request.model_version = "1"
    response = await stub.ModelInfer(request)
    assert (response.model_name, response.model_version, response.id) == ("tiny", "1", "frame 17")


async def test_a_full_request_is_as_many_pictures_as_the_limit(stub: Stub, engine: Engine) -> None:
    response = await stub.ModelInfer(infer_request(seed=seeds(*range(16))))
    alone = [engine.run([PictureRequest(seed=seed)])[0].array for seed in range(16)]
    assert_array_equal(output(response), alone)


async def test_a_timeout_that_cannot_be_met_is_refused_at_once(stub: Stub) -> None:
    request = infer_request(seed=seeds(1))
    request.parameters["timeout"].int64_param = 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ModelInfer(request)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_generous_timeout_and_a_priority_change_no_bytes(stub: Stub) -> None:
    request = infer_request(seed=seeds(1))
    request.parameters["timeout"].int64_param = 60_000_000
    request.parameters["priority"].uint64_param = 1
    plain = await stub.ModelInfer(infer_request(seed=seeds(1)))
    assert_array_equal(output(await stub.ModelInfer(request)), output(plain))


async def test_the_server_is_live_and_ready(stub: Stub) -> None:
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready


async def test_a_draining_server_is_live_and_not_ready(tmp_path: Path) -> None:
    write_null_bundle(tmp_path)
    async with serving(tmp_path, "null") as server, connected(server) as channel:
        server.host.draining = True
        assert (await Stub(channel).ServerLive(pb.ServerLiveRequest())).live
        assert not (await Stub(channel).ServerReady(pb.ServerReadyRequest())).ready
        assert not (await Stub(channel).ModelReady(pb.ModelReadyRequest(name="null"))).ready


async def test_only_loaded_models_are_ready(stub: Stub) -> None:
    assert (await stub.ModelReady(pb.ModelReadyRequest(name="tiny"))).ready
    assert (await stub.ModelReady(pb.ModelReadyRequest(name="tiny", version="1"))).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="tiny", version="2"))).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="no-such-model"))).ready


async def test_the_server_lists_the_extensions_that_it_has(stub: Stub) -> None:
    metadata = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "impasto"
    assert metadata.version
    extensions = ["model_configuration", "model_repository", "parameters", "schedule_policy", "statistics"]
    assert list(metadata.extensions) == extensions


async def test_metadata_has_the_manifests_tensors(stub: Stub, engine: Engine) -> None:
    metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="tiny"))
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("tiny", ["1"], "impasto_onnxruntime")
    shapes = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs}
    assert shapes == {
        "seed": ("INT64", [-1, 1]),
        "z": ("FP32", [-1, 4]),
        "ws": ("FP32", [-1, 4, 4]),
        "psi": ("FP32", [-1, 1]),
        "label": ("INT64", [-1, 1]),
        "c": ("FP32", [-1, 3]),
    }
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs] == [
        ("image", "UINT8", [-1, 8, 8, 3]),
        ("image_float", "FP32", [-1, 3, 8, 8]),
    ]


async def test_configuration_has_the_tensors_without_the_batch(stub: Stub) -> None:
    config = (await stub.ModelConfig(pb.ModelConfigRequest(name="tiny"))).config
    dims = {tensor.name: (config_pb.DataType.Name(tensor.data_type), list(tensor.dims)) for tensor in config.input}
    assert dims["seed"] == ("TYPE_INT64", [1])
    assert dims["ws"] == ("TYPE_FP32", [4, 4])
    assert all(tensor.optional for tensor in config.input)
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [
        ("image", [8, 8, 3]),
        ("image_float", [3, 8, 8]),
    ]


async def test_configuration_has_the_servers_batching(stub: Stub, engine: Engine) -> None:
    config = (await stub.ModelConfig(pb.ModelConfigRequest(name="tiny"))).config
    assert (config.max_batch_size, config.platform, config.backend) == (16, "impasto_onnxruntime", "onnxruntime")
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == [1, 2, 4, 8]
    assert batching.max_queue_delay_microseconds == 2000
    assert (batching.priority_levels, batching.default_priority_level) == (3, 2)
    assert batching.default_queue_policy.max_queue_size == 256
    assert [(group.count, group.kind) for group in config.instance_group] == [
        (1, config_pb.ModelInstanceGroup.KIND_CPU)
    ]
    assert config.parameters["digest"].string_value == engine.digest


async def test_a_models_only_source_is_required(tmp_path: Path) -> None:
    write_null_bundle(tmp_path)
    async with serving(tmp_path, "null") as server, connected(server) as channel:
        config = (await Stub(channel).ModelConfig(pb.ModelConfigRequest(name="null"))).config
    assert [(tensor.name, tensor.optional) for tensor in config.input] == [("seed", False)]


async def test_large_replies_are_whole(tmp_path: Path) -> None:
    write_null_bundle(tmp_path, width=512, height=512)
    async with serving(tmp_path, "null") as server, connected(server) as channel:
        response = await Stub(channel).ModelInfer(infer_request("null", seed=seeds(*range(8))))
    assert_array_equal(output(response), np.full((8, 512, 512, 3), 128, np.uint8), strict=True)
