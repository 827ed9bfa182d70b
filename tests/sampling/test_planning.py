from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impasto.errors import InvalidRequest
from impasto.kernels.sampler_row import HISTORY, Place, place_table, table
from impasto.sampling import SAMPLERS, NoiseSchedule, Plan, SamplerOptions, options_for, plan
from impasto.sampling.step import Slots, step
from tests.sampling.walks import IMAGE, SIZE, Array, noise

DETERMINISTIC = ("ddim", "euler", "heun", "dpmpp_2m", "unipc", "flow_euler")
TO_IMAGE = (*DETERMINISTIC, "ddpm", "euler_a", "dpmpp_2m_sde", "dpmpp_sde", "lcm")
"""Samplers whose last call gives the image that the model predicts there."""


def _schedule(prediction: str = "epsilon") -> NoiseSchedule:
    if prediction == "flow":
        return NoiseSchedule.of_flow()
    return NoiseSchedule.of_beta_schedule("scaled_linear", 0.00085, 0.012, 1000, prediction)


def _predictions(sampler: str) -> tuple[str, ...]:
    flow = ("flow",) if sampler in ("dpmpp_2m", "dpmpp_2m_sde", "unipc", "flow_euler") else ()
    rest = () if sampler == "flow_euler" else ("epsilon", "v") if sampler == "plms" else ("epsilon", "v", "sample")
    return (*rest, *flow)


def _walk(walk: Plan, image: Array | None = None) -> list[Array]:
    """The latent at the start and after each call, of a model that knows the image, or guesses one from the latent."""
    slots = Slots.empty(1, (SIZE,))
    slots.latent[0] = walk.noise_scale * noise(-1) + walk.image_scale * IMAGE
    latents, unused = [slots.latent[0].copy()], np.empty_like(slots.latent)
    for call, (row, (p, q)) in enumerate(zip(walk.rows, walk.denoised, strict=True)):
        state = slots.latent[0].astype(np.float64)
        output = (((np.tanh(0.3 * state) if image is None else image) - p * state) / q).astype(np.float32)
        step(slots, table([row]), place_table([Place(0)]), output[None], unused, noise=noise(call)[None])
        latents.append(slots.latent[0].copy())
    return latents


_cases = st.sampled_from([(name, prediction) for name in TO_IMAGE for prediction in _predictions(name)])


@settings(max_examples=150)
@given(_cases, st.integers(1, 50), st.floats(0.05, 1.0))
def test_model_that_knows_the_image_is_led_to_it(case: tuple[str, str], steps: int, strength: float) -> None:
    sampler, prediction = case
    strength = min(max(strength, 1.01 / steps), 1.0)
    walk = plan(sampler, _schedule(prediction), steps, strength=strength)
    np.testing.assert_allclose(_walk(walk, IMAGE)[-1], IMAGE, rtol=0, atol=2e-5)


