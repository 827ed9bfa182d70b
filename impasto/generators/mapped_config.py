"""The hyperparameters that all generators with a mapping network have."""

from __future__ import annotations

from typing import Protocol


class MappedConfig(Protocol):
    """z [z_dim], and of a conditional generator c [c_dim], become num_ws rows of w [w_dim], then a picture."""

    @property
    def resolution(self) -> int: ...

    @property
    def img_channels(self) -> int: ...

    @property
    def z_dim(self) -> int: ...

    @property
    def w_dim(self) -> int: ...

    @property
    def c_dim(self) -> int: ...

    @property
    def num_ws(self) -> int: ...

    @property
    def mapping_layers(self) -> int: ...

    @property
    def mapping_lr_multiplier(self) -> float: ...
