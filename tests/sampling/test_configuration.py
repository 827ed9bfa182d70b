from __future__ import annotations

import math
from typing import Any

import pytest

from impasto.errors import InvalidRequest
from impasto.sampling import SamplerOptions, from_diffusers, options_for, plan

SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SDXL = SD15 | {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
SD21 = SD15 | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
FLUX = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


@pytest.mark.parametrize(
    ("config", "sampler", "prediction", "options"),
    [
        (SD15, "plms", "epsilon", SamplerOptions(steps_offset=1, set_alpha_to_one=False)),
        (SD21, "ddim", "v", SamplerOptions(steps_offset=1, set_alpha_to_one=False)),
        (SDXL, "euler", "epsilon", SamplerOptions(spacing="leading", steps_offset=1)),
        (FLUX | {"use_dynamic_shifting": False}, "flow_euler", "flow", SamplerOptions(shift=3.0)),
        ({"_class_name": "DDPMScheduler"}, "ddpm", "epsilon", SamplerOptions(clip=1.0)),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_small_log", "clip_sample_range": 3}, "ddpm",
         "epsilon", SamplerOptions(clip=3.0)),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 100}, "lcm", "epsilon",
         SamplerOptions(original_steps=100)),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "euler_at_final": True}, "dpmpp_2m",
         "epsilon", SamplerOptions(sigmas="karras", euler_at_final=True)),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 2},
         "dpmpp_2m_sde", "epsilon", SamplerOptions()),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 5.0,
          "prediction_type": "flow_prediction", "timestep_spacing": "linspace"}, "unipc", "flow",
         SamplerOptions(shift=5.0)),
    ],
)  # fmt: skip
def test_file_is_read_as_diffusers_reads_it(
    config: dict[str, Any], sampler: str, prediction: str, options: SamplerOptions
) -> None:
    schedule, name, found = from_diffusers(config)
    assert (name, schedule.prediction, options_for(name, found)) == (sampler, prediction, options)
    assert schedule.train_steps == 1000


def test_settings_of_other_classes_are_left_to_them() -> None:
    config = SDXL | {"thresholding": True, "solver_order": 3, "variance_type": "learned", "use_karras_sigmas": True}
    schedule, sampler, options = from_diffusers(config)
    assert options_for(sampler, options) == SamplerOptions(spacing="leading", steps_offset=1, sigmas="karras")
    assert options_for("ddim", options) == SamplerOptions(spacing="leading", steps_offset=1, set_alpha_to_one=False)
    assert plan("ddim", schedule, 4, options_for("ddim", options)).calls == 4


def test_betas_are_the_files_or_the_classs_own() -> None:
    assert from_diffusers(SD15)[0].alphas_cumprod[0] == pytest.approx(1 - 0.00085)
    assert from_diffusers({"_class_name": "DDIMScheduler"})[0].alphas_cumprod[0] == pytest.approx(1 - 0.0001)
    assert from_diffusers({"_class_name": "HeunDiscreteScheduler"})[0].alphas_cumprod[0] == pytest.approx(1 - 0.00085)
    given = from_diffusers({"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2, 0.3]})[0]
    assert given.train_steps == 3


def test_shift_of_a_flow_may_depend_on_the_size_of_the_latent() -> None:
    assert from_diffusers(FLUX, tokens=256)[2].mu == pytest.approx(0.5)
    assert from_diffusers(FLUX, tokens=4096)[2].mu == pytest.approx(1.15)
    with pytest.raises(InvalidRequest, match=r"^use_dynamic_shifting: found True; allowed is false where"):
        from_diffusers(FLUX)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("_class_name", {"_class_name": "KDPM2DiscreteScheduler"}),
        ("_class_name", {"_class_name": None}),
        ("_class_name", {"_class_name": ["DDIMScheduler"]}),
        ("thresholding", {"thresholding": True}),
        ("variance_type", {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}),
        ("variance_type", {"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}),
        ("skip_prk_steps", {"_class_name": "PNDMScheduler", "skip_prk_steps": False}),
        ("use_beta_sigmas", {"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}),
        ("timestep_type", {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}),
        ("interpolation_type", {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}),
        ("solver_order", {"_class_name": "UniPCMultistepScheduler", "solver_order": 3}),
        ("predict_x0", {"_class_name": "UniPCMultistepScheduler", "predict_x0": False}),
        ("lower_order_final", {"_class_name": "UniPCMultistepScheduler", "lower_order_final": False}),
        ("disable_corrector", {"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]}),
        ("algorithm_type", {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}),
        ("solver_type", {"_class_name": "DPMSolverMultistepScheduler", "solver_type": "heun"}),
        ("lambda_min_clipped", {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1}),
        ("use_lu_lambdas", {"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}),
        ("shift_terminal", {**FLUX, "shift_terminal": 0.1}),
        ("time_shift_type", {**FLUX, "time_shift_type": "linear"}),
        ("invert_sigmas", {**FLUX, "invert_sigmas": True}),
        ("prediction_type", {"prediction_type": "score"}),
        ("prediction_type", {"prediction_type": "flow_prediction"}),
        ("use_karras_sigmas",
         {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "use_karras_sigmas": True}),
        ("prediction_type", {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}),
        ("beta_schedule", {"beta_schedule": "sigmoid"}),
        ("beta_start", {"beta_start": "small"}),
        ("beta_end", {"beta_end": math.nan}),
        ("num_train_timesteps", {"num_train_timesteps": None}),
        ("num_train_timesteps", {"num_train_timesteps": 10.5}),
        ("trained_betas", {"trained_betas": "none"}),
        ("spacing", {"timestep_spacing": ["leading"]}),
        ("steps_offset", {"steps_offset": "1"}),
        ("shift", {**FLUX, "use_dynamic_shifting": False, "shift": -1.0}),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(field: str, change: dict[str, Any]) -> None:
    config = {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"} | change
    if "use_flow_sigmas" in change or "FlowMatch" in str(config["_class_name"]):
        config["prediction_type"] = "epsilon" if field == "prediction_type" else "flow_prediction"
    with pytest.raises(InvalidRequest, match=rf"^{field}: found .*; allowed is "):
        from_diffusers(config, tokens=300)
