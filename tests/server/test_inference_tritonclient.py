"""The real `tritonclient`, from an environment of its own: it needs protobuf before 7."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from impasto.api.impasto.v1 import generation_pb2 as generation
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.inference import grpc_service_pb2, model_config_pb2
from impasto.engine.picture import PictureRequest
from impasto.engine.registry import open_engine
from impasto.export.bundle import find_bundle, open_bundle
from tests.server import protocol_shape
from tests.support.inference import connected, seeds, serving

HERE = Path(__file__).parent
SEEDS = (1, 2, 4294967295)
INPUTS = {
    "seed": seeds(*SEEDS),
    "z": np.random.RandomState(1).randn(2, 4).astype(np.float32),
    "ws": np.random.RandomState(2).randn(2, 4, 4).astype(np.float32),
    "psi": np.float32([[0.2], [0.7], [1.0]]),
}


@dataclasses.dataclass(frozen=True)
class Visit:
    """What the script reported, the pictures that it got, and those of Generate for the same seeds."""

    report: dict[str, Any]
    pictures: dict[str, NDArray[Any]]
    generated: list[bytes]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def visit(triton_python: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """The script's run against a server."""
    folder = tmp_path_factory.mktemp("tritonclient")
    np.savez(folder / "inputs.npz", **INPUTS)
    async with serving(tiny_models, "tiny") as server, connected(server) as channel:
        request = generation.GenerateRequest(model="tiny", seeds=SEEDS, format="IMAGE_FORMAT_RAW_UINT8")
        reply = await GenerationServiceStub(channel).Generate(request)
        files = (folder / "inputs.npz", folder / "outputs.npz")
        command = (triton_python, HERE / "tritonclient_script.py", server.address, "tiny", *files)
        script = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        printed, _ = await script.communicate()
    assert script.returncode == 0
    pictures = dict(np.load(folder / "outputs.npz"))
    return Visit(json.loads(printed), pictures, [picture.data for picture in reply.pictures])


@pytest.fixture(scope="module")
def expected(tiny_models: Path) -> dict[str, list[NDArray[Any]]]:
    """The same pictures, made in this process."""
    engine = open_engine(open_bundle(find_bundle("tiny", [tiny_models])), threads=1)
    rows = list(zip(SEEDS, INPUTS["psi"][:, 0], strict=True))
    requests = {
        "seed": [PictureRequest(seed=seed) for seed in SEEDS],
        "z": [PictureRequest(z=z) for z in INPUTS["z"]],
        "ws": [PictureRequest(ws=ws) for ws in INPUTS["ws"]],
        "psi": [PictureRequest(seed=seed, psi=psi) for seed, psi in rows],
        "noise": [PictureRequest(seed=seed, psi=psi, cutoff=2, noise_mode="none") for seed, psi in rows],
    }
    pictures = {name: [pixels.array for pixels in engine.run(rows)] for name, rows in requests.items()}
    pictures["float"] = [pixels.image_float for pixels in engine.run(requests["seed"])]
    engine.close()
    return pictures


def test_our_protocol_is_a_part_of_the_published_one(triton_python: Path) -> None:
    run = subprocess.run([triton_python, HERE / "protocol_shape.py"], check=True, capture_output=True, text=True)
    published = json.loads(run.stdout)
    ours = protocol_shape.shape_of([model_config_pb2.DESCRIPTOR, grpc_service_pb2.DESCRIPTOR])
    assert len(ours) > 40
    for name, members in ours.items():
        assert name in published
        for member, details in members.items():
            assert (name, member, details) == (name, member, published[name].get(member))


@pytest.mark.parametrize("source", ["seed", "z", "ws", "float", "psi", "noise"])
def test_tritonclient_gets_the_bytes_that_the_engine_makes(
    visit: Visit, expected: dict[str, list[NDArray[Any]]], source: str
) -> None:
    assert_array_equal(visit.pictures[source], expected[source], strict=True)


def test_tritonclient_gets_the_bytes_that_generate_gives(visit: Visit) -> None:
    assert [row.tobytes() for row in visit.pictures["seed"]] == visit.generated


@pytest.mark.parametrize("client", ["async", "aio"])
def test_every_kind_of_client_gets_the_same_bytes(visit: Visit, client: str) -> None:
    assert_array_equal(visit.pictures[client], visit.pictures["seed"], strict=True)


def test_tritonclient_finds_the_server_ready_with_its_extensions(visit: Visit) -> None:
    server = visit.report["server"]
    assert (server["live"], server["ready"], server["name"]) == (True, True, "impasto")
    assert "statistics" in server["extensions"]


def test_tritonclient_reads_metadata_and_configuration(visit: Visit) -> None:
    model = visit.report["model"]
    assert model["ready"] is True
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in model["metadata"]["inputs"]}
    assert inputs["seed"] == ("INT64", ["-1", "1"])
    assert inputs["ws"] == ("FP32", ["-1", "4", "4"])
    config = model["config"]
    assert (config["name"], config["max_batch_size"]) == ("tiny", 256)
    assert config["dynamic_batching"]["preferred_batch_size"] == [1, 2, 4, 8]
    assert {tensor["name"]: tensor["dims"] for tensor in config["output"]}["image"] == ["8", "8", "3"]


def test_tritonclient_reads_statistics(visit: Visit) -> None:
    statistics = visit.report["statistics"]
    assert (statistics["name"], statistics["version"]) == ("tiny", "1")
    # Generate's three, then seed 3, z 2, ws 2, float 3, async 3, psi 3 and noise 3.
    assert int(statistics["inference_count"]) == 22
    assert int(statistics["inference_stats"]["success"]["count"]) == 8
    batches = [(int(b["batch_size"]), int(b["compute_infer"]["count"])) for b in statistics["batch_stats"]]
    assert sum(size * count for size, count in batches) == 22


def test_tritonclient_unloads_and_loads_a_model(visit: Visit) -> None:
    assert visit.report["repository"] == {
        "loaded": ["READY", True],
        "unloaded": ["UNAVAILABLE", False],
        "loaded again": ["READY", True],
    }


@pytest.mark.parametrize(
    ("call", "status", "line"),
    [
        ("unknown model", "StatusCode.NOT_FOUND", "model: found no 'no-such-model'; there are: tiny"),
        ("negative seed", "StatusCode.INVALID_ARGUMENT", "inputs.seed[0]: found -1; allowed is an integer from 0"),
        ("unknown output", "StatusCode.INVALID_ARGUMENT", "outputs[0].name: found 'depth'; allowed is one of image"),
        ("no shared memory", "StatusCode.INVALID_ARGUMENT", "inputs.seed.parameters: found 'shared_memory_byte_size"),
        ("a sequence", "StatusCode.INVALID_ARGUMENT", "parameters: found 'sequence_"),
        ("no time", "StatusCode.DEADLINE_EXCEEDED", "deadline"),
        ("overridden configuration", "StatusCode.INVALID_ARGUMENT", "parameters: found 'config'; allowed is none"),
        ("no trace settings", "StatusCode.UNIMPLEMENTED", ""),
    ],
)
def test_tritonclient_gets_status_and_reason(visit: Visit, call: str, status: str, line: str) -> None:
    found, message = visit.report["errors"][call]
    assert found == status
    assert line in message
