"""The tensorrt backend: a bundle's plans on a CUDA device, in one CUDA graph a bucket.

A plan has a profile for each bucket, and each profile a context of its own. Contexts run one after another, so they
share one piece of memory. What surrounds a plan, as turning pictures into bytes, is in the same CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorrt as trt
import torch
from torch import Tensor

from impasto.engine.backend import Backend, Feeds
from impasto.engine.cuda import CudaBackend, Feeder, Network
from impasto.engine.cuda_networks import DeviceNoise
from impasto.engine.layer_noise import Noise
from impasto.engine.picture import Floats
from impasto.engine.torch import load_generator
from impasto.errors import BackendUnavailable, InternalError
from impasto.export.bundle import Bundle
from impasto.export.plan_store import BuildOptions, store_of
from impasto.export.plans import load_plans, profile_of
from impasto.export.tensorrt import Log, open_engine, target_of
from impasto.kernels import routing, to_image

DTYPES = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.BF16: torch.bfloat16,
    trt.DataType.INT32: torch.int32,
    trt.DataType.INT64: torch.int64,
    trt.DataType.UINT8: torch.uint8,
}


def open_tensorrt(bundle: Bundle, precision: str, device: str) -> Backend:
    """The backend with the bundle's own plans. BackendUnavailable unless all are there, built for this machine."""
    where = torch.device(device)
    plans = load_plans(bundle, precision, target_of(where))
    if plans is None:
        raise BackendUnavailable(
            f"backend tensorrt: found no plans of {bundle.manifest.name} in {precision} for this GPU, driver and "
            f"TensorRT; remedy: impasto export {bundle.manifest.name} --precision {precision} --tensorrt"
        )
    with torch.cuda.device(where):
        planned = open_plans(plans, store_of(bundle).options, profile_of(bundle), where)
    networks: dict[str, Network] = dict(planned)
    feeds: Feeder = _no_noise
    if bundle.manifest.family == "stylegan2":
        networks["pictures"], feeds = _pictures(planned["synthesis"], bundle)
    return CudaBackend(networks, feeds, where, bundle.manifest.buckets)


def open_plans(
    plans: Mapping[str, bytes], options: BuildOptions, profile: tuple[int, ...], device: torch.device
) -> dict[str, PlannedNetwork]:
    """A network for each plan, by the graph's name, on the current device, which is `device`."""
    messages = Log()
    engines = {graph: open_engine(plan, options, messages) for graph, plan in plans.items()}
    sizes = (
        engine.get_device_memory_size_for_profile_v2(index)
        for engine in engines.values()
        for index in range(len(profile))
    )
    scratch = torch.empty(max(1, *sizes), dtype=torch.uint8, device=device)
    return {graph: PlannedNetwork(engine, profile, scratch) for graph, engine in engines.items()}


class PlannedNetwork:
    """A plan as a function of tensors on the device, for the numbers of rows in `profile`.

    `scratch` is memory for what lies between inputs and outputs, of all networks that never run at once.
    """

    def __init__(self, engine: trt.ICudaEngine, profile: tuple[int, ...], scratch: Tensor) -> None:
        self._engine = engine
        self._profile = profile
        self._scratch = scratch
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        self._dtypes = {name: DTYPES[engine.get_tensor_dtype(name)] for name in names}
        self._contexts: dict[int, trt.IExecutionContext] = {}

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._scratch.device

    def __call__(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the plan's order, enqueued on the current stream."""
        stream = torch.cuda.current_stream(self.device).cuda_stream
        rows = len(next(iter(inputs.values())))
        context = self._contexts.get(rows)
        if context is None:
            context = self._contexts[rows] = self._open(rows, stream)
        for name in self.inputs:
            tensor = inputs[name]
            if tensor.dtype is not self._dtypes[name]:
                raise InternalError(f"{name}: found {tensor.dtype}; the plan takes {self._dtypes[name]}")
            _require(context.set_tensor_address(name, tensor.data_ptr()), f"the address of {name}")
        outputs = [self._allocate(context, name) for name in self.outputs]
        _require(context.execute_async_v3(stream), f"a batch of {rows}")
        return tuple(outputs)

    def _open(self, rows: int, stream: int) -> trt.IExecutionContext:
        """A context for so many rows. Its inputs' shapes are set once: a profile has one size."""
        context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        _require(context is not None, "a context")
        profile = self._profile.index(rows)
        _require(context.set_optimization_profile_async(profile, stream), f"the profile of {rows} rows")
        for name in self.inputs:
            _require(context.set_input_shape(name, (rows, *self._engine.get_tensor_shape(name)[1:])), f"{name}'s shape")
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        return context

    def _allocate(self, context: trt.IExecutionContext, name: str) -> Tensor:
        shape: tuple[int, ...] = context.get_tensor_shape(name)[:]
        output = torch.empty(shape, dtype=self._dtypes[name], device=self.device)
        _require(context.set_tensor_address(name, output.data_ptr()), f"the address of {name}")
        return output


def _pictures(synthesis: PlannedNetwork, bundle: Bundle) -> tuple[Network, Feeder]:
    """A StyleGAN2's network from ws and noise to floats, bytes and flags, and what it takes.

    With Triton both the noise and the bytes are made on the device.
    """
    if not routing.launches_on(synthesis.device):

        def from_host(**inputs: Tensor) -> tuple[Tensor, ...]:
            (picture,) = synthesis(**inputs)
            return picture, *to_image.reference(picture)

        return from_host, lambda ws, noise: {"ws": ws, "noise": noise.rows()}

    made = DeviceNoise(load_generator(bundle).synthesis.constant_noise().to(synthesis.device))

    def on_device(ws: Tensor, modes: Tensor, seeds: Tensor) -> tuple[Tensor, ...]:
        (picture,) = synthesis(ws=ws, noise=made.maps(modes, seeds))
        return picture, *to_image.to_image(picture)

    return on_device, lambda ws, noise: {"ws": ws, **made.feeds(noise)}


def _no_noise(ws: Floats, noise: Noise) -> Feeds:
    raise InternalError("found a request for layer noise; only StyleGAN2 models have it")


def _require(done: object, what: str) -> None:
    if not done:
        raise InternalError(f"TensorRT refused {what}; its reason is in the log")
