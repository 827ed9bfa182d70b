"""A GAN and a VAE served by a process that has no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import impasto
from tests.support.pictures import random_pixels

SCRIPT = """
import asyncio, hashlib, json, sys
import numpy as np
from impasto import AsyncClient
from tests.support.inference import connected, infer_request, output, seeds, serving
from tests.support.pictures import random_pixels
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub

async def main():
    models, = sys.argv[1:]
    async with serving(models, "gan", "vae", "vq") as server, connected(server) as channel:
        async with AsyncClient(server.address) as client:
            first, second = random_pixels(16, 16, 1), random_pixels(16, 16, 2)
            made = [
                *await client.generate("gan", seeds=[1, 2, 3], label=1, psi=0.7),
                *await client.generate("gan", z=np.linspace(-1, 1, 8)),
                *await client.generate("vae", seeds=4),
                *await client.generate("vae", image=first),
                *await client.generate("vae", image=first, image_to=second, blend=0.25),
                *await client.generate("vq", image=second),
                *await client.generate("vq", codes=np.arange(64).reshape(8, 8) % 16),
            ]
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        label, psi = np.ones((3, 1), np.int64), np.full((3, 1), 0.7, np.float32)
        oip = [
            *output(await infer(infer_request("gan", seed=seeds(1, 2, 3), label=label, psi=psi))),
            *output(await infer(infer_request("vae", image=first[None]))),
            *output(await infer(infer_request("vq", codes=np.arange(64).reshape(1, 8, 8) % 16))),
        ]
    heavy = sorted({"torch", "onnx", "onnxscript", "triton"} & set(sys.modules))
    pictures = [picture.array.tolist() for picture in made]
    print(json.dumps({"heavy": heavy, "pictures": pictures, "oip": np.stack(oip).tolist()}))

asyncio.run(main())
"""


def test_they_are_served_without_torch_with_the_bytes_that_they_have_in_process(family_models: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(family_models)], capture_output=True, text=True, check=True
    )
    served = json.loads(answer.stdout.splitlines()[-1])
    assert served["heavy"] == []
    first, second = random_pixels(16, 16, 1), random_pixels(16, 16, 2)
    expected = []
    with impasto.load(family_models / "gan" / "1", threads=1) as gan:
        expected += gan.generate(seeds=[1, 2, 3], label=1, psi=0.7) + gan.generate(z=np.linspace(-1, 1, 8))
    with impasto.load(family_models / "vae" / "1", threads=1) as vae:
        expected += vae.generate(seeds=4) + vae.generate(image=first)
        expected += vae.generate(image=first, image_to=second, blend=0.25)
    with impasto.load(family_models / "vq" / "1", threads=1) as vq:
        expected += vq.generate(image=second) + vq.generate(codes=np.arange(64).reshape(1, 8, 8) % 16)
    pictures = [picture.array for picture in expected]
    np.testing.assert_array_equal(np.asarray(served["pictures"], np.uint8), pictures)
    np.testing.assert_array_equal(np.asarray(served["oip"], np.uint8), [*pictures[:3], pictures[5], pictures[8]])
