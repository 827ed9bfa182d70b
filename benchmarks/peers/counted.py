"""Run a module with its onnxruntime counted: python -m benchmarks.peers.counted FOLDER MODULE ARGUMENTS.."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from benchmarks.peers.model_cpu import count_model_cpu

if __name__ == "__main__":
    count_model_cpu(Path(sys.argv[1]))
    module = sys.argv[2]
    sys.argv[:] = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
