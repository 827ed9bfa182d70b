"""Reads a scheduler's `scheduler_config.json`, as diffusers writes it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from impasto.errors import InvalidRequest
from impasto.sampling.options import SamplerOptions
from impasto.sampling.schedule import NoiseSchedule

Config = Mapping[str, Any]

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A scheduler class."""

    sampler: Callable[[Config], str]
    reads: tuple[str, ...] = ()
    """Which of the settings in `_ONLY` it reads."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Its own, where they differ from most classes'."""
    zero_snr: bool = False
    """Whether it reads `rescale_betas_zero_snr`."""


def from_diffusers(config: Config, tokens: int | None = None) -> tuple[NoiseSchedule, str, SamplerOptions]:
    """The schedule, the sampler's name and its options. InvalidRequest names what is unknown or cannot be kept.

    tokens: the transformer's tokens in a latent; needed where the shift of a flow depends on them
        (`use_dynamic_shifting`: mu is linear between both image sizes that the file names).

    The options are all that the file names, for `options_for`, since another sampler may take what this one does not.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in _KINDS:
        raise InvalidRequest("_class_name", name, ", ".join(_KINDS))
    kind = _KINDS[name]
    settings = {**kind.defaults, **config}
    for key in kind.reads:
        if key in settings and settings[key] not in _ONLY[key]:
            raise InvalidRequest(key, settings[key], ", ".join(str(value) for value in _ONLY[key]))
    sampler = kind.sampler(settings)
    if sampler == "flow_euler" or settings.get("use_flow_sigmas"):
        schedule = _flow(sampler, settings)
        return schedule, sampler, _flow_options(sampler, settings, tokens)
    return _schedule(settings, kind.zero_snr), sampler, _options(sampler, settings)


def _schedule(settings: Config, zero_snr: bool) -> NoiseSchedule:
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise InvalidRequest("prediction_type", prediction, ", ".join(PREDICTIONS))
    zero_snr = zero_snr and bool(settings.get("rescale_betas_zero_snr", False))
    betas = settings.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list) or not all(isinstance(beta, int | float) for beta in betas):
            raise InvalidRequest("trained_betas", betas, "a list of numbers")
        return NoiseSchedule.of_betas(betas, PREDICTIONS[prediction], zero_snr=zero_snr)
    return NoiseSchedule.of_beta_schedule(
        settings.get("beta_schedule", "linear"),
        _number(settings, "beta_start", 0.0001),
        _number(settings, "beta_end", 0.02),
        _whole(settings, "num_train_timesteps", 1000),
        PREDICTIONS[prediction],
        zero_snr=zero_snr,
    )


def _flow(sampler: str, settings: Config) -> NoiseSchedule:
    prediction = settings.get("prediction_type", "epsilon")
    if sampler != "flow_euler" and prediction != "flow_prediction":
        raise InvalidRequest("prediction_type", prediction, "flow_prediction where the sigmas are a flow's")
    return NoiseSchedule.of_flow(_whole(settings, "num_train_timesteps", 1000))


def _options(sampler: str, settings: Config) -> SamplerOptions:
    values = {field: settings[key] for key, field in _NAMES.items() if settings.get(key) is not None}
    values |= {field: _whole(settings, key, 0) for key, field in _COUNTS.items() if settings.get(key) is not None}
    if settings.get("timestep_scaling") is not None:
        values["timestep_scaling"] = _number(settings, "timestep_scaling", 10.0)
    if settings.get("clip_sample"):
        values["clip"] = _number(settings, "clip_sample_range", 1.0)
    if sampler == "ddpm" and settings.get("variance_type") == "fixed_large":
        values["variance"] = "fixed_large"
    return SamplerOptions(sigmas=_curve(settings), solver=_solver(sampler, settings), **values)


def _flow_options(sampler: str, settings: Config, tokens: int | None) -> SamplerOptions:
    curve = _curve(settings)
    if sampler != "flow_euler" and curve != "interpolated":
        raise InvalidRequest(f"use_{curve}_sigmas", True, "false where the sigmas are a flow's")
    stochastic = sampler == "flow_euler" and bool(settings.get("stochastic_sampling", False))
    shift = _shift(sampler, settings, tokens)
    return SamplerOptions(sigmas=curve, solver=_solver(sampler, settings), stochastic=stochastic, **shift)


def _curve(settings: Config) -> str:
    for curve in ("karras", "exponential"):
        if settings.get(f"use_{curve}_sigmas"):
            return curve
    return "interpolated"


def _solver(sampler: str, settings: Config) -> str:
    """diffusers reads the names of another class's solvers as bh2."""
    return "bh1" if sampler == "unipc" and settings.get("solver_type") == "bh1" else "bh2"


