"""Loading and unloading models over the Open Inference Protocol."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from impasto.api.inference import grpc_service_pb2 as pb
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub as Stub
from impasto.engine.null import write_null_bundle
from tests.support.inference import connected, infer_request, output, seeds, serving


@pytest_asyncio.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Stub]:
    """A server that has loaded `grey`; its model directory has `other` too."""
    write_null_bundle(tmp_path, "grey")
    write_null_bundle(tmp_path, "other")
    async with serving(tmp_path, "grey") as server, connected(server) as channel:
        yield Stub(channel)


async def states(stub: Stub, **request: bool) -> dict[tuple[str, str], tuple[str, str]]:
    """The index's models in the test's own directory: (name, version) → (state, reason)."""
    index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(**request))
    return {(m.name, m.version): (m.state, m.reason) for m in index.models if m.name in ("grey", "other")}


async def test_the_index_has_every_model_with_its_state(stub: Stub) -> None:
    assert await states(stub) == {("grey", "1"): ("READY", ""), ("other", "1"): ("UNAVAILABLE", "unloaded")}


async def test_the_index_of_ready_models_leaves_out_the_rest(stub: Stub) -> None:
    assert await states(stub, ready=True) == {("grey", "1"): ("READY", "")}


async def test_the_index_says_why_a_model_cannot_be_loaded(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "other" / "1" / "manifest.json").write_text("{}")
    state, reason = (await states(stub))["other", "1"]
    assert state == "UNAVAILABLE"
    assert "manifest.json" in reason


async def test_a_model_that_is_loaded_makes_pictures(stub: Stub) -> None:
    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="other"))
    assert (await states(stub))["other", "1"] == ("READY", "")
    assert output(await stub.ModelInfer(infer_request("other", seed=seeds(1)))).shape == (1, 64, 64, 3)


async def test_a_model_that_is_unloaded_makes_none(stub: Stub) -> None:
    await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="grey"))
    assert (await states(stub))["grey", "1"] == ("UNAVAILABLE", "unloaded")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ModelInfer(infer_request("grey", seed=seeds(1)))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_unloading_takes_the_parameter_that_triton_clients_send(stub: Stub) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name="grey")
    request.parameters["unload_dependents"].bool_param = True
    await stub.RepositoryModelUnload(request)
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="grey"))).ready


async def test_loading_takes_the_highest_version_and_metadata_lists_all_loaded(stub: Stub, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "grey" / "1", tmp_path / "grey" / "2")
    manifest = tmp_path / "grey" / "2" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": "2"}))
    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="grey"))
    metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="grey"))
    assert list(metadata.versions) == ["1", "2"]
    assert (await stub.ModelInfer(infer_request("grey", seed=seeds(1)))).model_version == "2"


async def test_an_unknown_model_can_neither_be_loaded_nor_unloaded(stub: Stub) -> None:
    for call in (
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="no-such-model")),
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="other")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_what_triton_could_override_is_refused(stub: Stub) -> None:
    load = pb.RepositoryModelLoadRequest(model_name="other")
    load.parameters["config"].string_param = "{}"
    unload = pb.RepositoryModelUnloadRequest(model_name="grey")
    unload.parameters["force"].bool_param = True
    for call, line in (
        (stub.RepositoryModelLoad(load), "parameters: found 'config'; allowed is none"),
        (stub.RepositoryModelUnload(unload), "parameters: found 'force'; allowed is unload_dependents"),
        (stub.RepositoryIndex(pb.RepositoryIndexRequest(repository_name="elsewhere")), "repository_name: found"),
        (stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest()), "model: found ''"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert line in (refused.value.details() or "")
