"""Arguments of modulated convolutions, and what comes out in float64."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from impasto.kernels import demodulation, epilogue, modulated_conv
from impasto.kernels.epilogue import Epilogue

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TRITON_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
EPILOGUE_SIGNATURE = dict.fromkeys(("demodulation", "noise", "strength", "bias"), "*fp32") | {"noise_stride": "i32"}
TENSOR_CORES = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
"""The matrix instruction by compute capability."""


@dataclasses.dataclass(frozen=True)
class Case:
    """x [N, I, H, W] channels-last, weight [O, I, k, k], styles [N, I], and every part of the epilogue."""

    x: Tensor
    weight: Tensor
    styles: Tensor
    epilogue: Epilogue

    def row(self, index: int) -> Case:
        """The case of one sample."""
        rows = slice(index, index + 1)
        factors, noise = self.epilogue.demodulation, self.epilogue.noise
        assert factors is not None
        assert noise is not None
        parts = dataclasses.replace(self.epilogue, demodulation=factors[rows], noise=noise[rows])
        return dataclasses.replace(self, x=self.x[rows], styles=self.styles[rows], epilogue=parts)

    def expected(self, up: str | None = None) -> Tensor:
        """The output in float64."""
        x, weight, styles = self.x.double(), self.weight.double(), self.styles.double()
        demodulated = self.epilogue.demodulation is not None
        sums = modulated_conv.reference(x, weight, styles, demodulate=demodulated, up=up)
        return epilogue.reference(sums, dataclasses.replace(self.epilogue, demodulation=None))


def make_case(
    n: int, inputs: int, outputs: int, height: int, width: int, dtype: torch.dtype, *, size: int = 3, up: int = 1
) -> Case:
    """A case whose x, styles and weight are exact in `dtype`, the weight even when folded."""
    torch.manual_seed(n + 10 * inputs + 100 * height)
    x = torch.randn(n, inputs, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-2, 3, (outputs, inputs, size, size)) / 2.0
    weight[:, 0, 0, 0] = 1.0
    styles = (0.5 + torch.rand(n, inputs)).to(dtype).float()
    factors = demodulation.demodulate(styles, modulated_conv.squared_weights(weight))
    noise = torch.randn(n, up * height, up * width)
    return Case(x, weight, styles, Epilogue(factors, noise, torch.tensor(0.3), torch.randn(outputs), clamp=4.0))