def _shift(sampler: str, settings: Config, tokens: int | None) -> dict[str, Any]:
    if not settings.get("use_dynamic_shifting"):
        return {"shift": _number(settings, "shift" if sampler == "flow_euler" else "flow_shift", 1.0)}
    if tokens is None:
        raise InvalidRequest("use_dynamic_shifting", True, "false where the latent's size is not known")
    few, many = _number(settings, "base_image_seq_len", 256), _number(settings, "max_image_seq_len", 4096)
    low, high = _number(settings, "base_shift", 0.5), _number(settings, "max_shift", 1.15)
    if few == many:
        raise InvalidRequest("max_image_seq_len", many, "another value than base_image_seq_len")
    return {"mu": low + (high - low) * (tokens - few) / (many - few)}


def _number(settings: Config, key: str, default: float) -> float:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(key, value, "a finite number")
    return value


def _whole(settings: Config, key: str, default: int) -> int:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(key, value, "a whole number")
    return value


def _multistep(settings: Config) -> str:
    algorithm = settings.get("algorithm_type", "dpmsolver++")
    samplers = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde"}
    if algorithm not in samplers:
        raise InvalidRequest("algorithm_type", algorithm, ", ".join(samplers))
    if settings.get("solver_type") == "heun":
        raise InvalidRequest("solver_type", "heun", "midpoint with DPMSolverMultistepScheduler")
    return samplers[algorithm]


def _unipc(settings: Config) -> str:
    if not settings.get("predict_x0", True):
        raise InvalidRequest("predict_x0", False, "true")
    if not settings.get("lower_order_final", True):
        raise InvalidRequest("lower_order_final", False, "true with UniPCMultistepScheduler")
    return "unipc"


def _plms(settings: Config) -> str:
    if not settings.get("skip_prk_steps", False):
        raise InvalidRequest("skip_prk_steps", False, "true: the Runge-Kutta steps of pndm are not offered")
    return "plms"


def _always(name: str) -> Callable[[Config], str]:
    return lambda settings: name


_MULTISTEP = ("thresholding", "use_beta_sigmas", "solver_order", "time_shift_type")
_KINDS = {
    "DDPMScheduler": _Kind(_always("ddpm"), ("thresholding", "variance_type"), {"clip_sample": True}, True),
    "DDIMScheduler": _Kind(_always("ddim"), ("thresholding",), {"clip_sample": True}, True),
    "PNDMScheduler": _Kind(_plms),
    "LCMScheduler": _Kind(_always("lcm"), ("thresholding",), {"beta_schedule": "scaled_linear", **SD_BETAS}, True),
    "EulerDiscreteScheduler": _Kind(
        _always("euler"),
        ("use_beta_sigmas", "interpolation_type", "timestep_type", "sigma_min", "sigma_max"),
        zero_snr=True,
    ),
    "EulerAncestralDiscreteScheduler": _Kind(_always("euler_a"), zero_snr=True),
    "HeunDiscreteScheduler": _Kind(_always("heun"), ("use_beta_sigmas",), SD_BETAS),
    "DPMSolverMultistepScheduler": _Kind(
        _multistep, (*_MULTISTEP, "variance_type", "use_lu_lambdas", "lambda_min_clipped"), zero_snr=True
    ),
    "DPMSolverSDEScheduler": _Kind(_always("dpmpp_sde"), ("use_beta_sigmas",), SD_BETAS),
    "UniPCMultistepScheduler": _Kind(
        _unipc,
        (*_MULTISTEP, "disable_corrector", "solver_p", "sigma_min", "sigma_max", "shift_terminal"),
        zero_snr=True,
    ),
    "FlowMatchEulerDiscreteScheduler": _Kind(
        _always("flow_euler"), ("use_beta_sigmas", "time_shift_type", "invert_sigmas", "shift_terminal")
    ),
}

_NAMES = {
    "timestep_spacing": "spacing",
    "final_sigmas_type": "final_sigma",
    "set_alpha_to_one": "set_alpha_to_one",
    "lower_order_final": "lower_order_final",
    "euler_at_final": "euler_at_final",
}
_COUNTS = {"steps_offset": "steps_offset", "original_inference_steps": "original_steps"}
"""Keys of a file, and the options that they are here."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "thresholding": (False, None),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "interpolation_type": ("linear", None),
    "timestep_type": ("discrete", None),
    "time_shift_type": ("exponential", None),
    "invert_sigmas": (False, None),
    "shift_terminal": (None,),
    "solver_order": (2, None),
    "lambda_min_clipped": (-math.inf, None),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "disable_corrector": ([], (), None),
    "solver_p": (None,),
}
"""Settings that change the steps, and the values of them that are kept. The first two can be no row."""
