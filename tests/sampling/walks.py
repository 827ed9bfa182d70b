"""One request, from noise to picture, by our rows and by diffusers' own scheduler, with the same model and noise."""

from __future__ import annotations

import copy
import importlib
import json
import math
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import diffusers.schedulers.scheduling_utils  # noqa: F401  (looks for torchsde, before the stand-in is there)
import numpy as np
import torch
from numpy.typing import NDArray

from impasto.kernels import philox
from impasto.kernels.sampler_row import Place, place_table, table
from impasto.sampling import Plan
from impasto.sampling.step import Slots, step

Array = NDArray[np.floating[Any]]

SIZE = 30
IMAGE = np.tanh(np.linspace(-3, 3, SIZE)).astype(np.float32)
MODULES = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "LCMScheduler": "lcm",
    "EulerDiscreteScheduler": "euler_discrete",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "HeunDiscreteScheduler": "heun_discrete",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "DPMSolverSDEScheduler": "dpmsolver_sde",
    "UniPCMultistepScheduler": "unipc_multistep",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler_discrete",
}
"""Scheduler classes, and diffusers' module of each."""


def model(x: Array, timestep: float) -> Array:
    """A smooth output that depends on every input; of x's dtype, computed in float64."""
    phase = np.arange(SIZE) * 0.7 + 3.0 * float(timestep) / 1000.0
    output: Array = np.tanh(0.6 * x.astype(np.float64) + 0.4 * np.sin(phase)).astype(x.dtype)
    return output


def noise(call: int) -> Array:
    """The noise of a model call; that of the start is call -1."""
    return philox.normal(11, SIZE, step=call + 1)


def module_of(name: str) -> ModuleType:
    """diffusers' module of a scheduler class."""
    # dpmsolver_sde imports torchsde for the Brownian path alone, and the path is ours here.
    stand_in = sys.modules.setdefault("torchsde", ModuleType("torchsde"))
    try:
        return importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[name]}")
    finally:
        if stand_in.__spec__ is None:
            del sys.modules["torchsde"]


def scheduler_of(name: str, **settings: Any) -> Any:
    """diffusers' scheduler."""
    return getattr(module_of(name), name)(**settings)


def config_of(scheduler: Any) -> Mapping[str, Any]:
    """What diffusers would write to `scheduler_config.json`."""
    config: dict[str, Any] = json.loads(scheduler.to_json_string())
    return config


def ours(plan: Plan) -> list[Array]:
    """The latent at the start and after every call, by the plan's rows."""
    slots = Slots.empty(1, (SIZE,))
    slots.history.fill(np.nan)
    slots.saved.fill(np.nan)
    slots.latent[0] = np.float32(plan.noise_scale) * noise(-1) + np.float32(plan.image_scale) * IMAGE
    model_input = np.float32(plan.first_input) * slots.latent
    places, latents = place_table([Place(0)]), [slots.latent[0].copy()]
    for call, (row, timestep) in enumerate(zip(plan.rows, plan.timesteps, strict=True)):
        output = model(model_input[0], timestep)[None]
        step(slots, table([row]), places, output, model_input, noise=noise(call)[None])
        latents.append(slots.latent[0].copy())
    return latents


def theirs(scheduler: Any, start: int | None = None, **options: Any) -> list[Array]:
    """The same by diffusers: from noise, or at a `start` from an image, as its image-to-image pipelines do."""
    return _walked(copy.deepcopy(scheduler), torch.float32, start, **options)


def theirs_in_double(scheduler: Any, start: int | None = None, **options: Any) -> list[Array]:
    """The same without the rounding of float32: of the scheduler's formulas, its own sigmas and the same noise."""
    scheduler = copy.deepcopy(scheduler)
    for name, value in vars(scheduler).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name != "timesteps":
            setattr(scheduler, name, value.double())
    with mock.patch.object(sys.modules[type(scheduler).__module__], "torch", _Double("torch")):
        return _walked(scheduler, torch.float64, start, **options)


def _walked(scheduler: Any, dtype: torch.dtype, start: int | None, **options: Any) -> list[Array]:
    first, image = (torch.from_numpy(value)[None, None].to(dtype) for value in (noise(-1), IMAGE))
    begin = (start or 0) * scheduler.order
    timesteps = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    if start is None:
        x = first * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        is_flow = hasattr(scheduler, "scale_noise")
        noised = scheduler.scale_noise(image, timesteps[:1], first) if is_flow else None
        x = scheduler.add_noise(image, first, timesteps[:1]) if noised is None else noised
    latents = [x[0, 0].numpy().copy()]
    with _Noise(scheduler) as source:
        for call, timestep in enumerate(timesteps):
            source.call = call
            scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
            output = torch.from_numpy(model(scaled[0, 0].numpy(), float(timestep)))[None, None]
            x = scheduler.step(output, timestep, x, **options).prev_sample
            assert output.dtype == x.dtype == dtype
            latents.append(x[0, 0].numpy().copy())
    return latents


class _Double(ModuleType):
    """torch for a scheduler that asks for float32 and shall not get it."""

    float32: ClassVar[torch.dtype] = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _Noise:
    """Gives a scheduler our noise in place of its own, by the call that is under way."""

    def __init__(self, scheduler: Any) -> None:
        self.call = 0
        module = sys.modules[type(scheduler).__module__]
        patches: dict[str, Any] = {
            "randn_tensor": self._drawn,
            "BrownianTreeNoiseSampler": lambda *arguments: self._increment,
        }
        wanted = {name: patch for name, patch in patches.items() if hasattr(module, name)}
        self._patch = mock.patch.multiple(module, **wanted) if wanted else None
        self._from = -1.0

    def __enter__(self) -> _Noise:
        if self._patch:
            self._patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._patch:
            self._patch.stop()

    def _drawn(self, *arguments: Any, **options: Any) -> torch.Tensor:
        return torch.from_numpy(noise(self.call))[None, None]

    def _increment(self, sigma: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """(W(sigma) - W(after)) / sqrt(sigma - after) of one Brownian path.

        dpmpp_sde asks twice a step: from s to m, then from s to s'. The path's increments from s to m and from m to s'
        are sqrt(s - m) and sqrt(m - s') times the noise of the first and of the second call.
        """
        if self._from != float(sigma):
            self._from, self._to = float(sigma), float(after)
            return self._drawn()
        s, middle, end = self._from, self._to, float(after)
        path = math.sqrt(s - middle) * noise(self.call - 1) + math.sqrt(middle - end) * noise(self.call)
        return torch.from_numpy((path / math.sqrt(s - end)).astype(np.float32))[None, None]
