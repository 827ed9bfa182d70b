"""What goes into a sampler and what comes out of it."""

from __future__ import annotations

import dataclasses

from impasto.kernels.sampler_row import Row
from impasto.sampling.options import SamplerOptions
from impasto.sampling.schedule import NoiseLevel, NoiseSchedule


@dataclasses.dataclass(frozen=True)
class Course:
    """The noise levels that a sampler goes through, and what else its coefficients depend on."""

    schedule: NoiseSchedule
    options: SamplerOptions
    steps: int
    """Steps that were asked for; an image-to-image request starts later and has fewer levels."""
    levels: tuple[NoiseLevel, ...]
    """Falling, from that of the start to that of the result."""

    def image(self, level: NoiseLevel) -> dict[str, float]:
        """The row's cells that make y₀ the predicted image x₀ of a variance-preserving or flow state."""
        state, output = level.image(self.schedule.prediction)
        return {"convert_state": state, "convert_output": output}

    def image_of_exploding(self, level: NoiseLevel) -> dict[str, float]:
        """The same of a variance-exploding state x/alpha."""
        state, output = level.image(self.schedule.prediction)
        return {"convert_state": state * level.alpha, "convert_output": output}


@dataclasses.dataclass(frozen=True)
class Call:
    """One model call: the noise level that it is made at, and the row that follows it, less `head` and `input`."""

    level: NoiseLevel
    row: Row
