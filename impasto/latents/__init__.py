"""Ways through a model's latent space: interpolation, walks, sheets of styles and of truncation. Needs numpy alone.

from impasto.latents import Space, through

space = Space.of_inputs(generator.engine.manifest.inputs, seed=0)
keys = [space.of_seed(seed) for seed in (1, 2, 3)]
for point in through(keys, frames=120, closed=True):
    [picture] = generator.generate(**space.parameters([point]))
"""

from impasto.latents.interpolation import INTERPOLATIONS, Interpolation, linear, spherical
from impasto.latents.sheets import Make, mixing_sheet, truncation_sheet
from impasto.latents.space import Space
from impasto.latents.walk import drawn_seeds, smooth, through

__all__ = [
    "INTERPOLATIONS",
    "Interpolation",
    "Make",
    "Space",
    "drawn_seeds",
    "linear",
    "mixing_sheet",
    "smooth",
    "spherical",
    "through",
    "truncation_sheet",
]
