"""What a user of `tritonclient` asks of a diffusion model: tritonclient_diffusion_script.py ADDRESS MODEL FILE"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype


def main(address: str, model: str, file: str) -> None:
    with triton.InferenceServerClient(address) as client:
        np.savez(
            file,
            bytes=infer(client, model, texts(b"night", "★".encode())),
            strings=infer(client, model, texts("night", "★")),
        )


def texts(*values: str | bytes) -> NDArray[np.object_]:
    return np.array(values, np.object_).reshape(-1, 1)


def infer(client: triton.InferenceServerClient, model: str, prompts: NDArray[np.object_]) -> NDArray[Any]:
    tensors = {
        "seed": np.array([[5], [6]], np.int64),
        "prompt": prompts,
        "steps": np.array([[2], [3]], np.int32),
        "guidance_scale": np.array([[4.5], [1.0]], np.float32),
        "sampler": texts("ddim", "ddim"),
    }
    inputs = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array))
    parameters = {"eta": 0.25, "noise": "torch"}
    return client.infer(model, inputs, parameters=parameters).as_numpy("image")


if __name__ == "__main__":
    main(*sys.argv[1:])
