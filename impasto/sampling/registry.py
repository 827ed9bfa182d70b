"""The samplers by name: where each goes, what it takes and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from impasto.sampling import grid
from impasto.sampling.course import Call, Course
from impasto.sampling.ddpm import ddim, ddpm, lcm, plms
from impasto.sampling.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_sde
from impasto.sampling.euler import euler, euler_a, flow_euler, heun
from impasto.sampling.options import SamplerOptions
from impasto.sampling.schedule import NoiseSchedule
from impasto.sampling.unipc import unipc

DIFFUSION = ("epsilon", "v", "sample")


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A sampler, and how it wants to be planned."""

    calls: Callable[[Course], list[Call]]
    grid: Callable[[NoiseSchedule, int, SamplerOptions], grid.Levels]
    takes: frozenset[str] = frozenset()
    """The options it takes with a variance-preserving schedule."""
    takes_of_flow: frozenset[str] = frozenset()
    """The options it takes with a flow."""
    predictions: tuple[str, ...] = DIFFUSION
    spacing: str = "linspace"
    """Where the options name none."""
    exploding: bool = False
    """Whether its state is x/alpha, so that a model input is alpha times the state."""

    def taken(self, schedule: NoiseSchedule) -> frozenset[str]:
        """The options it takes with that schedule."""
        return self.takes_of_flow if schedule.is_flow else self.takes

    def most_steps(self, schedule: NoiseSchedule, options: SamplerOptions) -> int:
        """The largest step count."""
        train = schedule.train_steps
        if self.grid is grid.distilled:
            return min(options.original_steps, train)
        return train - 1 if self.grid in (grid.multistep, grid.unipc) else train


SPACED = frozenset({"spacing", "steps_offset"})
CURVED = SPACED | {"sigmas"}
SHIFTED = frozenset({"shift", "mu"})
TWO_M = frozenset({"lower_order_final", "euler_at_final"})
ANY = (*DIFFUSION, "flow")


def _two_m(calls: Callable[[Course], list[Call]]) -> Sampler:
    return Sampler(calls, grid.multistep, CURVED | TWO_M | {"final_sigma"}, TWO_M | SHIFTED, ANY)


REGISTRY = {
    "ddpm": Sampler(ddpm, grid.discrete, SPACED | {"variance", "clip"}, spacing="leading"),
    "ddim": Sampler(ddim, grid.discrete, SPACED | {"eta", "clip", "set_alpha_to_one"}, spacing="leading"),
    "euler": Sampler(euler, grid.exploding, CURVED | {"final_sigma"}, exploding=True),
    "euler_a": Sampler(euler_a, grid.exploding, SPACED, exploding=True),
    "heun": Sampler(heun, grid.exploding, CURVED | {"clip"}, exploding=True),
    "dpmpp_2m": _two_m(dpmpp_2m),
    "dpmpp_2m_sde": _two_m(dpmpp_2m_sde),
    "dpmpp_sde": Sampler(dpmpp_sde, grid.exploding, CURVED, exploding=True),
    "unipc": Sampler(unipc, grid.unipc, CURVED | {"final_sigma", "solver"}, SHIFTED | {"solver"}, ANY),
    "plms": Sampler(
        plms, grid.repeated, SPACED | {"set_alpha_to_one"}, predictions=("epsilon", "v"), spacing="leading"
    ),
    "lcm": Sampler(lcm, grid.distilled, frozenset({"original_steps", "timestep_scaling", "clip"})),
    "flow_euler": Sampler(
        flow_euler, grid.flow, takes_of_flow=SHIFTED | {"spacing", "sigmas", "stochastic"}, predictions=("flow",)
    ),
}
