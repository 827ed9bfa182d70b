"""Ray Serve with its gRPC proxy and `@serve.batch`, for the Open Inference Protocol: run in Ray's own environment.

python ray_app.py BUNDLE PORT REPLICAS COUNT_INTO
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions

from benchmarks.peers.graphs import Graphs
from benchmarks.peers.model_cpu import count_model_cpu
from impasto.api.inference import grpc_service_pb2 as pb

MAX_BATCH = 8
ADD_SERVICER = "impasto.api.inference.grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


class Starry:
    """A replica: one session on one core, batches of what waits."""

    def __init__(self, bundle: str, count_into: str) -> None:
        count_model_cpu(Path(count_into))
        self._graphs = Graphs(Path(bundle), threads=1)

    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        return pb.ModelMetadataResponse(name=request.name, versions=["1"])

    async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        pictures = await self._made(np.frombuffer(request.raw_input_contents[0], "<i8"))
        reply = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        reply.outputs.add(name="image", datatype="UINT8", shape=pictures.shape)
        reply.raw_output_contents.append(pictures.tobytes())
        return reply

    # Waiting for more requests pays only where nothing else makes batches; here the batch before it does.
    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _made(self, seeds: list[NDArray[np.int64]]) -> list[NDArray[np.uint8]]:
        # In a thread: the replica takes requests while a batch runs.
        pictures = await asyncio.to_thread(self._graphs.pictures, np.concatenate(seeds))
        return np.split(pictures, np.cumsum([len(rows) for rows in seeds])[:-1])


def main(bundle: str, port: str, replicas: str, count_into: str) -> None:
    """Serve until SIGTERM."""
    ray.init(num_cpus=int(replicas), include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=int(port) + 1),
        grpc_options=gRPCOptions(port=int(port), grpc_servicer_functions=[ADD_SERVICER]),
    )
    deployment = serve.deployment(
        Starry, num_replicas=int(replicas), max_ongoing_requests=256, ray_actor_options={"num_cpus": 1}
    )
    serve.run(deployment.bind(bundle, count_into), name="starry")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    # sigwait needs the signals blocked before any thread starts.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(*sys.argv[1:])
