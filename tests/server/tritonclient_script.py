"""What a user of `tritonclient` does: python tritonclient_script.py ADDRESS MODEL inputs.npz outputs.npz

Prints a report as JSON, and keeps the pictures that it got in the last file.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Arrays = dict[str, NDArray[Any]]


def main(address: str, model: str, inputs: str, outputs: str) -> None:
    tensors = dict(np.load(inputs))
    pictures: Arrays = {}
    with triton.InferenceServerClient(address) as client:
        report = {"server": server(client), "model": described(client, model), "errors": errors(client, model)}
        for source in ("seed", "z", "ws"):
            pictures[source] = infer(client, model, **{source: tensors[source]})
        pictures["float"] = infer(client, model, output="image_float", seed=tensors["seed"])
        pictures["async"] = infer_with_callback(client, model, tensors["seed"])
        truncated = {name: tensors[name] for name in ("seed", "psi")}
        pictures["psi"] = infer(client, model, **truncated)
        pictures["noise"] = infer(client, model, parameters={"noise_mode": "none", "psi_cutoff": 2}, **truncated)
        report["statistics"] = client.get_inference_statistics(model, as_json=True)["model_stats"][0]
        report["repository"] = repository(client, model)
    pictures["aio"] = asyncio.run(infer_aio(address, model, tensors["seed"]))
    np.savez(outputs, **pictures)
    print(json.dumps(report))


def infer_inputs(arrays: Arrays) -> list[triton.InferInput]:
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    return inputs


def infer(
    client: triton.InferenceServerClient,
    model: str,
    output: str = "image",
    parameters: dict[str, Any] | None = None,
    **arrays: NDArray[Any],
) -> NDArray[Any]:
    wanted = [triton.InferRequestedOutput(output)]
    options = {"priority": 1, "timeout": 60_000_000, "parameters": parameters}
    return client.infer(model, infer_inputs(arrays), outputs=wanted, request_id="7", **options).as_numpy(output)


def infer_with_callback(client: triton.InferenceServerClient, model: str, seed: NDArray[Any]) -> NDArray[Any]:
    answers: queue.SimpleQueue[tuple[triton.InferResult | None, Exception | None]] = queue.SimpleQueue()
    client.async_infer(model, infer_inputs({"seed": seed}), lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=60)
    if result is None:
        raise RuntimeError("async_infer failed") from error
    return result.as_numpy("image")


async def infer_aio(address: str, model: str, seed: NDArray[Any]) -> NDArray[Any]:
    """One row a call, all at the same time."""
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_model_ready(model)
        calls = [client.infer(model, infer_inputs({"seed": seed[i : i + 1]})) for i in range(len(seed))]
        results = await asyncio.gather(*calls)
    return np.concatenate([result.as_numpy("image") for result in results])


def server(client: triton.InferenceServerClient) -> dict[str, Any]:
    metadata = client.get_server_metadata(as_json=True)
    return {"live": client.is_server_live(), "ready": client.is_server_ready(), **metadata}


def described(client: triton.InferenceServerClient, model: str) -> dict[str, Any]:
    return {
        "ready": client.is_model_ready(model),
        "metadata": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True)["config"],
    }


def repository(client: triton.InferenceServerClient, model: str) -> dict[str, list[Any]]:
    """The model's state and readiness before and after it is unloaded, and after it is loaded again."""

    def state() -> list[Any]:
        index = client.get_model_repository_index(as_json=True)["models"]
        return [next(entry["state"] for entry in index if entry["name"] == model), client.is_model_ready(model)]

    states = {"loaded": state()}
    client.unload_model(model)
    states["unloaded"] = state()
    client.load_model(model)
    states["loaded again"] = state()
    return states


def errors(client: triton.InferenceServerClient, model: str) -> dict[str, list[str | None]]:
    """Status and message of calls that cannot be answered."""
    one = np.array([[1]], np.int64)
    shared = triton.InferInput("seed", [1, 1], "INT64")
    shared.set_shared_memory("frames", 8)
    calls: dict[str, Callable[[], object]] = {
        "unknown model": lambda: infer(client, "no-such-model", seed=one),
        "negative seed": lambda: infer(client, model, seed=-one),
        "unknown output": lambda: infer(client, model, output="depth", seed=one),
        "no shared memory": lambda: client.infer(model, [shared]),
        "a sequence": lambda: client.infer(model, infer_inputs({"seed": one}), sequence_id=5),
        "no time": lambda: client.infer(model, infer_inputs({"seed": one}), timeout=1),
        "overridden configuration": lambda: client.load_model(model, config="{}"),
        "no trace settings": client.get_trace_settings,
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except InferenceServerException as error:
            found[name] = [error.status(), error.message()]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
