"""Tests that need a card: TRITON_INTERPRET=0 python -m pytest tests/gpu"""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _a_card() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("kernels would run in Triton's interpreter; set TRITON_INTERPRET=0")
