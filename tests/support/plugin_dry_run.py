"""The Python half of a plugin, as TensorRT runs it when it builds a plan, with numbers for the dimensions.

NVIDIA's own classes call what `impasto.export.plugins` registers; only expressions of dimensions stand here, since real
ones come from a builder. This module must be imported before `tensorrt.plugin`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import tensorrt as trt

OPERATIONS = {
    "SUM": lambda a, b: a + b,
    "SUB": lambda a, b: a - b,
    "PROD": lambda a, b: a * b,
    "MAX": max,
    "MIN": min,
    "EQUAL": lambda a, b: int(a == b),
    "LESS": lambda a, b: int(a < b),
    "FLOOR_DIV": lambda a, b: a // b,
    "CEIL_DIV": lambda a, b: -(-a // b),
}


class Dimension:
    """An expression whose value is known."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        """Always."""
        return True

    def is_size_tensor(self) -> bool:
        """Never."""
        return False

    def get_constant_value(self) -> int:
        """The value."""
        return self.value


class Shape(list[Any]):
    """Expressions of a tensor's dimensions; so many empty places, or those given."""

    def __init__(self, given: int | Sequence[Any] = 0) -> None:
        super().__init__([None] * given if isinstance(given, int) else given)


class Arithmetic:
    """Makes expressions."""

    def constant(self, value: int) -> Dimension:
        """A number."""
        return Dimension(value)

    def operation(self, operation: Any, a: Dimension, b: Dimension) -> Dimension:
        """Of two expressions."""
        return Dimension(OPERATIONS[operation.name](a.value, b.value))


class Extras(dict[int, Any]):
    """Where a launch puts its integers."""

    nbSymExprs = 0  # the name is TensorRT's


trt.IDimensionExpr, trt.DimsExprs, trt.ISymExpr = Dimension, Shape, type("ISymExpr", (), {})


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What TensorRT would allocate and launch."""

    outputs: list[tuple[list[int], str]]
    """Shape and type of each output."""
    grid: list[int]
    threads: int
    shared: int
    extras: list[int]
    symbol: str
    parameters: list[str]
    """Types of the kernel's parameters, from its PTX."""
    required_threads: int
    target: str
    version: str
    tensor_memory: bool
    """Whether the PTX names any."""


def dry_run(plugin: str, inputs: Sequence[tuple[Sequence[int], str]], **attributes: int | float) -> DryRun:
    """Run plugin "impasto::NAME" for inputs of these shapes and types, such as "HALF"."""
    importlib.import_module("impasto.export.plugins")
    internals = importlib.import_module("tensorrt.plugin").aot_impl.__module__.rpartition(".")[0]
    registered = importlib.import_module(f"{internals}._lib").QDP_REGISTRY[plugin]
    made = importlib.import_module(f"{internals}._plugin_class")._TemplateAOTPlugin(
        plugin.partition("::")[2], plugin.partition("::")[0], registered.num_outputs
    )
    made.init(
        registered.register_func,
        attributes,
        registered.aot_impl_attr_names,
        registered.aot_impl_func,
        registered.autotune_attr_names,
        registered.autotune_func,
    )
    types = [trt.DataType.__members__[name] for _, name in inputs]
    out_types = made.get_output_data_types(types, [len(shape) for shape, _ in inputs])
    expressions = [Shape([Dimension(side) for side in shape]) for shape, _ in inputs]
    shapes = [[side.value for side in shape] for shape in made.get_output_shapes(expressions, [], Arithmetic())]
    outputs = list(zip(shapes, out_types, strict=True))
    described = [
        _described(shape, kind) for shape, kind in [*zip((s for s, _ in inputs), types, strict=True), *outputs]
    ]
    made.get_supported_format_combinations(described, len(inputs))
    made.set_tactic(0)
    launch, extras = SimpleNamespace(), Extras()
    made.get_launch_params(expressions, described, len(inputs), launch, extras, Arithmetic())
    plain = [each.desc for each in described]
    symbol, code = made.get_kernel(plain[: len(inputs)], plain[len(inputs) :])
    return DryRun(
        [(shape, kind.name) for shape, kind in outputs],
        [_value(launch.grid_x), _value(launch.grid_y), _value(launch.grid_z)],
        _value(launch.block_x),
        _value(launch.shared_mem),
        [_value(extras[index]) for index in range(extras.nbSymExprs)],
        symbol if isinstance(symbol, str) else symbol.decode(),
        **_read(code.decode() if isinstance(code, bytes) else code, symbol),
    )


def _described(shape: Sequence[int], kind: Any) -> Any:
    plain = trt.PluginTensorDesc()
    plain.dims, plain.type, plain.format = tuple(shape), kind, trt.TensorFormat.LINEAR
    described = trt.DynamicPluginTensorDesc()
    described.desc = plain
    described.min = described.opt = described.max = tuple(shape)
    return described


def _value(expression: Any) -> int:
    return int(expression.expr.value)


def _read(ptx: str, symbol: Any) -> dict[str, Any]:
    name = symbol if isinstance(symbol, str) else symbol.decode()
    head = ptx.split(f".entry {name}(", 1)[1].split(")", 1)[0]
    threads = re.search(r"\.reqntid (\d+)", ptx)
    return {
        "parameters": re.findall(r"\.param\s+\.(\w+)", head),
        "required_threads": int(threads[1]) if threads else 0,
        "target": _found(r"\.target (\w+)", ptx),
        "version": _found(r"\.version ([\d.]+)", ptx),
        "tensor_memory": "tcgen05" in ptx,
    }


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match
    return match[1]
