"""TensorRT's builder: from an ONNX graph to a plan for the GPU at hand (TensorRT 11).

Every network is strongly typed: it computes in what the graph says. A profile is one batch size, so that each bucket
has tactics of its own, chosen for it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import SupportsInt

import tensorrt as trt
import torch

from impasto.errors import Cancelled, ExportError
from impasto.export.plan_store import BuildOptions, Hardware, Plan, Target, cache_folder, write_whole
from impasto.export.plans import Report, structure_of

_HARDWARE: dict[Hardware, trt.HardwareCompatibilityLevel] = {
    "this gpu": trt.HardwareCompatibilityLevel.NONE,
    "same compute capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    "ampere and later": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
}

log = logging.getLogger(__name__)


class Log(trt.ILogger):
    """TensorRT's messages to this package's log; `errors` keeps what went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self.errors.append(msg)
            log.error("%s", msg)
        elif severity == trt.ILogger.Severity.WARNING:
            log.warning("%s", msg)
        else:
            log.debug("%s", msg)


class Progress(trt.IProgressMonitor):
    """Tells how far a build is, and ends it when nobody wants it any more."""

    def __init__(self, report: Report, cancelled: Callable[[], bool]) -> None:
        super().__init__()
        self._report = report
        self._cancelled = cancelled
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: SupportsInt) -> None:
        """Called by TensorRT."""
        self._steps[phase_name] = int(num_steps)

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """Called by TensorRT; whether to go on."""
        done = int(step) + 1
        self._report(f"{phase_name}: {done} of {self._steps.get(phase_name, done)}")
        return not self._cancelled()

    def phase_finish(self, phase_name: str) -> None:
        """Called by TensorRT."""
        self._steps.pop(phase_name, None)


class TensorRTBuilder:
    """Builds for one CUDA device. `impasto.export.plans.open_builder` checks first that all is there."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self.target = target_of(self._device)

    def build(
        self,
        graph: bytes,
        path: Path,
        profile: tuple[int, ...],
        options: BuildOptions,
        report: Report,
        cancelled: Callable[[], bool],
    ) -> Plan:
        """A plan with a profile for each batch size. Cancelled soon after `cancelled` says so; ExportError."""
        if options.plugins:
            from impasto.export import plugins

            portable = options.hardware == "ampere and later"
            plugins.compile_for(80 if portable else int(self.target.compute_capability.replace(".", "")))
        messages = Log()
        with torch.cuda.device(self._device):
            builder = trt.Builder(messages)
            network = builder.create_network(0)
            parse(trt.OnnxParser(network, messages), graph, path)
            config = builder.create_builder_config()
            configure(config, options)
            config.progress_monitor = Progress(report, cancelled)
            for batch in profile:
                config.add_optimization_profile(_profile(builder, network, batch))
            cache = self._use_timing_cache(config)
            plan = builder.build_serialized_network(network, config)
            if plan is None:
                if cancelled():
                    raise Cancelled("the build was cancelled")
                raise ExportError(f"{path.name}: TensorRT cannot build it: {'; '.join(messages.errors) or 'no reason'}")
            write_whole(cache, bytes(config.get_timing_cache().serialize()))
            return _plan(bytes(plan), graph, options, messages)

    def refit(self, plan: bytes, graph: bytes, path: Path, options: BuildOptions) -> Plan | None:
        """The plan with this graph's weights; None if they cannot be put there."""
        messages = Log()
        with torch.cuda.device(self._device):
            engine = open_engine(plan, options, messages)
            refitter = trt.Refitter(engine, messages)
            if not trt.OnnxParserRefitter(refitter, messages).refit_from_bytes(graph, str(path)):
                return None
            if not refitter.refit_cuda_engine():
                return None
            return _plan(bytes(engine.serialize()), graph, options, messages)

    def _use_timing_cache(self, config: trt.IBuilderConfig) -> Path:
        """Give the builder what was measured on this GPU before; returns the file."""
        name = hashlib.sha256(repr(self.target).encode()).hexdigest()[:32]
        file = cache_folder() / "tensorrt-timing" / f"{name}.cache"
        file.parent.mkdir(parents=True, exist_ok=True)
        known = file.read_bytes() if file.exists() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        return file


def configure(config: trt.IBuilderConfig, options: BuildOptions) -> None:
    """Set what `options` says, and keep all that the engine inspector can tell."""
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * 2**20)
    config.builder_optimization_level = options.optimization_level
    config.hardware_compatibility_level = _HARDWARE[options.hardware]
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag, wanted in (
        (trt.BuilderFlag.REFIT, options.refit),
        (trt.BuilderFlag.VERSION_COMPATIBLE, options.version_compatible),
        (trt.BuilderFlag.TF32, options.tf32),
    ):
        if wanted:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)


def parse(parser: trt.OnnxParser, graph: bytes, path: Path) -> None:
    """Read the graph into the parser's network. ExportError tells every node that TensorRT cannot read."""
    if not parser.parse(graph, str(path)):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        told = "; ".join(f"node {error.node_name()} ({error.node_operator()}): {error.desc()}" for error in found)
        raise ExportError(f"{path.name}: TensorRT cannot read it: {told or 'no reason'}")


def open_engine(plan: bytes, options: BuildOptions, messages: Log) -> trt.ICudaEngine:
    """The engine of a plan from our own store. ExportError if TensorRT refuses it."""
    runtime = trt.Runtime(messages)
    # A plan that other versions can load brings code for the host along.
    runtime.engine_host_code_allowed = options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"plan: TensorRT cannot load it: {'; '.join(messages.errors) or 'no reason'}")
    return engine


def target_of(device: torch.device) -> Target:
    """What a plan for this device depends on besides its graph."""
    properties = torch.cuda.get_device_properties(device)
    return Target(trt.__version__, driver_version(), properties.name, f"{properties.major}.{properties.minor}")


def driver_version(told: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Of NVIDIA's driver, as the kernel module or else nvidia-smi tells it. ExportError if neither does."""
    if told.exists() and (found := re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", told.read_text())):
        return found[0]
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ExportError(f"driver: neither {told} nor nvidia-smi tells its version: {error}") from error
    return answer.splitlines()[0].strip()


def _profile(builder: trt.Builder, network: trt.INetworkDefinition, batch: int) -> trt.IOptimizationProfile:
    """The profile of one batch size."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest: tuple[int, ...] = tensor.shape[1:]
        if -1 in rest:
            raise ExportError(f"input {tensor.name}: found shape {tensor.shape}; allowed is a free batch alone")
        profile.set_shape(tensor.name, (batch, *rest), (batch, *rest), (batch, *rest))
    return profile


def _plan(content: bytes, graph: bytes, options: BuildOptions, messages: Log) -> Plan:
    engine = open_engine(content, options, messages)
    inspector = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return Plan(content, structure_of(graph), inspector)
