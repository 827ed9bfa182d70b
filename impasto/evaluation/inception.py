"""Inception v3 as FID, KID and IS use it (Szegedy et al. 2016, "Rethinking the Inception architecture").

The names of the parameters, and where it departs from the paper, are those of the published PyTorch conversion of the
network of 5 December 2015 that TensorFlow's scores are computed with: 1008 classes; average pooling that leaves the
padding out of the mean; and in the last block maximum pooling in its place. The weights are the user's to fetch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from impasto.errors import CheckpointError

SIDE = 299
NUM_FEATURES = 2048
CLASSES = 1008
WHERE = (
    "pt_inception-2015-12-05-6726825d.pth, 91 MB, from the release fid_weights of github.com/mseitzer/pytorch-fid "
    "(github.com/toshas/torch-fidelity has the same as weights-inception-2015-12-05-6726825d.pth)"
)
"""Which weights, and where they are to be had."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Of N pictures: `pool` [N, 2048], which FID and KID compare; `logits` [N, 1008] without bias, which IS takes."""

    pool: Tensor
    logits: Tensor


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, stride: int = 1, padding: bool = True
    ):
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = (sides[0] // 2, sides[1] // 2) if padding else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, around, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class InceptionA(nn.Module):
    """35×35: 1×1, 5×5, two 3×3, pooling."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = Conv(inputs, 64)
        self.branch5x5_1 = Conv(inputs, 48)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(inputs, 64)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(inputs, pooled)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(_mean_pool(x))], dim=1)


class InceptionB(nn.Module):
    """35×35 to 17×17."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, 2, padding=False)
        self.branch3x3dbl_1 = Conv(inputs, 64)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2, padding=False)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)], dim=1)


class InceptionC(nn.Module):
    """17×17: 7×7 as rows and columns, of `middle` channels."""

    def __init__(self, middle: int):
        super().__init__()
        self.branch1x1 = Conv(768, 192)
        self.branch7x7_1 = Conv(768, middle)
        self.branch7x7_2 = Conv(middle, middle, (1, 7))
        self.branch7x7_3 = Conv(middle, 192, (7, 1))
        self.branch7x7dbl_1 = Conv(768, middle)
        self.branch7x7dbl_2 = Conv(middle, middle, (7, 1))
        self.branch7x7dbl_3 = Conv(middle, middle, (1, 7))
        self.branch7x7dbl_4 = Conv(middle, middle, (7, 1))
        self.branch7x7dbl_5 = Conv(middle, 192, (1, 7))
        self.branch_pool = Conv(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_mean_pool(x))], dim=1)


class InceptionD(nn.Module):
    """17×17 to 8×8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(768, 192)
        self.branch3x3_2 = Conv(192, 320, 3, 2, padding=False)
        self.branch7x7x3_1 = Conv(768, 192)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, 2, padding=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), wide, functional.max_pool2d(x, 3, 2)], dim=1)


class InceptionE(nn.Module):
    """8×8: 3×3 as a row beside a column. `last` pools by the maximum."""

    def __init__(self, inputs: int, *, last: bool):
        super().__init__()
        self.last = last
        self.branch1x1 = Conv(inputs, 320)
        self.branch3x3_1 = Conv(inputs, 384)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(inputs, 448)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(inputs, 192)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, 1, 1) if self.last else _mean_pool(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(parts, dim=1)


class Inception(nn.Module):
    """Pictures uint8 [N, 3, H, W] of any size to `Features`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, padding=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padding=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padding=False)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(128)
        self.Mixed_6c = InceptionC(160)
        self.Mixed_6d = InceptionC(160)
        self.Mixed_6e = InceptionC(192)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b = InceptionE(1280, last=False)
        self.Mixed_7c = InceptionE(2048, last=True)
        self.fc = nn.Linear(NUM_FEATURES, CLASSES)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Features:
        x = (bilinear_2015(pictures.float(), SIDE) - 128.0) / 128.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        pool = x.mean(dim=(2, 3))
        return Features(pool, functional.linear(pool, self.fc.weight))


def bilinear_2015(pictures: Tensor, side: int) -> Tensor:
    """Scale [N, C, H, W] to side² as TensorFlow did then: output i is taken at i·H/side, whichever way, unfiltered.

    The scores' reference implementation scales so, and other scaling changes them.
    """
    for dim in (2, 3):
        length = pictures.shape[dim]
        places = torch.arange(side, dtype=torch.float64) * (length / side)
        lower = places.floor().long()
        upper = (lower + 1).clamp(max=length - 1)
        shape = [1, 1, 1, 1]
        shape[dim] = side
        part = (places - lower).to(pictures.dtype).reshape(shape)
        below, above = pictures.index_select(dim, lower), pictures.index_select(dim, upper)
        pictures = below + part * (above - below)
    return pictures


def load_inception(path: Path) -> Inception:
    """The network with the weights of a .pth or .safetensors file. CheckpointError if it is not that file."""
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        network = Inception()
        lacking, unknown = network.load_state_dict(tensors, strict=False)
    except OSError:
        raise
    except Exception as error:
        # A file of another kind can raise nearly anything from torch's reader: UnpicklingError, KeyError, EOFError.
        raise CheckpointError(f"inception: {path} holds no weights of it; allowed is {WHERE}") from error
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
    if lacking or unknown:
        found = f"{len(lacking)} tensors lacking and {len(unknown)} unknown"
        raise CheckpointError(f"inception: {path}: found {found}; allowed is {WHERE}")
    return network.eval().requires_grad_(False)


def _mean_pool(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