@settings(max_examples=150)
@given(_cases.filter(lambda case: case[0] in DETERMINISTIC), st.integers(2, 50), st.floats(0.1, 0.9))
def test_levels_say_how_much_image_and_noise_a_latent_has(case: tuple[str, str], steps: int, strength: float) -> None:
    sampler, prediction = case
    strength = min(max(strength, 1.01 / steps), 1.0)
    walk = plan(sampler, _schedule(prediction), steps, strength=strength)
    for latent, (image_part, noise_part) in zip(_walk(walk, IMAGE)[1:], walk.levels, strict=True):
        expected = image_part * IMAGE + noise_part * noise(-1)
        np.testing.assert_allclose(latent, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


@settings(max_examples=60)
@given(st.sampled_from(sorted(set(TO_IMAGE) - {"flow_euler"})), st.integers(1, 50), st.floats(0.1, 1.0))
def test_prediction_type_makes_no_difference_to_the_picture(sampler: str, steps: int, strength: float) -> None:
    strength = min(max(strength, 1.01 / steps), 1.0)
    kinds = [kind for kind in _predictions(sampler) if kind != "flow"]
    first, *others = [_walk(plan(sampler, _schedule(kind), steps, strength=strength)) for kind in kinds]
    assert others
    for other in others:
        for found, expected in zip(other, first, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@settings(max_examples=100)
@given(st.sampled_from(SAMPLERS), st.integers(1, 50), st.floats(0.1, 1.0))
def test_every_plan_is_whole(sampler: str, steps: int, strength: float) -> None:
    strength = min(max(strength, 1.01 / steps), 1.0)
    walk = plan(sampler, _schedule(_predictions(sampler)[-1]), steps, strength=strength)
    assert walk.calls == len(walk.rows) == len(walk.timesteps) == len(walk.levels) == len(walk.denoised)
    cells = np.array([dataclasses.astuple(dataclasses.replace(row, clamp=0.0)) for row in walk.rows])
    assert np.isfinite(cells).all()
    pushed = np.cumsum([0, *(row.push for row in walk.rows)])[:-1]
    assert [row.head for row in walk.rows] == [count % HISTORY for count in pushed]
    assert all(0.0 < row.input <= 1.0 for row in walk.rows)
    assert walk.rows[-1].input == 1.0
    assert walk.levels[-1] == (1.0, 0.0)
    assert walk.rows[-1].noise == 0.0


def test_calls_are_steps_but_for_the_samplers_that_make_two() -> None:
    calls = {name: plan(name, _schedule(_predictions(name)[0]), 10).calls for name in SAMPLERS}
    assert calls == dict.fromkeys(SAMPLERS, 10) | {"heun": 19, "dpmpp_sde": 19, "plms": 11}


def test_input_of_a_row_is_what_the_next_call_wants() -> None:
    walk = plan("euler", _schedule(), 5)
    ratios = [noise_part for _, noise_part in walk.levels[:-1]]
    expected = [1 / math.sqrt(ratio**2 + 1) for ratio in (walk.noise_scale, *ratios)]
    np.testing.assert_allclose([walk.first_input, *(row.input for row in walk.rows[:-1])], expected, rtol=1e-12)


def test_guidance_is_put_on_every_row_and_changes_nothing_else() -> None:
    walk = plan("heun", _schedule(), 4)
    guided = walk.guided(7.5, rescale=0.7)
    assert {(row.guidance, row.rescale) for row in guided.rows} == {(7.5, 0.7)}
    assert guided.guided(1.0) == walk


@pytest.mark.parametrize(
    ("field", "change"),
    [("guidance_scale", {"scale": math.nan}), ("guidance_rescale", {"scale": 2.0, "rescale": 1.5})],
)
def test_guidance_out_of_range_is_named(field: str, change: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}: found"):
        plan("ddim", _schedule(), 2).guided(**change)


@pytest.mark.parametrize(
    ("message", "sampler", "prediction", "steps", "options", "strength"),
    [
        ("sampler: found 'k_lms'; allowed is ddpm, ddim, ", "k_lms", "epsilon", 4, {}, 1.0),
        ("sampler: found 'ddim'; allowed is one for a model that predicts flow: dpmpp_2m", "ddim", "flow", 4, {}, 1.0),
        (
            "sampler: found 'flow_euler'; allowed is one for a model that predicts v: ddpm",
            "flow_euler",
            "v",
            4,
            {},
            1.0,
        ),
        ("sampler: found 'plms'; allowed is one for a model that predicts sample: ddpm", "plms", "sample", 4, {}, 1.0),
        ("steps: found 0; allowed is 1 to 1000 with sampler ddim", "ddim", "epsilon", 0, {}, 1.0),
        ("steps: found 1001; allowed is 1 to 1000 with sampler euler", "euler", "v", 1001, {}, 1.0),
        ("steps: found 1000; allowed is 1 to 999 with sampler unipc", "unipc", "v", 1000, {}, 1.0),
        ("steps: found 51; allowed is 1 to 50 with sampler lcm", "lcm", "v", 51, {}, 1.0),
        ("strength: found 0.0; allowed is above 0, up to 1", "ddim", "v", 4, {}, 0.0),
        ("strength: found nan; allowed is above 0", "ddim", "v", 4, {}, math.nan),
        ("strength: found 0.2; allowed is at least 0.25 with 4 steps", "ddim", "v", 4, {}, 0.2),
        ("eta: found 0.5; allowed is to leave it out: sampler euler", "euler", "v", 4, {"eta": 0.5}, 1.0),
        ("clip: found 1.0; allowed is to leave it out", "dpmpp_2m", "v", 4, {"clip": 1.0}, 1.0),
        ("shift: found 3.0; allowed is to leave it out", "dpmpp_2m", "v", 4, {"shift": 3.0}, 1.0),
        ("sigmas: found 'karras'; allowed is to leave it out", "unipc", "flow", 4, {"sigmas": "karras"}, 1.0),
        ("spacing: found 'leading'; allowed is linspace", "flow_euler", "flow", 4, {"spacing": "leading"}, 1.0),
        ("steps_offset: found 9; allowed is up to 0 with 1000", "ddim", "v", 1000, {"steps_offset": 9}, 1.0),
    ],
)
def test_what_cannot_be_planned_is_named(
    message: str, sampler: str, prediction: str, steps: int, options: dict[str, object], strength: float
) -> None:
    settings = SamplerOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as error:
        plan(sampler, _schedule(prediction), steps, settings, strength=strength)
    assert str(error.value).startswith(message)


def test_plms_needs_some_signal_at_the_last_timestep() -> None:
    schedule = NoiseSchedule.of_beta_schedule(prediction="v", zero_snr=True)
    with pytest.raises(InvalidRequest, match=r"^sampler: found 'plms'; allowed is another where"):
        plan("plms", schedule, 4)


def test_lcm_cannot_have_been_distilled_from_more_steps_than_the_model_has() -> None:
    with pytest.raises(InvalidRequest, match=r"^original_steps: found 1001; allowed is up to the model's 1000"):
        plan("lcm", _schedule(), 4, SamplerOptions(original_steps=1001))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spacing", "even"),
        ("sigmas", "beta"),
        ("final_sigma", "last"),
        ("variance", "learned_range"),
        ("solver", "bh3"),
        ("steps_offset", -1),
        ("eta", 1.5),
        ("eta", math.nan),
        ("clip", 0.0),
        ("original_steps", 0),
        ("timestep_scaling", math.inf),
        ("shift", 0.0),
        ("mu", 4.1),
    ],
)
def test_option_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}: found"):
        SamplerOptions(**{field: value})  # type: ignore[arg-type]


def test_options_for_a_sampler_are_those_it_takes() -> None:
    options = SamplerOptions(spacing="leading", steps_offset=1, eta=0.5, clip=2.0, set_alpha_to_one=False)
    assert options_for("euler", options) == SamplerOptions(spacing="leading", steps_offset=1)
    assert options_for("ddim", options) == options
    with pytest.raises(InvalidRequest, match=r"^sampler: found"):
        options_for("none", options)


def test_trailing_never_asks_for_a_timestep_before_the_first() -> None:
    for steps in range(1, 251):
        timesteps = plan("ddim", _schedule(), steps, SamplerOptions(spacing="trailing")).timesteps
        assert len(timesteps) == steps
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0


def test_sampling_needs_no_torch() -> None:
    script = "import sys, impasto.sampling, impasto.sampling.step; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
