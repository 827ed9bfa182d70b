"""Every sampler against diffusers' own scheduler: the same model, the same noise, the latent of every call.

About 20 seconds. Ours is float32; diffusers runs as it is, in float32, and with its formulas in float64. Ours is within
1e-5, of the largest value, of the float64, always; and of the float32, except where that is the one further from the
float64: diffusers takes large states from each other, and divides what is left by small sigmas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from impasto.sampling import Plan, from_diffusers, options_for, plan
from tests.sampling.walks import Array, config_of, ours, scheduler_of, theirs, theirs_in_double

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BOUND = 1e-5
STEPS = (1, 2, 3, 4, 10, 15, 20, 50)
ALL = ("epsilon", "v_prediction", "sample")
NO_SAMPLE = ("epsilon", "v_prediction")
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
LINSPACE = {"timestep_spacing": "linspace"}
TRAILING = {"timestep_spacing": "trailing"}
KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
UNCLIPPED = {"clip_sample": False}
LEAST = {"final_sigmas_type": "sigma_min"}
ZERO_SNR = {"rescale_betas_zero_snr": True, **TRAILING, **SD}
SDE = {"algorithm_type": "sde-dpmsolver++"}
FLOW = {"use_flow_sigmas": True}

DDPM, DDIM, PNDM, LCM = "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LCMScheduler"
EULER, EULER_A, HEUN = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"
MULTISTEP, SDE_2S, UNIPC = "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "UniPCMultistepScheduler"
FLOW_EULER = "FlowMatchEulerDiscreteScheduler"

CASES: list[tuple[str, dict[str, Any], Sequence[str]]] = [
    (DDPM, {}, ALL),
    (DDPM, {**LINSPACE, **SD}, ALL),
    (DDPM, {**TRAILING, **UNCLIPPED, **COSINE}, ALL),
    (DDPM, {**LEADING, **UNCLIPPED, **SD, "variance_type": "fixed_large"}, ALL),
    (DDPM, {**ZERO_SNR, "clip_sample_range": 2.0}, ALL[1:]),
    (DDIM, {}, ALL),
    (DDIM, {**LEADING, **UNCLIPPED, **SD, "set_alpha_to_one": False}, ALL),
    (DDIM, {**LINSPACE, **UNCLIPPED, **COSINE}, ALL),
    (DDIM, {**ZERO_SNR, **UNCLIPPED}, ALL[1:]),
    (PNDM, {**LEADING, **SD, "skip_prk_steps": True}, NO_SAMPLE),
    (PNDM, {**LINSPACE, **SD, "skip_prk_steps": True}, NO_SAMPLE),
    (PNDM, {**TRAILING, **SD, "skip_prk_steps": True, "set_alpha_to_one": True}, NO_SAMPLE),
    (LCM, {}, ALL),
    (LCM, {"clip_sample": True, "original_inference_steps": 100, "timestep_scaling": 3.0}, ALL),
    (EULER, {**LEADING, **SD}, ALL),
    (EULER, {**LINSPACE, **SD, **LEAST}, ALL),
    (EULER, {**TRAILING, **SD, **EXPONENTIAL}, ALL),
    (EULER, {**LINSPACE, **SD, **KARRAS}, ALL),
    (EULER, {**LEADING, **SD, **KARRAS, **LEAST}, ALL),
    (EULER_A, {**LEADING, **SD}, NO_SAMPLE),
    (EULER_A, {**LINSPACE, **SD}, NO_SAMPLE),
    (EULER_A, {**TRAILING, **SD}, NO_SAMPLE),
    (EULER, ZERO_SNR, ALL[1:]),
    (HEUN, {**LEADING, **SD}, ALL),
    (HEUN, {**LINSPACE, **SD, **EXPONENTIAL}, ALL),
    (HEUN, {**TRAILING, **SD, **KARRAS, "clip_sample": True}, ALL),
    (MULTISTEP, {**LINSPACE}, ALL),
    (MULTISTEP, {**LEADING, **SD, **LEAST}, ALL),
    (MULTISTEP, {**TRAILING, **SD, **LEAST, "lower_order_final": False}, ALL),
    (MULTISTEP, {**LINSPACE, **SD, **KARRAS, **LEAST, "euler_at_final": True}, ALL),
    (MULTISTEP, {**SD, **EXPONENTIAL}, ALL),
    (MULTISTEP, {**COSINE, **KARRAS}, ALL),
    (MULTISTEP, ZERO_SNR, ALL[1:]),
    (MULTISTEP, {**FLOW, "flow_shift": 3.0}, ("flow_prediction",)),
    (MULTISTEP, {**SDE, **LEADING, **SD}, ALL),
    (MULTISTEP, {**SDE, **LINSPACE, **COSINE}, ALL),
    (MULTISTEP, {**SDE, **TRAILING, **SD, **LEAST}, ALL),
    (MULTISTEP, {**SDE, **SD, **KARRAS}, ALL),
    (MULTISTEP, {**SDE, **FLOW}, ("flow_prediction",)),
    (SDE_2S, {**LEADING, **SD}, NO_SAMPLE),
    (SDE_2S, {**LINSPACE, **KARRAS}, NO_SAMPLE),
    (SDE_2S, {**TRAILING, **SD, **EXPONENTIAL}, NO_SAMPLE),
    (UNIPC, {**LINSPACE}, ALL),
    (UNIPC, {**LEADING, **SD, **LEAST, "solver_type": "bh1"}, ALL),
    (UNIPC, {**TRAILING, **COSINE}, ALL),
    (UNIPC, {**SD, **KARRAS, **LEAST}, ALL),
    (UNIPC, {**SD, **EXPONENTIAL, "solver_type": "bh1"}, ALL),
    (UNIPC, ZERO_SNR, ALL[1:]),
    (UNIPC, FLOW, ("flow_prediction",)),
    (UNIPC, {**FLOW, "flow_shift": 5.0, "solver_type": "bh1"}, ("flow_prediction",)),
    (FLOW_EULER, {}, ("flow_prediction",)),
    (FLOW_EULER, {"shift": 3.0}, ("flow_prediction",)),
    (FLOW_EULER, {"shift": 3.0, "stochastic_sampling": True}, ("flow_prediction",)),
    (FLOW_EULER, {"shift": 2.0, **KARRAS}, ("flow_prediction",)),
    (FLOW_EULER, {**EXPONENTIAL}, ("flow_prediction",)),
]
STARTS = [case for case in CASES if case[1].get("timestep_spacing") != "trailing"]


def _name(value: object) -> str | None:
    if isinstance(value, dict):
        return "-".join(str(entry) for key, entry in value.items() if key not in ("beta_start", "beta_end")) or "plain"
    return None


def _assert_same(walk: Plan, scheduler: Any, start: int | None = None, **options: Any) -> None:
    found, single = ours(walk), theirs(scheduler, start, **options)
    exact = theirs_in_double(scheduler, start, **options)
    error, apart, lost = _error(found, exact), _error(found, single), _error(single, exact)
    case = f"{walk.calls} calls, prediction {scheduler.config.get('prediction_type', 'flow')}"
    assert error <= BOUND, f"{case}: {error:.1e} from diffusers in float64"
    assert apart <= BOUND or lost > error, f"{case}: {apart:.1e} from diffusers in float32, {lost:.1e} from its float64"


def _error(found: list[Array], expected: list[Array]) -> float:
    assert len(found) == len(expected)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))


def _scheduler(name: str, settings: dict[str, Any], prediction: str) -> Any:
    return scheduler_of(name, **settings, **({} if name == FLOW_EULER else {"prediction_type": prediction}))


@pytest.mark.parametrize(("name", "settings", "predictions"), CASES, ids=_name)
def test_latent_of_every_call_is_that_of_diffusers(
    name: str, settings: dict[str, Any], predictions: Sequence[str]
) -> None:
    for prediction in predictions:
        scheduler = _scheduler(name, settings, prediction)
        schedule, sampler, options = from_diffusers(config_of(scheduler))
        for steps in STEPS:
            scheduler.set_timesteps(steps)
            walk = plan(sampler, schedule, steps, options_for(sampler, options))
            np.testing.assert_allclose(walk.timesteps, scheduler.timesteps, rtol=1e-6, atol=1e-4)
            _assert_same(walk, scheduler)


@pytest.mark.parametrize(("name", "settings", "predictions"), STARTS, ids=_name)
def test_start_from_an_image_is_that_of_diffusers(
    name: str, settings: dict[str, Any], predictions: Sequence[str]
) -> None:
    scheduler = _scheduler(name, settings, predictions[-1])
    schedule, sampler, options = from_diffusers(config_of(scheduler))
    for steps, strength in ((4, 0.5), (10, 0.75), (15, 0.3), (20, 0.99)):
        scheduler.set_timesteps(steps)
        # The pipelines' get_timesteps: Stable Diffusion's, and those of flow models.
        start = int(steps - steps * strength) if schedule.is_flow else steps - int(steps * strength)
        walk = plan(sampler, schedule, steps, options_for(sampler, options), strength=strength)
        _assert_same(walk, scheduler, start)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise_is_that_of_diffusers(eta: float) -> None:
    for prediction in ALL:
        scheduler = _scheduler(DDIM, {**SD, **LEADING}, prediction)
        schedule, sampler, options = from_diffusers(config_of(scheduler))
        for steps in STEPS:
            scheduler.set_timesteps(steps)
            walk = plan(sampler, schedule, steps, dataclasses.replace(options_for(sampler, options), eta=eta))
            _assert_same(walk, scheduler, eta=eta)


def test_flow_shifted_by_mu_and_by_the_pipelines_own_sigmas_is_that_of_diffusers() -> None:
    scheduler = scheduler_of(FLOW_EULER, use_dynamic_shifting=True, base_shift=0.4, max_shift=1.3)
    schedule, sampler, options = from_diffusers(config_of(scheduler), tokens=1024)
    mu = options.mu
    assert mu == pytest.approx(0.4 + 0.9 * (1024 - 256) / (4096 - 256))
    for steps in STEPS:
        scheduler.set_timesteps(steps, mu=mu)
        _assert_same(plan(sampler, schedule, steps, options), scheduler)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        trailing = dataclasses.replace(options, spacing="trailing")
        _assert_same(plan(sampler, schedule, steps, trailing), scheduler)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [(DDIM, "ddim"), (EULER, "euler"), (EULER_A, "euler_a"), (HEUN, "heun"), (MULTISTEP, "dpmpp_2m"), (UNIPC, "unipc")],
)
def test_another_sampler_keeps_of_a_models_options_what_diffusers_keeps(name: str, sampler: str) -> None:
    config = {"_class_name": PNDM, "skip_prk_steps": True, "clip_sample": False, "set_alpha_to_one": False}
    config |= {**SD, **LEADING}
    schedule, _, options = from_diffusers(config)
    scheduler = getattr(__import__("diffusers"), name).from_config(config)
    scheduler.set_timesteps(7)
    _assert_same(plan(sampler, schedule, 7, options_for(sampler, options)), scheduler)
