"""The times of kernels on one card, as `python -m benchmarks.gpu` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Card:
    """A GPU by name; the rest of what its driver told is kept as it was."""

    name: str
    driver_version: str = ""


@dataclass(frozen=True)
class Floor:
    """What the card was seen to do: bytes/s copied, float16 operations/s multiplied, ms of a graph of nothing."""

    copied: Positive
    multiplied: Positive
    smallest: Positive

    @property
    def ridge(self) -> float:
        """Operations a byte from which on the products, and no more the memory, are the limit."""
        return self.multiplied / self.copied


@dataclass(frozen=True)
class KernelTime:
    """The median time of one form of a kernel at one shape, beside the least that the card's floor allows.

    `routed` says whether it is the form in use there; `ratios` how many times as long rivals take. The shares of the
    card's copy and product rates are missing in rows that add up others.
    """

    kernel: str
    form: str
    shape: str
    batch: int
    dtype: str
    ms: Positive
    floor_ms: Share
    routed: bool = True
    share_of_copy: Share | None = None
    share_of_product: Share | None = None
    ratios: Mapping[str, Share] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What the same work has in another file."""
        return self.kernel, self.shape, self.batch, self.dtype

    @property
    def share_of_floor(self) -> float:
        """The part of its time that no kernel could save on that card."""
        return self.floor_ms / self.ms

    def rate(self, floor: Floor) -> float:
        """Operations/s."""
        return (self.share_of_product or 0.0) * floor.multiplied

    def intensity(self, floor: Floor) -> float:
        """Operations for each byte that must be moved; 0 where the benchmark counts none."""
        moved = (self.share_of_copy or 0.0) * floor.copied
        return self.rate(floor) / moved if moved else 0.0


@dataclass(frozen=True)
class KernelFile:
    """One run of the benchmark of kernels on one card. `machine` holds at least the commit."""

    gpu: Card
    floor: Floor
    rows: tuple[KernelTime, ...]
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        """The commit that was measured."""
        return str(self.machine.get("commit", ""))

    @property
    def routed(self) -> dict[tuple[str, str, int, str], KernelTime]:
        """The forms in use, by the work that they do."""
        return {row.key: row for row in self.rows if row.routed}
