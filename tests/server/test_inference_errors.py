"""Bad requests of the Open Inference Protocol: each gets its status and a line that names the tensor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from impasto.api.inference import grpc_service_pb2 as pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.engine.null import write_null_bundle
from tests.support.inference import connected, infer_request, output, seeds, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
Stub = GRPCInferenceServiceStub
Z = np.zeros((2, 4), np.float32)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(tiny_models: Path) -> AsyncIterator[Stub]:
    async with serving(tiny_models, "tiny", limits={"max_pictures": 16}) as server, connected(server) as channel:
        yield Stub(channel)


def seeds_and(**inputs: object) -> pb.ModelInferRequest:
    return infer_request(seed=seeds(1, 2), **inputs)


def changed(change: Callable[[pb.ModelInferRequest], object]) -> pb.ModelInferRequest:
    """A good request of two seeds after a change."""
    request = infer_request(seed=seeds(1, 2))
    change(request)
    return request


def with_parameter(name: str, **value: object) -> pb.ModelInferRequest:
    return changed(lambda request: request.parameters[name].MergeFrom(pb.InferParameter(**value)))


def typed(**contents: list[object]) -> pb.ModelInferRequest:
    """A request whose seed tensor of two rows has these typed contents."""
    request = pb.ModelInferRequest(model_name="tiny")
    request.inputs.add(name="seed", datatype="INT64", shape=[2, 1], contents=pb.InferTensorContents(**contents))
    return request


def with_shared_memory(request: pb.ModelInferRequest) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "frames"


def with_classification(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="image").parameters["classification"].int64_param = 3


def with_two_of_an_output(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="image")
    request.outputs.add(name="image")


def with_two_of_an_input(request: pb.ModelInferRequest) -> None:
    request.MergeFrom(infer_request(seed=seeds(1, 2)))


BAD = {
    "no inputs": (
        infer_request(),
        "inputs: found 'none of seed, z, ws'; allowed is exactly one of seed, z, ws",
    ),
    "only psi": (infer_request(psi=np.float32([[1]])), "inputs: found 'none of seed, z, ws'"),
    "seed and z": (seeds_and(z=Z), "inputs: found 'seed and z'; allowed is exactly one of seed, z, ws"),
    "label and c": (
        seeds_and(label=seeds(0, 1), c=np.eye(2, 3, dtype=np.float32)),
        "inputs: found 'label and c'; allowed is one of them",
    ),
    "psi with ws": (infer_request(ws=np.zeros((1, 4, 4), np.float32), psi=np.float32([[1]])), "psi: found 1.0"),
    "unknown input": (
        seeds_and(latent=Z),
        "inputs[1].name: found 'latent'; allowed is one of seed, z, ws, psi, label, c",
    ),
    "unknown input with a very long name": (infer_request(**{"x" * 10_000: Z}), "(10000 characters)"),
    "input twice": (changed(with_two_of_an_input), "inputs: found 'seed twice'; allowed is each tensor once"),
    "unknown output": (
        changed(lambda request: request.outputs.add(name="depth")),
        "outputs[0].name: found 'depth'; allowed is one of image, image_float",
    ),
    "output twice": (changed(with_two_of_an_output), "outputs: found 'image twice'; allowed is each tensor once"),
    "class scores of an output": (changed(with_classification), "outputs.image.parameters: found 'classification'"),
    "shared memory": (changed(with_shared_memory), "inputs.seed.parameters: found 'shared_memory_region'"),
    "seed as FP32": (
        infer_request(seed=np.float32([[1]])),
        "inputs.seed.datatype: found 'FP32'; allowed is INT64",
    ),
    "no datatype": (
        changed(lambda request: request.inputs[0].ClearField("datatype")),
        "inputs.seed.datatype: found ''; allowed is INT64",
    ),
    "z of another length": (
        infer_request(z=np.zeros((2, 5), np.float32)),
        "inputs.z.shape: found [2, 5]; allowed is [N, 4] with N from 1 to 16",
    ),
    "z without N": (infer_request(z=np.zeros(4, np.float32)), "inputs.z.shape: found [4]; allowed is [N, 4]"),
    "no shape": (
        changed(lambda request: request.inputs[0].ClearField("shape")),
        "inputs.seed.shape: found []; allowed is [N, 1]",
    ),
    "negative N": (
        changed(lambda request: request.inputs[0].shape.__setitem__(0, -1)),
        "inputs.seed.shape: found [-1, 1]; allowed is [N, 1] with N from 1 to 16",
    ),
    "huge shape": (
        changed(lambda request: request.inputs[0].shape.__setitem__(0, 2**62)),
        "inputs.seed.shape: found [4611686018427387904, 1]; allowed is [N, 1] with N from 1 to 16",
    ),
    "ws of two axes": (
        infer_request(ws=np.zeros((4, 4), np.float32)),
        "inputs.ws.shape: found [4, 4]; allowed is [N, 4, 4]",
    ),
    "seed of two columns": (
        infer_request(seed=np.zeros((2, 2), np.int64)),
        "inputs.seed.shape: found [2, 2]; allowed is [N, 1]",
    ),
    "no rows": (
        infer_request(seed=np.zeros((0, 1), np.int64)),
        "inputs.seed.shape: found [0, 1]; allowed is [N, 1] with N from 1 to 16",
    ),
    "too many rows": (
        infer_request(seed=seeds(*range(17))),
        "inputs.seed.shape: found [17, 1]; allowed is [N, 1] with N from 1 to 16",
    ),
    "another N in psi": (
        seeds_and(psi=np.float32([[1]])),
        "inputs.psi.shape: found 'N = 1'; allowed is N = 2 as in inputs.seed",
    ),
    "raw contents too short": (
        changed(lambda request: request.raw_input_contents.__setitem__(0, b"12345678")),
        "inputs.seed: found '8 bytes of raw contents'; allowed is 16 bytes for INT64 [2, 1]",
    ),
    "raw contents too long": (
        changed(lambda request: request.raw_input_contents.__setitem__(0, bytes(17))),
        "inputs.seed: found '17 bytes of raw contents'; allowed is 16 bytes",
    ),
    "more raw contents than inputs": (
        changed(lambda request: request.raw_input_contents.append(b"")),
        "raw_input_contents: found '2 entries'; allowed is one an input, 1",
    ),
    "raw and typed contents": (
        changed(lambda request: request.inputs[0].contents.int64_contents.extend([1, 2])),
        "raw_input_contents: found 'contents in seed too'; allowed is one of the two for all inputs",
    ),
    "no contents": (typed(), "inputs.seed.contents: found 'none'; allowed is int64_contents, or raw_input_contents"),
    "contents of another type": (typed(fp32_contents=[1, 2]), "inputs.seed.contents: found 'fp32_contents'"),
    "contents of two types": (
        typed(int64_contents=[1, 2], bytes_contents=[b"1"]),
        "inputs.seed.contents: found 'int64_contents, bytes_contents'; allowed is int64_contents",
    ),
    "typed contents too short": (
        typed(int64_contents=[1]),
        "inputs.seed.contents: found '1 values'; allowed is 2 values for [2, 1]",
    ),
    "negative seed": (
        infer_request(seed=seeds(1, -1)),
        "inputs.seed[1]: found -1; allowed is an integer from 0 to 4294967295",
    ),
    "seed too large": (
        infer_request(seed=seeds(2**32)),
        "inputs.seed[0]: found 4294967296; allowed is an integer from 0",
    ),
    "label too large": (
        infer_request(seed=seeds(1), label=seeds(3)),
        "label: found 3; allowed is an integer from 0 to 2",
    ),
    "psi NaN": (
        infer_request(seed=seeds(1), psi=np.float32([[np.nan]])),
        "inputs.psi[0][0]: found nan; allowed is a finite",
    ),
    "psi infinite": (infer_request(seed=seeds(1), psi=np.float32([[-np.inf]])), "inputs.psi[0][0]: found -inf"),
    "psi huge": (infer_request(seed=seeds(1), psi=np.float32([[100]])), "psi: found 100.0; allowed is"),
    "z with NaN": (infer_request(z=np.float32([[0, 0, 0, 0], [0, 0, np.nan, 0]])), "inputs.z[1][2]: found nan"),
    "ws with infinity": (infer_request(ws=np.full((1, 4, 4), np.inf, np.float32)), "inputs.ws[0][0][0]: found inf"),
    "c with NaN": (infer_request(seed=seeds(1), c=np.float32([[np.nan, 0, 0]])), "inputs.c[0][0]: found nan"),
    "unknown parameter": (
        with_parameter("temperature", double_param=1.0),
        "parameters: found 'temperature'; allowed is eta, guidance_rescale, noise, noise_mode, priority, psi_cutoff",
    ),
    "a sequence": (with_parameter("sequence_id", int64_param=1), "parameters: found 'sequence_id'"),
    "unknown noise mode": (
        with_parameter("noise_mode", string_param="loud"),
        "parameters.noise_mode: found 'loud'; allowed is a string, one of const, random, none",
    ),
    "noise mode as a number": (with_parameter("noise_mode", int64_param=1), "parameters.noise_mode: found 1"),
    "unknown noise": (
        with_parameter("noise", string_param="white"),
        "parameters.noise: found 'white'; allowed is a string, one of impasto, torch",
    ),
    "noise of a model in one call": (
        with_parameter("noise", string_param="torch"),
        "noise: found 'torch'; allowed is nothing; this model makes a picture in one call",
    ),
    "eta as a string": (with_parameter("eta", string_param="1"), "parameters.eta: found '1'; allowed is a number"),
    "eta NaN": (with_parameter("eta", double_param=np.nan), "parameters.eta: found nan; allowed is 0 to 1"),
    "eta huge": (with_parameter("eta", int64_param=2**62), "parameters.eta: found 4.611686e+18; allowed is 0"),
    "eta of a model in one call": (with_parameter("eta", double_param=0), "eta: found 0.0; allowed is nothing"),
    "guidance rescale negative": (
        with_parameter("guidance_rescale", double_param=-1),
        "parameters.guidance_rescale: found -1.0; allowed is 0 to 1",
    ),
    "cutoff as a string": (
        with_parameter("psi_cutoff", string_param="2"),
        "parameters.psi_cutoff: found '2'; allowed is an integer of 0 or more",
    ),
    "cutoff beyond the layers": (with_parameter("psi_cutoff", int64_param=5), "psi_cutoff: found 5; allowed is"),
    "negative cutoff": (with_parameter("psi_cutoff", int64_param=-1), "parameters.psi_cutoff: found -1"),
    "unknown priority": (with_parameter("priority", uint64_param=9), "priority: found 9; allowed is 1"),
    "negative timeout": (with_parameter("timeout", int64_param=-5), "parameters.timeout: found -5"),
    "parameter without a value": (with_parameter("timeout"), "parameters.timeout: found None"),
    "no model name": (changed(lambda request: request.ClearField("model_name")), "model: found ''"),
    "version that is no number": (
        changed(lambda request: request.MergeFrom(pb.ModelInferRequest(model_version="latest"))),
        "version: found 'latest'",
    ),
}


@pytest.mark.parametrize(("request_", "line"), BAD.values(), ids=BAD.keys())
async def test_bad_request_is_refused_with_a_line_that_says_why(
    stub: Stub, request_: pb.ModelInferRequest, line: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ModelInfer(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert line in (refused.value.details() or "")
    good = await stub.ModelInfer(infer_request(seed=seeds(1)))
    assert output(good).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(("name", "version"), [("no-such-model", ""), ("tiny", "2")])
async def test_unknown_model_is_not_found_by_any_method(stub: Stub, name: str, version: str) -> None:
    request = infer_request(name, seed=seeds(1))
    request.model_version = version
    calls = [
        stub.ModelInfer(request),
        stub.ModelMetadata(pb.ModelMetadataRequest(name=name, version=version)),
        stub.ModelConfig(pb.ModelConfigRequest(name=name, version=version)),
        stub.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=version)),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert "there are: tiny" in (refused.value.details() or "")


async def test_methods_that_are_not_served_are_unimplemented(tmp_path: Path) -> None:
    write_null_bundle(tmp_path)
    async with serving(tmp_path, "null") as server, connected(server) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/SystemSharedMemoryStatus")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_reply_beyond_the_servers_limit_is_refused_before_it_is_made(tmp_path: Path) -> None:
    write_null_bundle(tmp_path, width=256, height=256)
    async with serving(tmp_path, "null", limits={"send_mib": 1}) as server, connected(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Stub(channel).ModelInfer(infer_request("null", seed=seeds(*range(6))))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "inputs: found 'N = 6'; allowed is N of at most 5" in (refused.value.details() or "")
        response = await Stub(channel).ModelInfer(infer_request("null", seed=seeds(*range(5))))
        assert output(response).shape == (5, 256, 256, 3)
