"""Requests of the Open Inference Protocol, and a server to send them to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from impasto.api.inference import grpc_service_pb2 as pb
from impasto.server.config import ServerConfig
from impasto.server.server import Server

DATATYPES = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "object": "BYTES", "uint8": "UINT8"}
DTYPES = {datatype: np.dtype(dtype) for dtype, datatype in DATATYPES.items()}


@asynccontextmanager
async def serving(models: Path, *names: str, **settings: Any) -> AsyncIterator[Server]:
    """A server of these models on a free port."""
    settings = {"listen": "127.0.0.1:0", "metrics_listen": None, "models": (models,), "load": names, **settings}
    async with Server(ServerConfig(**settings)) as server:
        yield server


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the server, for replies of any size."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.address, options) as channel:
        yield channel


def infer_request(model: str = "tiny", /, **inputs: Any) -> pb.ModelInferRequest:
    """A request with these tensors as raw contents; arrays of bytes objects are BYTES."""
    request = pb.ModelInferRequest(model_name=model)
    for name, values in inputs.items():
        array = np.asarray(values)
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(_with_lengths(array) if array.dtype.hasobject else array.tobytes())
    return request


def _with_lengths(elements: NDArray[Any]) -> bytes:
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements.flat)


def seeds(*values: int) -> NDArray[np.int64]:
    """The tensor `seed` [N, 1]."""
    return np.array(values, np.int64).reshape(-1, 1)


def output(response: pb.ModelInferResponse, name: str = "image") -> NDArray[Any]:
    """A tensor of the response."""
    index = [tensor.name for tensor in response.outputs].index(name)
    tensor = response.outputs[index]
    values = np.frombuffer(response.raw_output_contents[index], DTYPES[tensor.datatype])
    return values.reshape(tuple(tensor.shape))
