"""What a diffusion model was trained with: how much noise at which timestep, and what it predicts.

variance-preserving: x_t = √ᾱ_t·x₀ + √(1 − ᾱ_t)·n,  ᾱ_t = ∏ (1 − β_i), i ≤ t         (Ho et al. 2020)
flow:                x_σ = (1 − σ)·x₀ + σ·n                                             (Lipman et al. 2023)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from impasto.errors import InvalidRequest

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v", "sample", "flow")
MAX_TRAIN_STEPS = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class NoiseLevel:
    """A point of the schedule: x = alpha·x₀ + sigma·n, where the model is told `timestep`."""

    timestep: float
    alpha: float
    sigma: float

    @classmethod
    def of_ratio(cls, timestep: float, ratio: float) -> NoiseLevel:
        """The variance-preserving level whose sigma/alpha is `ratio`."""
        alpha = 1.0 / math.sqrt(ratio**2 + 1.0)
        return cls(timestep, alpha, ratio * alpha)

    @property
    def ratio(self) -> float:
        """sigma/alpha, which the variance-exploding samplers call sigma: their state is x/alpha."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """λ = ln(alpha/sigma); infinity without noise."""
        return math.log(self.alpha / self.sigma) if self.sigma > 0.0 else math.inf

    def image(self, prediction: str) -> tuple[float, float]:
        """p and q of x₀ = p·x + q·m for a model output m of that prediction type."""
        a, s = self.alpha, self.sigma
        match prediction:
            case "epsilon":
                return 1.0 / a, -s / a
            case "v":
                return a, -s
            case "flow":
                return 1.0, -s
            case _:
                return 0.0, 1.0

    def noise(self, prediction: str) -> tuple[float, float]:
        """p and q of n = p·x + q·m for a model output m of that prediction type."""
        a, s = self.alpha, self.sigma
        match prediction:
            case "epsilon":
                return 0.0, 1.0
            case "v":
                return s, a
            case "flow":
                return 1.0, a
            case _:
                return 1.0 / s, -a / s


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The training schedule and the prediction type. InvalidRequest names what is off.

    prediction: what the model's output is: "epsilon" (n), "v" (alpha·n − sigma·x₀, Salimans & Ho 2022), "sample" (x₀)
        or "flow" (n − x₀).
    train_steps: timesteps of the training, T.
    alphas_cumprod: ᾱ [T], float64; empty for a flow model, where σ = t/T.
    beta_schedule: name of the schedule of β, if it has one.
    """

    prediction: str
    train_steps: int
    alphas_cumprod: NDArray[np.float64]
    beta_schedule: str | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise InvalidRequest("prediction", self.prediction, _listed(PREDICTIONS))
        if not 1 <= self.train_steps <= MAX_TRAIN_STEPS:
            raise InvalidRequest("train_steps", self.train_steps, f"1 to {MAX_TRAIN_STEPS}")
        alphas, wanted = self.alphas_cumprod, 0 if self.is_flow else self.train_steps
        if alphas.shape != (wanted,):
            raise InvalidRequest("alphas_cumprod", alphas.shape, f"shape [{wanted}] with prediction {self.prediction}")
        falling = wanted == 0 or (alphas[0] < 1.0 and alphas[-1] >= 0.0 and bool(np.all(np.diff(alphas) < 0.0)))
        if not falling:
            raise InvalidRequest("alphas_cumprod", alphas, "values that fall from below 1 to 0 at the least")
        if self.prediction == "epsilon" and alphas[-1] == 0.0:
            raise InvalidRequest("prediction", "epsilon", "v or sample where the last timestep has no signal")

    @classmethod
    def of_betas(cls, betas: Sequence[float], prediction: str = "epsilon", *, zero_snr: bool = False) -> NoiseSchedule:
        """From the variance β that each timestep adds, each above 0 and below 1.

        `zero_snr` takes all signal from the last timestep (Lin et al. 2023, "Common Diffusion Noise Schedules and
        Sample Steps Are Flawed", algorithm 1).
        """
        # In float32 up to here, as models are trained and as diffusers has them: 1 − β₀ alone is off by 3·10⁻⁴ of β₀.
        values = np.asarray(betas, np.float32)
        if values.ndim != 1 or not 0 < len(values) <= MAX_TRAIN_STEPS or not np.all((values > 0) & (values < 1)):
            raise InvalidRequest("betas", betas, f"1 to {MAX_TRAIN_STEPS} values above 0 and below 1")
        alphas: NDArray[np.float32] = np.float32(1) - values
        if zero_snr:
            alphas = _without_last_signal(alphas)
        return cls(prediction, len(values), _products(alphas).astype(np.float64))

    @classmethod
    def of_beta_schedule(
        cls,
        name: str = "linear",
        start: float = 0.0001,
        end: float = 0.02,
        train_steps: int = 1000,
        prediction: str = "epsilon",
        *,
        zero_snr: bool = False,
    ) -> NoiseSchedule:
        """From a schedule of β by the name that diffusers gives it.

        "linear": from `start` to `end`. "scaled_linear": their square roots are (Rombach et al. 2022).
        "squaredcos_cap_v2": ᾱ follows a squared cosine (Nichol & Dhariwal 2021), without `start` and `end`.
        """
        if name not in BETAS:
            raise InvalidRequest("beta_schedule", name, _listed(BETAS))
        if not 1 <= train_steps <= MAX_TRAIN_STEPS:
            raise InvalidRequest("train_steps", train_steps, f"1 to {MAX_TRAIN_STEPS}")
        if not 0.0 < start <= end < 1.0:
            raise InvalidRequest("beta_start and beta_end", (start, end), "0 < start ≤ end < 1")
        if name == "linear":
            betas = np.linspace(start, end, train_steps)
        elif name == "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, train_steps) ** 2
        else:
            t = np.arange(train_steps + 1) / train_steps
            signal = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1.0 - signal[1:] / signal[:-1], 0.999)
        schedule = cls.of_betas(betas.tolist(), prediction, zero_snr=zero_snr)
        return dataclasses.replace(schedule, beta_schedule=name)

    @classmethod
    def of_flow(cls, train_steps: int = 1000) -> NoiseSchedule:
        """A flow model's: the timestep it is told is σ·train_steps."""
        return cls("flow", train_steps, np.empty(0))

    @property
    def is_flow(self) -> bool:
        """Whether x goes straight from image to noise."""
        return self.prediction == "flow"

    def level(self, timestep: int) -> NoiseLevel:
        """The variance-preserving noise level at a timestep, 0 to T − 1."""
        alphas_cumprod = float(self.alphas_cumprod[timestep])
        return NoiseLevel(float(timestep), math.sqrt(alphas_cumprod), math.sqrt(1.0 - alphas_cumprod))

    def ratios(self) -> NDArray[np.float32]:
        """√((1 − ᾱ)/ᾱ) [T], rising; where there is no signal, ᾱ counts as 2⁻²⁴, as it does in diffusers."""
        # In float32, since diffusers cuts timesteps to whole ones by what the logarithms of these differ by.
        signal = np.where(self.alphas_cumprod > 0.0, self.alphas_cumprod, 2.0**-24).astype(np.float32)
        ratios: NDArray[np.float32] = np.sqrt((np.float32(1) - signal) / signal)
        return ratios


def _products(alphas: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def _without_last_signal(alphas: NDArray[np.float32]) -> NDArray[np.float32]:
    root = np.sqrt(_products(alphas))
    first, last = root[0], root[-1]
    signal = ((root - last) * (first / (first - last))) ** 2
    return np.concatenate([signal[:1], signal[1:] / signal[:-1]])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
