from __future__ import annotations

import numpy as np
import pytest

from impasto.errors import InvalidRequest
from impasto.sampling import NoiseLevel, NoiseSchedule
from tests.sampling.walks import scheduler_of


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_schedule_is_that_of_diffusers(name: str, zero_snr: bool) -> None:
    prediction = "v" if zero_snr else "epsilon"
    found = NoiseSchedule.of_beta_schedule(name, 0.00085, 0.012, 1000, prediction, zero_snr=zero_snr)
    scheduler = scheduler_of(
        "DDIMScheduler", beta_schedule=name, beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=zero_snr
    )
    expected = scheduler.alphas_cumprod.double().numpy()
    # Next to the last one a schedule without last signal is a difference of nearly equal float32 values.
    np.testing.assert_allclose(found.alphas_cumprod, expected, rtol=1e-6, atol=1e-9)
    assert found.alphas_cumprod.dtype == np.float64
    assert found.beta_schedule == name
    assert (found.alphas_cumprod[-1] == 0.0) == zero_snr


def test_schedule_of_given_betas_multiplies_what_they_leave() -> None:
    schedule = NoiseSchedule.of_betas([0.5, 0.25, 0.5])
    np.testing.assert_array_equal(schedule.alphas_cumprod, [0.5, 0.375, 0.1875])
    assert (schedule.train_steps, schedule.beta_schedule) == (3, None)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_image_and_noise_come_back_from_every_prediction(prediction: str) -> None:
    level = NoiseSchedule.of_beta_schedule("squaredcos_cap_v2").level(700)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1.0)
    image, noise = 0.3, -1.7
    output = {"epsilon": noise, "v": level.alpha * noise - level.sigma * image, "sample": image}[prediction]
    _assert_comes_back(level, prediction, image, noise, output)


def test_image_and_noise_come_back_from_a_flow() -> None:
    _assert_comes_back(NoiseLevel(800.0, 0.2, 0.8), "flow", 0.3, -1.7, -1.7 - 0.3)


def _assert_comes_back(level: NoiseLevel, prediction: str, image: float, noise: float, output: float) -> None:
    x = level.alpha * image + level.sigma * noise
    (p, q), (r, s) = level.image(prediction), level.noise(prediction)
    assert p * x + q * output == pytest.approx(image)
    assert r * x + s * output == pytest.approx(noise)


def test_level_of_a_ratio_has_it() -> None:
    level = NoiseLevel.of_ratio(5.0, 14.6)
    assert level.ratio == pytest.approx(14.6)
    assert level.log_snr == pytest.approx(-np.log(14.6))
    assert NoiseLevel.of_ratio(0.0, 0.0).log_snr == np.inf


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("beta_schedule", lambda: NoiseSchedule.of_beta_schedule("sigmoid")),
        ("train_steps", lambda: NoiseSchedule.of_beta_schedule(train_steps=0)),
        ("train_steps", lambda: NoiseSchedule.of_beta_schedule(train_steps=10**9)),
        ("train_steps", lambda: NoiseSchedule.of_flow(0)),
        ("beta_start and beta_end", lambda: NoiseSchedule.of_beta_schedule(start=0.02, end=0.01)),
        ("betas", lambda: NoiseSchedule.of_betas([])),
        ("betas", lambda: NoiseSchedule.of_betas([0.1, 1.0])),
        ("betas", lambda: NoiseSchedule.of_betas([0.1, float("nan")])),
        ("prediction", lambda: NoiseSchedule.of_betas([0.1], "score")),
        ("prediction", lambda: NoiseSchedule.of_beta_schedule(zero_snr=True)),
        ("alphas_cumprod", lambda: NoiseSchedule("flow", 2, np.array([0.9, 0.8]))),
        ("alphas_cumprod", lambda: NoiseSchedule("v", 2, np.array([0.8, 0.9]))),
    ],
)
def test_what_is_no_schedule_is_named(field: str, make: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}: found .*; allowed is "):
        make()  # type: ignore[operator]
