"""A module that stands for TensorRT: it records what is set, and a plan of it says what it was built from.

Its enumerations are those of the project's stub, typings/tensorrt, so that no test names one that mypy does not know.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

STUB = Path(__file__).parents[2] / "typings" / "tensorrt" / "__init__.pyi"


@dataclasses.dataclass
class World:
    """What happens in a test, and what was seen in it."""

    parser_errors: tuple[tuple[str, str, str], ...] = ()
    """Of each: node, operator, message."""
    fails: bool = False
    """Whether nothing can be built."""
    loads: bool = True
    known_cache: bytes = b""
    """The only timing cache that fits."""
    steps: int = 2
    configs: list[Any] = dataclasses.field(default_factory=list)
    runtimes: list[Any] = dataclasses.field(default_factory=list)
    refits: bool = True


def make(world: World) -> ModuleType:
    """The module."""
    module: Any = ModuleType("tensorrt")
    module.__version__ = "11.4.0.106"
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Enum" for base in node.bases):
            setattr(module, node.name, _enumeration(node))
    severities = enum.Enum("Severity", "ERROR INFO INTERNAL_ERROR VERBOSE WARNING")  # type: ignore[misc]
    module.ILogger = type("ILogger", (), {"Severity": severities})
    module.IProgressMonitor = type("IProgressMonitor", (), {})
    module.Builder = lambda log: _Builder(world, log, module)
    module.OnnxParser = lambda network, log: _Parser(world, network)
    module.Runtime = lambda log: _Runtime(world)
    module.Refitter = lambda engine, log: _Refitter(world, engine)
    module.OnnxParserRefitter = lambda refitter, log: _ParserRefitter(refitter)
    for name in ("IBuilderConfig", "ICudaEngine", "IExecutionContext", "INetworkDefinition", "IOptimizationProfile"):
        setattr(module, name, object)
    return module


def _enumeration(node: ast.ClassDef) -> Any:
    names = [ast.unparse(line.targets[0]) for line in node.body if isinstance(line, ast.Assign)]
    return enum.Enum(node.name, names)  # type: ignore[misc]


@dataclasses.dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.inputs: list[_Tensor] = []
        self.graph = b""

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> _Tensor:
        return self.inputs[index]


class _Parser:
    def __init__(self, world: World, network: _Network) -> None:
        self._errors = world.parser_errors
        self._network = network

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        node, operator, message = self._errors[index]
        functions = {"node_name": lambda: node, "node_operator": lambda: operator, "desc": lambda: message}
        return type("ParserError", (), {name: staticmethod(function) for name, function in functions.items()})

    def parse(self, model: bytes, path: str | None = None) -> bool:
        self._network.graph = model
        for value in onnx.load_from_string(model).graph.input:
            dims = value.type.tensor_type.shape.dim
            self._network.inputs.append(_Tensor(value.name, tuple(dim.dim_value or -1 for dim in dims)))
        return not self._errors


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Sequence[int], ...]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        self.shapes[input] = (min, opt, max)


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return b"timed after " + self.content


class _Config:
    progress_monitor: Any = None

    def __init__(self, world: World) -> None:
        self._world = world
        self.flags: set[str] = {"TF32"}
        self.pools: dict[str, int] = {}
        self.profiles: list[_Profile] = []
        self.cache: _Cache | None = None

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool.name] = size

    def create_timing_cache(self, content: bytes) -> _Cache:
        return _Cache(content)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content not in (b"", self._world.known_cache):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> _Cache | None:
        return self.cache


class _Builder:
    def __init__(self, world: World, log: Any, module: Any) -> None:
        self._world, self._log, self._module = world, log, module

    def create_network(self, flags: int = 0) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        self._world.configs.append(_Config(self._world))
        return self._world.configs[-1]  # type: ignore[no-any-return]

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building", "", self._world.steps)
        for step in range(self._world.steps):
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        if self._world.fails:
            self._log.log(self._module.ILogger.Severity.ERROR, "no tactic")
            return None
        return b"plan of " + network.graph


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, world: World) -> None:
        self._world = world
        world.runtimes.append(self)

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return _Engine(plan) if self._world.loads else None


class _Engine:
    def __init__(self, plan: bytes) -> None:
        self.plan = plan

    def create_engine_inspector(self) -> Any:
        return type("Inspector", (), {"get_engine_information": lambda self, kind: f'{{"Format": "{kind.name}"}}'})()

    def serialize(self) -> bytes:
        return self.plan


class _Refitter:
    def __init__(self, world: World, engine: _Engine) -> None:
        self._world = world
        self.engine = engine

    def refit_cuda_engine(self) -> bool:
        return self._world.refits


class _ParserRefitter:
    def __init__(self, refitter: _Refitter) -> None:
        self._refitter = refitter

    def refit_from_bytes(self, model: bytes, path: str | None = None) -> bool:
        self._refitter.engine.plan = b"plan of " + model
        return True


class FakeContext:
    """An execution context: `enqueue` is called with the tensors' addresses."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        rows = next(iter(self.shapes.values()))[0]
        return self.shapes.get(name) or (rows, *self.engine.tensors[name][1][1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        return self.engine.enqueue(self)


class FakeEngine:
    """An engine of `tensors`: by name, mode, shape with a free batch of -1, and type."""

    def __init__(
        self,
        module: Any,
        tensors: dict[str, tuple[str, tuple[int, ...], str]],
        enqueue: Callable[[FakeContext], bool],
        memory: tuple[int, ...] = (64, 256),
    ) -> None:
        self.tensors = tensors
        self.enqueue = enqueue
        self.contexts: list[FakeContext] = []
        self._module = module
        self._memory = memory

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._module.TensorIOMode[self.tensors[name][0]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._module.DataType[self.tensors[name][2]]

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return self._memory[index]

    def create_execution_context(self, strategy: Any) -> FakeContext:
        assert strategy.name == "USER_MANAGED"
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]
