"""A StyleGAN2 bundle's two graphs with onnxruntime alone, as somebody would run them who has no Impasto.

The peers run this file inside their own processes: it imports numpy and onnxruntime and nothing of Impasto.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class Graphs:
    """Seeds to uint8 pictures [N, H, W, 3], one batch at a time on `threads` cores."""

    def __init__(self, bundle: Path, threads: int) -> None:
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        config, defaults = manifest["config"], manifest["defaults"]
        self._z_dim: int = config["z_dim"]
        self._mapping = _session(bundle / "mapping.onnx", threads)
        self._synthesis = _session(bundle / "synthesis.onnx", threads)
        num_ws = 2 * int(np.log2(config["resolution"])) - 2
        self._psi = np.full((1, num_ws), defaults.get("psi", 1.0), np.float32)
        self._noise = stored_noise(bundle / "weights.safetensors", config["resolution"])[None]

    def pictures(self, seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pictures of seeds [N]."""
        z = np.stack([np.random.RandomState(seed).randn(self._z_dim).astype(np.float32) for seed in seeds])
        rows = len(seeds)
        ws = self._mapping.run(None, {"z": z, "psi": np.repeat(self._psi, rows, axis=0)})[0]
        noise = np.repeat(self._noise, rows, axis=0)
        image = self._synthesis.run(None, {"ws": ws, "noise": noise})[0].transpose(0, 2, 3, 1)
        image *= np.float32(127.5)
        image += np.float32(128)
        return np.ascontiguousarray(np.clip(image, 0, 255, out=image).astype(np.uint8))


def stored_noise(weights: Path, resolution: int) -> NDArray[np.float32]:
    """The noise maps that lie with the weights, in the layers' order as one row [noise_size]."""
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    rows = []
    for level in range(2, int(np.log2(resolution)) + 1):
        for layer in ("conv0", "conv1") if level > 2 else ("conv1",):
            entry = header[f"synthesis.b{2**level}.{layer}.noise_const"]
            start, end = entry["data_offsets"]
            dtype = {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]
            rows.append(np.frombuffer(data[8 + length :][start:end], dtype).astype(np.float32))
    return np.concatenate(rows)


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
