"""The list of packed kernels agrees with the kernels and with what their launchers launch."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from impasto import kernels
from impasto.kernels import (
    ada_norm,
    aot,
    bias_act,
    demodulation,
    filtered_lrelu,
    geglu,
    group_norm_silu,
    guidance_rescale,
    modulated_conv,
    modulated_conv_up,
    philox_normal,
    sampler_step,
    styles,
    to_image,
    to_rgb,
    upfirdn,
)
from impasto.kernels.arguments import ceil_div
from impasto.kernels.epilogue import Epilogue
from impasto.kernels.modulated_conv import PackedWeight
from impasto.kernels.packing.spec import Spec
from impasto.kernels.sampler_row import COLUMNS
from impasto.kernels.sampler_step import Slots

N = 2
LAYERS = 18
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@functools.cache
def _specs() -> list[Spec]:
    return aot.packable()


def _function(spec: Spec) -> Any:
    file, name = spec.source.split(".")
    return getattr(importlib.import_module(f"impasto.kernels.{file}"), name)


def test_every_name_is_its_own_and_one_for_c() -> None:
    names = [spec.name for spec in _specs()]
    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in names)


def test_every_kernel_is_packed() -> None:
    sources = {file.stem: file.read_text() for file in Path(kernels.__file__).parent.glob("*.py")}
    launched = {file: re.findall(r"^@jit\ndef (_\w+_kernel)\(", text, re.MULTILINE) for file, text in sources.items()}
    assert {spec.source for spec in _specs()} == {
        f"{file}.{name}" for file, names in launched.items() for name in names
    }


def _named(expressions: Iterable[str]) -> set[str]:
    return set(re.findall(r"[a-z_]\w*", " ".join(expressions)))


def test_every_argument_has_a_type_or_a_value_and_a_grid_names_nothing_else() -> None:
    for spec in _specs():
        assert not spec.types.keys() & spec.constants.keys(), spec.name
        assert {*spec.types, *spec.constants} == set(_function(spec).arg_names), spec.name
        integers = {name for name, type_ in spec.types.items() if type_ == "i32"}
        assert _named(spec.grid) <= {"n", "layers", "ceil_div"} | integers, spec.name
        assert _named(spec.computed.values()) <= {"ceil_div"} | integers - set(spec.computed), spec.name
        assert {*spec.divisible, *spec.multiples, *spec.most} <= integers, spec.name


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a launcher launched."""

    grid: tuple[int, ...]
    values: dict[str, Any]
    num_warps: int
    num_stages: int
    enable_fp_fusion: bool


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Stands in for a kernel, and runs nothing."""

    source: str
    arg_names: list[str]
    launches: list[tuple[str, Launch]]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int = 4, num_stages: int = 3, **more: Any) -> None:
            fusion = more.pop("enable_fp_fusion", True)
            values = dict(zip(self.arg_names, arguments, strict=False)) | more
            self.launches.append((self.source, Launch((*grid, 1, 1)[:3], values, num_warps, num_stages, fusion)))

        return launch


def _type(value: Any) -> str | None:
    return TYPES[value.dtype] if isinstance(value, Tensor) else {int: "i32", float: "fp32"}.get(type(value))


def _value(expression: str, values: dict[str, Any]) -> Any:
    return eval(expression, {"ceil_div": ceil_div, "n": N, "layers": LAYERS}, values)


def _fits(launch: Launch, spec: Spec) -> bool:
    values = launch.values
    return (
        {name: values[name] for name in spec.constants} == dict(spec.constants)
        and {name: _type(values[name]) for name in spec.types} == dict(spec.types)
        and all(values[name] % 16 == 0 for name in spec.divisible)
        and all(values[name] % multiple == 0 for name, multiple in spec.multiples.items())
        and all(values[name] <= most for name, most in spec.most.items())
        and all(values[name] == _value(expression, values) for name, expression in spec.computed.items())
        and launch.grid == (*(_value(part, values) for part in spec.grid), 1, 1)[:3]
        and (launch.num_warps, launch.num_stages) == (spec.num_warps, spec.num_stages)
        and launch.enable_fp_fusion == spec.enable_fp_fusion
    )


def _tensor(*shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


HALF = functools.partial(_tensor, dtype=torch.float16)
LONG = functools.partial(_tensor, dtype=torch.int64)


def _step(dtype: torch.dtype, side: int, statistics: Tensor | None) -> None:
    latent = (4, side, side)
    slots = Slots(_tensor(8, *latent), _tensor(8, 3, *latent), _tensor(8, *latent))
    output = _tensor(2 * N, *latent, dtype=dtype)
    rows = _tensor(N, len(COLUMNS)), LONG(N, 5)
    sampler_step.sampler_step(slots, *rows, output, output, statistics=statistics)


def _layer(
    side: int, inputs: int, outputs: int, dtype: torch.dtype, up: str | None = None, precision: str = "tf32"
) -> None:
    folded = 4 if up == "folded" else 1
    weight = PackedWeight(_tensor(9, folded * outputs, inputs, dtype=dtype), inputs, outputs, up)
    out = side if up is None else 2 * side
    parts = Epilogue(_tensor(N, outputs), _tensor(N, out, out), _tensor(1), _tensor(outputs), clamp=256.0)
    x = _tensor(N, inputs, side, side, dtype=dtype, last=True)
    call = modulated_conv.modulated_conv if up is None else modulated_conv_up.modulated_conv_up
    call(x, weight, _tensor(N, inputs), parts, precision=precision)


def _filtered(dtype: torch.dtype, up: int, *down: int) -> None:
    x, bias = _tensor(N, 5, 36, 36, dtype=dtype), _tensor(5)
    filtered_lrelu.filtered_lrelu(x, bias, _tensor(6 * up), _tensor(*down), up=up, down=2, padding=(9, 9, 9, 9))


def _styles(inputs: int) -> None:
    sizes = (inputs, 32) * (LAYERS // 2)
    rows = _tensor(LAYERS, 4, dtype=torch.int32)
    styles.styles(_tensor(N, 18, 512), styles.Affines(_tensor(sum(sizes), 512), _tensor(sum(sizes)), rows, sizes))


RGB = _tensor(3, 512, 1, 1), _tensor(N, 512), _tensor(3)
F16, F32, BF16 = torch.float16, torch.float32, torch.bfloat16
CASES: dict[str, Callable[[], object]] = {
    "to_image": lambda: to_image.to_image(_tensor(N, 3, 512, 512)),
    "to_image, channels last": lambda: to_image.to_image(HALF(N, 3, 64, 64, last=True), F16),
    "bias_act": lambda: bias_act.bias_act(_tensor(N, 64, 64, 64), _tensor(64), clamp=2.0),
    "bias_act, channels last": lambda: bias_act.bias_act(HALF(N, 64, 32, 32, last=True), _tensor(64)),
    "philox_normal": lambda: philox_normal.philox_normal(LONG(N), LONG(N), LONG(N), 4096),
    "philox_words": lambda: philox_normal.philox_words(LONG(N), LONG(N), LONG(N), 4096),
    "guidance_statistics": lambda: guidance_rescale.guidance_statistics(
        _tensor(N, len(COLUMNS)), LONG(N, 5), HALF(4, 4, 64, 64)
    ),
    "sampler_step": lambda: _step(F16, 16, None),
    "sampler_step that rescales": lambda: _step(BF16, 64, _tensor(N, 4, 4)),
    "group_norm": lambda: group_norm_silu.group_norm_silu(
        HALF(N, 128, 16, 16), HALF(128), HALF(128), 32, activate=False
    ),
    "group_norm_silu, channels last": lambda: group_norm_silu.group_norm_silu(
        HALF(N, 512, 32, 32, last=True), HALF(512), HALF(512), 32
    ),
    "geglu": lambda: geglu.geglu(HALF(N, 7, 2560)),
    "ada_norm": lambda: ada_norm.ada_norm(HALF(N, 77, 1152), HALF(N, 1152), HALF(N, 1152)),
    "upfirdn": lambda: upfirdn.upfirdn(_tensor(N, 3, 64, 64), _tensor(4), up=2, padding=(2, 1)),
    "upfirdn, channels last": lambda: upfirdn.upfirdn(
        HALF(N, 128, 64, 64, last=True), _tensor(4), down=2, padding=(1, 1)
    ),
    "filtered_lrelu": lambda: _filtered(F16, 4, 12),
    "filtered_lrelu, radial": lambda: _filtered(BF16, 2, 4, 2, 12),
    "to_rgb": lambda: to_rgb.to_rgb(HALF(N, 512, 4, 4, last=True), *RGB),
    "to_rgb with a picture so far": lambda: to_rgb.to_rgb(HALF(N, 512, 8, 8, last=True), *RGB, _tensor(N, 3, 4, 4)),
    "styles": lambda: _styles(512),
    "styles of narrow layers": lambda: _styles(100),
    "demodulation": lambda: demodulation.demodulate(_tensor(N, 512), _tensor(256, 512)),
    "modulated_conv, split": lambda: _layer(4, 512, 512, F16),
    "modulated_conv, fp16": lambda: _layer(256, 128, 128, F16),
    "modulated_conv, tf32": lambda: _layer(1024, 32, 32, F32),
    "modulated_conv, fp32": lambda: _layer(32, 512, 512, F32, precision="ieee"),
    "modulated_conv_up, folded": lambda: _layer(4, 512, 512, F16, "folded"),
    "modulated_conv_up, transposed": lambda: _layer(512, 64, 32, BF16, "transposed"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_launcher_launches_is_packed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[tuple[str, Launch]] = []
    for source in {spec.source for spec in _specs()}:
        file, name = source.split(".")
        module = importlib.import_module(f"impasto.kernels.{file}")
        monkeypatch.setattr(module, name, Recorder(source, getattr(module, name).arg_names, launches))
    CASES[case]()
    assert launches
    for source, launch in launches:
        assert any(_fits(launch, spec) for spec in _specs() if spec.source == source), (source, launch)
