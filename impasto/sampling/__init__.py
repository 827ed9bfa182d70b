"""Diffusion samplers as tables of rows: schedules, samplers, and the step that a row describes. No torch."""

from impasto.sampling.configuration import from_diffusers
from impasto.sampling.options import SamplerOptions
from impasto.sampling.planning import SAMPLERS, Plan, options_for, plan
from impasto.sampling.schedule import NoiseLevel, NoiseSchedule

__all__ = ["SAMPLERS", "NoiseLevel", "NoiseSchedule", "Plan", "SamplerOptions", "from_diffusers", "options_for", "plan"]
