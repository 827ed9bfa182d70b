"""The families that one file each describes: `impasto/generators/NAME.py` with its `FAMILY`, and a line here.

The line says which engine runs them; serving reads it, and not the file, which needs torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from impasto.generators.family import Family

EngineKind = Literal["latent", "image_to_image"]

FAMILIES: Mapping[str, EngineKind] = {
    "gan": "latent",
    "residual": "image_to_image",
    "spade": "image_to_image",
    "vae": "latent",
    "vq": "latent",
}


def family_of(name: str) -> Family:
    """What the family's file says of it. `name` is one of FAMILIES."""
    family: Family = importlib.import_module(f"impasto.generators.{name}").FAMILY
    return family
