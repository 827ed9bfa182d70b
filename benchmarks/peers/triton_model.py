"""The model that NVIDIA Triton's python backend loads: a batch of requests through onnxruntime."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# The backend's interpreter reads no PYTHONPATH: what is imported after this line is found through PEER_PATH.
sys.path[:0] = os.environ["PEER_PATH"].split(os.pathsep)

import numpy as np  # noqa: E402
import triton_python_backend_utils as backend  # noqa: E402

from benchmarks.peers.graphs import Graphs  # noqa: E402
from benchmarks.peers.model_cpu import count_model_cpu  # noqa: E402


class TritonPythonModel:
    """One instance: Triton runs as many as the configuration says, each in a process."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        count_model_cpu(Path(parameters["count_into"]["string_value"]))
        self._graphs = Graphs(Path(parameters["bundle"]["string_value"]), threads=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """A batch that Triton formed; the seeds of each request are [N, 1]."""
        seeds = [backend.get_input_tensor_by_name(request, "seed").as_numpy()[:, 0] for request in requests]
        pictures = self._graphs.pictures(np.concatenate(seeds))
        parts = np.split(pictures, np.cumsum([len(rows) for rows in seeds])[:-1])
        return [backend.InferenceResponse([backend.Tensor("image", part)]) for part in parts]
