"""The settings of a sampler."""

from __future__ import annotations

import dataclasses
import math

from impasto.errors import InvalidRequest


@dataclasses.dataclass(frozen=True)
class SamplerOptions:
    """How a sampler walks through a schedule, in the terms of diffusers. InvalidRequest names a setting that is off.

    No sampler takes all of them: `plan` refuses what its sampler does not take, `options_for` leaves it out.

    spacing: "leading", "linspace" or "trailing" timesteps (Lin et al. 2023, table 2); None: the sampler's own.
        Of flow_euler: "linspace" from σ = 1 to 1/T, "trailing" from 1 to 1/steps.
    steps_offset: added to the timesteps of leading spacing.
    sigmas: "interpolated" at the timesteps, "karras" (Karras et al. 2022, eq. 5, ρ = 7) or "exponential".
    final_sigma: "zero", or "sigma_min": the least of the training.
    set_alpha_to_one: whether the last step of ddim and plms ends without any noise; None: the sampler's own.
    eta: noise of ddim, from 0 (none) to 1 (that of ddpm).
    variance: of ddpm: "fixed_small" or "fixed_large".
    clip: the predicted image is limited to ±clip; infinity: not at all.
    lower_order_final: whether dpmpp_2m takes a first-order last step when there are fewer than 15 steps.
    euler_at_final: whether it always does.
    solver: of unipc: "bh2", or "bh1" (Zhao et al. 2023, section 3.1).
    original_steps: of lcm: steps of the distillation's teacher.
    timestep_scaling: of lcm: how fast its boundary condition leaves t = 0.
    shift: of a flow's σ: σ ← shift·σ/(1 + (shift − 1)·σ) (Esser et al. 2024, eq. 23).
    mu: of a flow's σ, in place of shift: σ ← e^mu/(e^mu + 1/σ − 1).
    stochastic: whether flow_euler draws new noise at every step.
    """

    spacing: str | None = None
    steps_offset: int = 0
    sigmas: str = "interpolated"
    final_sigma: str = "zero"
    set_alpha_to_one: bool | None = None
    eta: float = 0.0
    variance: str = "fixed_small"
    clip: float = math.inf
    lower_order_final: bool = True
    euler_at_final: bool = False
    solver: str = "bh2"
    original_steps: int = 50
    timestep_scaling: float = 10.0
    shift: float = 1.0
    mu: float | None = None
    stochastic: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InvalidRequest(name, getattr(self, name), ", ".join(filter(None, allowed)))
        if self.steps_offset < 0:
            raise InvalidRequest("steps_offset", self.steps_offset, "0 and up")
        if not 0.0 <= self.eta <= 1.0:
            raise InvalidRequest("eta", self.eta, "0 to 1")
        if not self.clip > 0.0:
            raise InvalidRequest("clip", self.clip, "above 0, infinity for none")
        if self.original_steps < 1:
            raise InvalidRequest("original_steps", self.original_steps, "at least 1")
        if not 0.0 < self.timestep_scaling < math.inf:
            raise InvalidRequest("timestep_scaling", self.timestep_scaling, "above 0, finite")
        if not 0.01 <= self.shift <= 100.0:
            raise InvalidRequest("shift", self.shift, "0.01 to 100")
        if self.mu is not None and not -4.0 <= self.mu <= 4.0:
            raise InvalidRequest("mu", self.mu, "-4 to 4")
        if self.mu is not None and self.shift != 1.0:
            raise InvalidRequest("shift", self.shift, "1 where mu is given")

    def changed(self) -> tuple[str, ...]:
        """Names of the settings that differ from their defaults."""
        return tuple(field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default)

    def only(self, names: frozenset[str]) -> SamplerOptions:
        """These settings with those that are not named at their defaults."""
        return SamplerOptions(**{name: getattr(self, name) for name in names})


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "spacing": ("leading", "linspace", "trailing", None),
    "sigmas": ("interpolated", "karras", "exponential"),
    "final_sigma": ("zero", "sigma_min"),
    "variance": ("fixed_small", "fixed_large"),
    "solver": ("bh2", "bh1"),
}
